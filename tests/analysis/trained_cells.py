"""Finished cells with made-up checkpoints."""

import dataclasses

from scipy.special import expit

from jaxdiff.estimates import Estimate
from tests.report.small_results import make_cell, make_info

NUM_SAMPLES = 10**9  # so many that a share's logit is not moved by its bound


def make_trained(model, seed, losses, logits, gates=None, lpips=None):
    """A cell with checkpoints at the steps 500, 1000, ... of these losses and logit shares."""
    info = make_info(model, seed)
    if seed % 2:
        info = dataclasses.replace(info, majority=info.minority, minority=info.majority)
    gates = gates or [0.95] * len(losses)
    steps = [500 * (i + 1) for i in range(len(losses))]
    along = []
    for step, loss, value, gate in zip(steps, losses, logits, gates, strict=True):
        along.append(Estimate(loss, n=10, name="eps_loss", labels={"images": "unseen"}))
        along[-1] = along[-1].labeled(step=step)
        if step < steps[-1]:
            share = Estimate(float(expit(value)), n=NUM_SAMPLES, name="forced_choice")
            along += [share.labeled(step=step), Estimate(gate, n=9, name="gate").labeled(step=step)]
    final = Estimate(float(expit(logits[-1])), n=NUM_SAMPLES, name="share")
    sections = {
        "checkpoints": along,
        "quality": [Estimate(gates[-1], n=9, name="gate")],
        "share": [final.labeled(share_form="forced_choice")],
    }
    if lpips is not None:
        sections["lpips"] = [Estimate(lpips, n=9, name="at_training_mix")]
    return make_cell(info, **sections)
