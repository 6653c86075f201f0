"""Two models of one seed along training: at equal loss, and early against late. No JAX."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxdiff.analysis.contrasts import SampleReading, find_share, logit_share, mean_gate
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
        Reading of its samples.
    """

    step: int
    log_loss: float
    reading: SampleReading


def trajectory(cell: CellResult) -> list[Checkpoint]:
    """The checkpoints that have samples and a loss, in order; the last one has all samples."""
    losses = {
        loss.labels["step"]: float(loss)
        for loss in cell.estimates("checkpoints", "eps_loss", images="unseen")
        if loss.value
    }
    share = find_share(cell)
    # Older results do not name the form of the share, which early checkpoints have under its name.
    form = None if share is None else share.labels.get("share_form")
    if not losses or form is None:
        return []
    last = max(losses)
    checkpoints = []
    for step in sorted(losses):
        log_loss = math.log(losses[step])
        if step == last:
            reading = SampleReading(logit_share(cell), mean_gate([cell]))
            checkpoints.append(Checkpoint(step, log_loss, reading))
            continue
        early_share = cell.find("checkpoints", form, step=step)
        gate = cell.find("checkpoints", "gate", step=step)
        if early_share is None or early_share.n is None or gate is None:
            continue
        reading = SampleReading(bounded_logit(float(early_share), early_share.n), float(gate))
        checkpoints.append(Checkpoint(step, log_loss, reading))
    return checkpoints


class AtEqualLoss(NamedTuple):
    """Two models where their loss first falls to the smallest one that both reach.

    Parameters
    ----------
    log_loss
        Logarithm of that loss.
    readings
        Readings of the shallow and the deep model.
    """

    log_loss: float
    readings: tuple[SampleReading, SampleReading]


def compare_at_equal_loss(shallow: CellResult, deep: CellResult) -> AtEqualLoss | None:
    """Both models where their loss first falls to the smallest one that both reach.

    Returns
    -------
    comparison
        None where one of them has no checkpoints, or is below that loss from its first checkpoint
        on.
    """
    trajectories = [trajectory(shallow), trajectory(deep)]
    if not all(trajectories):
        return None
    # A model reaches every loss down to its own minimum: both reach the larger of the two.
    target = max(min(c.log_loss for c in checkpoints) for checkpoints in trajectories)
    a, b = (read_at(checkpoints, target) for checkpoints in trajectories)
    return None if a is None or b is None else AtEqualLoss(target, (a, b))


def read_at_equal_loss(
    shallow: CellResult, deep: CellResult
) -> tuple[SampleReading, SampleReading] | None:
    """The readings of `compare_at_equal_loss`."""
    comparison = compare_at_equal_loss(shallow, deep)
    return None if comparison is None else comparison.readings


def read_at(checkpoints: Sequence[Checkpoint], log_loss: float) -> SampleReading | None:
    """What a model shows where its loss first falls to this one.

    Between two checkpoints the logit share and the gate are linear in the logarithm of the loss.

    Returns
    -------
    reading
        None where it begins below that loss or never falls to it.
    """
    first = checkpoints[0]
    if first.log_loss <= log_loss:
        return first.reading if first.log_loss == log_loss else None
    for before, after in pairwise(checkpoints):
        if after.log_loss <= log_loss:
            weight = (before.log_loss - log_loss) / (before.log_loss - after.log_loss)
            ends = zip(before.reading, after.reading, strict=True)
            return SampleReading(*((1 - weight) * start + weight * end for start, end in ends))
    return None


def read_early_and_late(cell: CellResult) -> tuple[SampleReading, SampleReading] | None:
    """What a cell shows at a quarter of its training and at the end; None without the former."""
    checkpoints = trajectory(cell)
    if not checkpoints:
        return None
    early_step = EARLY * checkpoints[-1].step
    early = next((c for c in checkpoints if c.step == early_step), None)
    return None if early is None else (early.reading, checkpoints[-1].reading)
