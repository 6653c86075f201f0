"""Finished cells of studies as the points and times that scaling laws are fitted to. No JAX."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdiff.analysis.queries import format_proportions
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellInfo, CellResult, read_study
from jaxdiff.scaling.amplification import Course, find_courses
from jaxdiff.scaling.memorization_time import EventTime
from jaxdiff.scaling.points import LossPoint, count_distinct
from jaxdiff.scaling.times import GENERATION, MEMORIZATION, find_times


class RateChoice(NamedTuple):
    """The learning rate of least loss of one size and length of training.

    Parameters
    ----------
    model
        The chosen model.
    flops, images
        Its F and D.
    best
        The rate.
    tried
        All rates, ascending.
    """

    model: str
    flops: float
    images: float
    best: float
    tried: tuple[float, ...]

    @property
    def is_inside(self) -> bool:
        """Whether smaller and larger rates were tried."""
        return self.tried[0] < self.best < self.tried[-1]


@dataclasses.dataclass(frozen=True)
class ScalingCells:
    """What the cells of a scaling study give.

    Parameters
    ----------
    study
        The studies' names.
    settings
        study.json of the first.
    names, points
        The cells that are fitted, and the loss of each.
    held_out
        The number of unseen images that the losses are of.
    majorities
        The classes that have the majority in some cell.
    times
        When their runs began to memorize, by the rule's name; empty where nothing of what a rule
        reads was measured.
    generation
        When their runs began to draw as well as they ever do; empty where that was not measured.
    courses
        Losses and shares along training; empty where no samples were looked at along it.
    rates
        The learning rates that were chosen, where there was a choice.
    other_rates, without_loss, diverged
        Names of the cells that are not fitted: of another learning rate than the best, without a
        held-out loss, and those whose training ended at a loss that was not finite.
    """

    study: str
    settings: Mapping[str, Any]
    names: tuple[str, ...]
    points: tuple[LossPoint, ...]
    held_out: int
    majorities: tuple[int, ...] = ()
    times: Mapping[str, tuple[EventTime, ...]] = dataclasses.field(default_factory=dict)
    generation: tuple[EventTime, ...] = ()
    courses: tuple[Course, ...] = ()
    rates: tuple[RateChoice, ...] = ()
    other_rates: tuple[str, ...] = ()
    without_loss: tuple[str, ...] = ()
    diverged: tuple[str, ...] = ()


def read_scaling_cells(workdirs: Sequence[epath.PathLike]) -> ScalingCells:
    """Read the finished cells of one or several studies.

    Raises
    ------
    ValueError
        Where a folder has no finished cell, no cell has a held-out loss, cells cannot be compared,
        or all are of one size.
    """
    studies = [read_study(workdir) for workdir in workdirs]
    for workdir, study in zip(workdirs, studies, strict=True):
        if study.sets:
            raise ValueError(
                f"a scaling study must have trained models, and {workdir} holds sets of images; "
                "give folders of experiments.sweep"
            )
    cells = [cell for study in studies for cell in study.cells]
    measured = [cell for cell in cells if _find_loss(cell) is not None]
    if not measured:
        raise ValueError(
            f"no cell of {', '.join(map(str, workdirs))} has a held-out loss; set "
            "config.measures.held_out to a number of unseen images, as 512, and run the sweep "
            "again, which keeps the training"
        )
    check_comparable(measured)
    diverged = [info for study in studies for info in study.diverged]
    chosen, rates = choose_rates(measured, diverged)
    # By identity: cells hold arrays, by which they cannot be compared.
    kept = set(map(id, chosen))
    return ScalingCells(
        study=", ".join(dict.fromkeys(study.settings["name"] for study in studies)),
        settings=studies[0].settings,
        names=tuple(cell.name for cell in chosen),
        points=tuple(map(to_point, chosen)),
        held_out=_require_loss(chosen[0]).n or 0,
        majorities=tuple(sorted({cell.info.majority for cell in chosen})),
        times={rule.name: tuple(find_times(chosen, rule)) for rule in MEMORIZATION},
        generation=tuple(find_times(chosen, GENERATION)),
        courses=tuple(find_courses(chosen)),
        rates=tuple(rates),
        other_rates=tuple(cell.name for cell in measured if id(cell) not in kept),
        without_loss=tuple(cell.name for cell in cells if _find_loss(cell) is None),
        diverged=tuple(info.name for info in diverged),
    )


def check_comparable(cells: Sequence[CellResult]) -> None:
    """Check that cells differ in size, length, number of images, rate, seed and role alone.

    Raises
    ------
    ValueError
        Naming what two of them do not have in common, or that there is one size alone.
    """
    for what, read in COMMON:
        by_value: dict[Any, str] = {}
        for cell in cells:
            by_value.setdefault(read(cell), cell.name)
        if len(by_value) > 1:
            (a, first), (b, second) = list(by_value.items())[:2]
            raise ValueError(
                f"the cells of a scaling fit must have the same {what}, got {a} in {first} and "
                f"{b} in {second}; give the folders of one kind alone"
            )
    for cell in cells:
        if not cell.info.flops:
            raise ValueError(
                f"a size must be known in FLOP, and {cell.name}, of an older version, has none; "
                "run its sweep again, which keeps the training"
            )
    if count_distinct([cell.info.flops for cell in cells]) == 1:
        raise ValueError(
            f"a scaling study needs models of several sizes, got one, {cells[0].info.flops:.4g} "
            "FLOP an image; set config.axes.width"
        )
    _check_different(cells)


def _check_different(cells: Sequence[CellResult]) -> None:
    names: dict[tuple, str] = {}
    for cell in cells:
        key = (*_size_and_length(cell.info), cell.info.learning_rate, cell.info.seed)
        if key in names:
            raise ValueError(
                "the cells of a scaling fit must differ in depth, size, length, images, learning "
                f"rate or seed, got {names[key]} and {cell.name}, which do not; give one of them "
                "alone"
            )
        names[key] = cell.name


def _size_and_length(info: CellInfo) -> tuple[int, float, int, int]:
    return info.depth, info.flops, info.n, info.images_seen


def _read_data(cell: CellResult) -> str:
    data = cell.config.get("data", {})
    keys = ("size", "channels", "attribute", "group", "others", "others_share")
    return f"{cell.info.data}, {_join(data, keys)}"


def _read_mix(cell: CellResult) -> str:
    info = cell.info
    shares = format_proportions(info.proportions)
    first, second = sorted((info.majority, info.minority))  # either may have the majority
    return f"{shares} of the classes {first} and {second}"


def _join(settings: Mapping[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {settings[key]}" for key in keys if key in settings)


# Settings of a training that change its result, beside its length, its rate and its batch.
TRAINING_KEYS = (
    *("optimizer", "schedule", "warmup", "warmup_steps", "cooldown", "weight_decay", "clip", "ema"),
    *("flip", "dtype", "init"),
)
# What cells of one fit have in common, in words, and where a cell says it.
COMMON: tuple[tuple[str, Callable[[CellResult], Any]], ...] = (
    ("data", _read_data),
    ("mix of classes", _read_mix),
    (
        "schedule of noise and prediction",
        lambda cell: _join(cell.config.get("diffusion", {}), ("schedule", "steps", "prediction")),
    ),
    ("batch", lambda cell: cell.config["train"].get("batch")),
    ("training", lambda cell: _join(cell.config["train"], TRAINING_KEYS)),
    ("number of held-out images", lambda cell: _require_loss(cell).n),
)


def _find_loss(cell: CellResult) -> Estimate | None:
    """The loss over the whole schedule, which comes before those of its bands."""
    return cell.find("held_out_loss", "loss")


def _require_loss(cell: CellResult) -> Estimate:
    loss = _find_loss(cell)
    assert loss is not None
    return loss


def to_point(cell: CellResult) -> LossPoint:
    """The held-out loss of a cell."""
    info = cell.info
    return LossPoint(
        loss=float(_require_loss(cell)),
        flops=info.flops,
        images=float(info.images_seen),
        unique_images=float(info.n),
        depth=info.depth,
        seed=info.seed,
    )


def choose_rates(
    cells: Sequence[CellResult], diverged: Sequence[CellInfo] = ()
) -> tuple[list[CellResult], list[RateChoice]]:
    """The cells of the best learning rate of each size and length, and what was chosen.

    The best rate has the least mean log loss, over the seeds that all rates have. A rate at which
    the training of some seed diverged was tried, and is the best only where there is no other.
    """
    groups: dict[tuple, list[CellResult]] = {}
    for cell in cells:
        groups.setdefault(_size_and_length(cell.info), []).append(cell)
    failed: dict[tuple, set[float]] = {}
    for info in diverged:
        failed.setdefault(_size_and_length(info), set()).add(info.learning_rate)
    chosen = []
    choices = []
    for key, members in groups.items():
        finished = sorted({cell.info.learning_rate for cell in members})
        sound = [rate for rate in finished if rate not in failed.get(key, ())] or finished
        best = _find_best_rate(members, sound)
        of_best = [cell for cell in members if cell.info.learning_rate == best]
        chosen += of_best
        tried = sorted({*finished, *failed.get(key, ())})
        if len(tried) > 1:
            info = of_best[0].info
            choice = RateChoice(info.model, info.flops, float(info.images_seen), best, tuple(tried))
            choices.append(choice)
    return chosen, choices


def _find_best_rate(cells: Sequence[CellResult], rates: Sequence[float]) -> float:
    return min(rates, key=lambda rate: _mean_log_loss(cells, rate, rates))


def _mean_log_loss(cells: Sequence[CellResult], rate: float, rates: Iterable[float]) -> float:
    by_rate = {
        r: {
            cell.info.seed: math.log(float(_require_loss(cell)))
            for cell in cells
            if cell.info.learning_rate == r
        }
        for r in rates
    }
    # Without a seed that all rates have, each rate is judged by its own seeds.
    seeds = set.intersection(*(set(losses) for losses in by_rate.values())) or set(by_rate[rate])
    return float(np.mean([by_rate[rate][seed] for seed in seeds]))
