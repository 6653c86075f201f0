"""When a run began to memorize, by three rules, and to generalize. No JAX.

A rule is looked up at the checkpoints: the first one at which it holds ends the time, which lies
between that one and the one before it.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxdiff.results import CellResult
from jaxdiff.scaling.memorization_time import EventTime
from jaxdiff.scaling.points import Depth
from jaxdiff.scaling.runs import longest_runs

GAP_ERRORS = 3  # standard errors by which the paired gap of the loss must exceed 0
GOOD_GATE = 0.9
KID_TOLERANCE = 0.1  # of the size of the best KID along training
MIN_CHECKPOINTS = 2  # with a single one the best KID along training is its own


class Rule(NamedTuple):
    """What ends a time.

    Parameters
    ----------
    name
        What tells it from other rules.
    read
        Whether it holds, by optimizer step; empty where that was not measured.
    missing
        Why there are no times where no run has what the rule reads, in words.
    """

    name: str
    read: Callable[[CellResult], Mapping[int, bool]]
    missing: str


def reach_fraction(cell: CellResult, least: float) -> dict[int, bool]:
    """Whether this fraction of the samples is memorized, by optimizer step."""
    fractions = {
        estimate.labels["step"]: float(estimate)
        for estimate in cell.estimates("checkpoints", "memorized")
        if estimate.value is not None
    }
    # The last checkpoint's samples are looked at by `memorization`, not by `checkpoints`.
    last = cell.find("memorization", "memorized", images="samples")
    if last is not None and last.value is not None:
        fractions[cell.config["train"]["steps"]] = float(last)
    return {step: fraction >= least for step, fraction in fractions.items()}


def exceed_gap(cell: CellResult) -> dict[int, bool]:
    """By optimizer step, whether unseen images have a larger loss than paired training images."""
    losses = cell.losses
    if losses is None or losses.train.shape != losses.unseen.shape:
        return {}
    gaps = losses.paired_gaps
    count = gaps.shape[1]
    if count < 2:
        return {}
    errors = gaps.std(axis=1, ddof=1) / math.sqrt(count)
    exceeds = gaps.mean(axis=1) > GAP_ERRORS * errors
    return dict(zip(losses.steps.tolist(), exceeds.tolist(), strict=True))


def draw_well(cell: CellResult) -> dict[int, bool]:
    """Whether the gate is .9 and KID within 10 % of its best along training, by optimizer step."""
    kids: dict[int, float] = {}
    for estimate in cell.estimates("checkpoints", "kid", against="unseen"):
        if estimate.value is not None:
            kids.setdefault(estimate.labels["step"], float(estimate))
    gates = {
        estimate.labels["step"]: float(estimate)
        for estimate in cell.estimates("checkpoints", "gate")
    }
    last = cell.find("quality", "gate")
    if last is not None:
        gates[cell.config["train"]["steps"]] = float(last)
    steps = sorted(kids.keys() & gates.keys())
    if len(steps) < MIN_CHECKPOINTS:
        return {}
    best = min(kids[step] for step in steps)
    # KID is unbiased, so that its best may lie below 0.
    largest = best + KID_TOLERANCE * abs(best)
    return {step: gates[step] >= GOOD_GATE and kids[step] <= largest for step in steps}


NO_SAMPLES = "no run has memorized fractions of its samples"
MEMORIZATION = (
    Rule("1 % memorized", functools.partial(reach_fraction, least=0.01), NO_SAMPLES),
    Rule("10 % memorized", functools.partial(reach_fraction, least=0.1), NO_SAMPLES),
    Rule(
        "loss gap",
        exceed_gap,
        "no run has the losses of single images at its checkpoints, of as many training as unseen "
        "ones",
    ),
)
GENERATION = Rule(
    "generation",
    draw_well,
    "no run has both the gate and KID of samples at two checkpoints; set "
    "config.measures.checkpoints and keep checkpoints along training",
)


def find_times(cells: Sequence[CellResult], rule: Rule) -> list[EventTime]:
    """The images that each run had seen when a rule first held at a checkpoint.

    Runs of which nothing that the rule reads was measured are left out.
    """
    times = []
    for run in longest_runs(cells):
        readings = rule.read(run.cell)
        if not readings:
            continue
        after = 0.0
        before = math.inf
        for step, holds in sorted(readings.items()):
            if holds:
                before = run.images_at(step)
                break
            after = run.images_at(step)
        info = run.cell.info
        times.append(EventTime(float(info.n), after, before, run.depth, info.seed))
    return times


class Window(NamedTuple):
    """tau_mem / tau_gen of one run, of which only two ends are known.

    Parameters
    ----------
    images
        N: training images.
    low
        The ratio is at least this; 0 where nothing is known.
    high
        The ratio is at most this; inf where nothing is known.
    depth
        The model's depth, as a number or a label.
    seed
        The seed of the training run.
    """

    images: float
    low: float
    high: float
    depth: Depth
    seed: int

    @property
    def is_bounded(self) -> bool:
        """Whether the checkpoints bound the ratio on either side."""
        return self.low > 0 or math.isfinite(self.high)


def find_windows(
    memorization: Sequence[EventTime], generation: Sequence[EventTime]
) -> list[Window]:
    """The ratio of both times, of each run that has both."""
    generated = {_run_key(time): time for time in generation}
    windows = []
    for time in memorization:
        other = generated.get(_run_key(time))
        if other is not None:
            low, high = _divide(time, other)
            windows.append(Window(time.images, low, high, time.depth, time.seed))
    return windows


def _run_key(time: EventTime) -> tuple[float, Depth, int]:
    return time.images, time.depth, time.seed


def _divide(time: EventTime, other: EventTime) -> tuple[float, float]:
    """The smallest and the largest ratio of two times within their intervals."""
    high = time.before / other.after if other.after else math.inf
    return time.after / other.before, high
