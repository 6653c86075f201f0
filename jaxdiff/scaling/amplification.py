"""How much models amplify the majority at equal loss: Theorem 2's S and b by depth. No JAX."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import logit

from jaxdiff.analysis.along_training import Checkpoint, read_at, trajectory
from jaxdiff.analysis.cell_lines import MIN_POINTS, fit_both_roles
from jaxdiff.analysis.verdicts import MIN_GATE
from jaxdiff.results import CellResult
from jaxdiff.scaling.points import Answer, Depth, Refused
from jaxdiff.scaling.runs import longest_runs

LOSSES = 3  # at which depths are compared
MIN_CHECKPOINTS = 2  # of which the loss falls from one to the next
MIN_DEPTHS = 2


class Course(NamedTuple):
    """What the samples of one run show along training.

    Parameters
    ----------
    depth
        The model's depth, as a number or a label.
    images
        N: training images.
    majority
        The class that has the majority of them.
    trained
        Logit of the minority's share of them.
    checkpoints
        In the order of training: the loss of unseen images, the minority's logit share among the
        samples, and their gate.
    """

    depth: Depth
    images: float
    majority: int
    trained: float
    checkpoints: tuple[Checkpoint, ...]

    @property
    def has_minority(self) -> bool:
        """Whether both classes are trained, and unequally."""
        return -math.inf < self.trained < 0

    @property
    def log_losses(self) -> list[float]:
        """Logarithms of the losses of unseen images, by checkpoint."""
        return [checkpoint.log_loss for checkpoint in self.checkpoints]


class AtLoss(NamedTuple):
    """logit(generated) = b + S logit(trained) at one loss, of the models of one depth.

    Parameters
    ----------
    loss
        The eps loss of unseen images at which the runs are read.
    depth
        Their depth, as a number or a label.
    class_label
        The class that b is of.
    exponent, offset
        S and b.
    gate
        The mean gate of the runs' samples at that loss, 0 to 1.
    """

    loss: float
    depth: Depth
    class_label: int
    exponent: Answer
    offset: Answer
    gate: float


def find_courses(cells: Sequence[CellResult]) -> list[Course]:
    """The course of each run of which samples were looked at along training."""
    courses = []
    for run in longest_runs(cells):
        info = run.cell.info
        checkpoints = trajectory(run.cell)
        if len(checkpoints) >= MIN_CHECKPOINTS and len(info.proportions) == 2:
            trained = float(logit(info.proportions[1]))
            course = Course(run.depth, float(info.n), info.majority, trained, tuple(checkpoints))
            courses.append(course)
    return courses


def fit_amplification(courses: Sequence[Course]) -> tuple[AtLoss, ...] | Refused:
    """S and b of each depth at a few losses that all runs pass.

    Parameters
    ----------
    courses
        One a run; those of the largest number of training images are compared.

    Returns
    -------
    fits
        By loss, the largest first, and depth. S and b are refused where a depth has fewer than
        three runs of both roles, or where their samples cannot be read. All is refused without
        courses, a minority, two depths with runs of both roles, or a loss that all of them pass.

    References
    ----------
    "Deeper Diffusion Models Amplify Bias", Theorem 2 and Eq. 15, where b = 0.
    """
    if not courses:
        return Refused(
            "no run has losses and shares of samples at two checkpoints; set "
            "config.measures.checkpoints and keep checkpoints along training"
        )
    largest = max(course.images for course in courses)
    compared = [c for c in courses if c.images == largest and c.has_minority]
    if not compared:
        return Refused(
            "S needs a minority among the training images, and the classes have equal shares or "
            "one has none"
        )
    depths = {course.depth for course in compared}
    if len(depths) < MIN_DEPTHS:
        return Refused(f"a comparison needs {MIN_DEPTHS} depths or sizes, and there is one")
    by_depth = _with_both_roles(compared)
    if len(by_depth) < MIN_DEPTHS:
        return Refused(
            f"{len(by_depth)} of {len(depths)} depths or sizes have runs in which either class "
            f"has the majority, and a comparison needs {MIN_DEPTHS}; set config.data.alternate"
        )
    runs = [course for group in by_depth.values() for course in group]
    highest = min(course.log_losses[0] for course in runs)
    lowest = max(min(course.log_losses) for course in runs)
    if lowest >= highest:
        return Refused(
            f"no loss is passed by all {len(runs)} runs: one begins at {math.exp(highest):.4g}, "
            f"and another one does not fall below {math.exp(lowest):.4g}"
        )
    # Not the highest loss, at which one of the runs has only begun.
    log_losses = np.linspace(highest, lowest, LOSSES + 1)[1:]
    return tuple(
        _fit_at(float(log_loss), depth, group)
        for log_loss in log_losses
        for depth, group in by_depth.items()
    )


def _with_both_roles(courses: Sequence[Course]) -> Mapping[Depth, list[Course]]:
    """The courses by depth, without depths at which one class always has the majority."""
    groups: dict[Depth, list[Course]] = {}
    for course in courses:
        groups.setdefault(course.depth, []).append(course)
    return {
        depth: group
        for depth, group in groups.items()
        if len({course.majority for course in group}) > 1
    }


def _fit_at(log_loss: float, depth: Depth, courses: Sequence[Course]) -> AtLoss:
    readings = [read_at(course.checkpoints, log_loss) for course in courses]
    known = [reading for reading in readings if reading is not None]
    assert len(known) == len(courses), "all runs pass the loss"
    gate = float(np.mean([reading.gate for reading in known]))
    majorities = [course.majority for course in courses]
    line = fit_both_roles(
        majorities,
        [course.trained for course in courses],
        [reading.logit_share for reading in known],
        over="seeds, roles blocked",
    )
    exponent: Answer
    offset: Answer
    if line is None:
        reason = f"{len(courses)} runs leave no error; {MIN_POINTS} seeds are needed, of both roles"
        exponent = offset = Refused(reason)
    elif not gate >= MIN_GATE:
        reason = f"the mean gate is {gate:.2f} at this loss, and shares need {MIN_GATE}"
        exponent = offset = Refused(reason)
    else:
        exponent, offset = line
    return AtLoss(math.exp(log_loss), depth, min(majorities), exponent, offset, gate)
