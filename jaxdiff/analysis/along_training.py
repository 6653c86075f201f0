"""Two models of one seed along training: at equal held-out loss, and early against late. No JAX."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxdiff.analysis.contrasts import Reading, find_share, logit_share, mean_gate
from jaxdiff.estimates import bounded_logit
from jaxdiff.results import CellResult

EARLY = 0.25  # of the optimizer steps, the checkpoint that the end is compared with


class Checkpoint(NamedTuple):
    """What a model shows at one checkpoint.

    Parameters
    ----------
    step
        Optimizer steps.
    log_loss
        Logarithm of the mean eps loss of unseen images.
    reading
        Of its samples.
    """

    step: int
    log_loss: float
    reading: Reading


def trajectory(cell: CellResult) -> list[Checkpoint]:
    """The checkpoints that have samples and a loss, in order; the last one has all samples."""
    losses = {
        loss.labels["step"]: float(loss)
        for loss in cell.estimates("checkpoints", "eps_loss", images="unseen")
        if loss.value
    }
    share = find_share(cell)
    if not losses or share is None:
        return []
    form = share.labels["share_form"]
    last = max(losses)
    checkpoints = []
    for step in sorted(losses):
        log_loss = math.log(losses[step])
        if step == last:
            reading = Reading(logit_share(cell), mean_gate([cell]))
            checkpoints.append(Checkpoint(step, log_loss, reading))
            continue
        early_share = cell.find("checkpoints", form, step=step)
        gate = cell.find("checkpoints", "gate", step=step)
        if early_share is None or early_share.n is None or gate is None:
            continue
        reading = Reading(bounded_logit(float(early_share), early_share.n), float(gate))
        checkpoints.append(Checkpoint(step, log_loss, reading))
    return checkpoints


def read_at_equal_loss(shallow: CellResult, deep: CellResult) -> tuple[Reading, Reading] | None:
    """Both models at the smallest held-out loss that both reach.

    That is the final loss of the one that ends higher. The other is read between the two
    checkpoints where its loss first falls to it, linearly in the logarithm of the loss.

    Returns
    -------
    readings
        Of the shallow and the deep model; None where no checkpoint of the better model has a
        loss so high, or one of them has no checkpoints.
    """
    trajectories = [trajectory(shallow), trajectory(deep)]
    if not all(trajectories):
        return None
    target = max(checkpoints[-1].log_loss for checkpoints in trajectories)
    readings = [_read_at(checkpoints, target) for checkpoints in trajectories]
    a, b = readings
    return None if a is None or b is None else (a, b)


def _read_at(checkpoints: Sequence[Checkpoint], log_loss: float) -> Reading | None:
    """What a model shows where its loss first falls to this one."""
    if checkpoints[-1].log_loss == log_loss:
        return checkpoints[-1].reading
    for before, after in pairwise(checkpoints):
        if before.log_loss > log_loss >= after.log_loss:
            weight = (before.log_loss - log_loss) / (before.log_loss - after.log_loss)
            return Reading(
                *(
                    (1 - weight) * start + weight * end
                    for start, end in zip(before.reading, after.reading, strict=True)
                )
            )
    return None


def change_by_training(cell: CellResult) -> float | None:
    """The logit share at the end less that at a quarter of training; None without the latter."""
    checkpoints = trajectory(cell)
    if not checkpoints:
        return None
    early_step = EARLY * checkpoints[-1].step
    early = next((c for c in checkpoints if c.step == early_step), None)
    if early is None:
        return None
    return checkpoints[-1].reading.logit_share - early.reading.logit_share
