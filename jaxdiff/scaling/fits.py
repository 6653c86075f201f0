"""All fits of a scaling study, as named numbers, and what it cannot show. No JAX."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdiff.estimates import Estimate
from jaxdiff.scaling.amplification import AtLoss, fit_amplification
from jaxdiff.scaling.cells import ScalingCells
from jaxdiff.scaling.isoflop import MIN_SIZES, IsoflopFit, choose_budgets, fit_isoflop
from jaxdiff.scaling.memorization_time import (
    EventTime,
    MemorizationFit,
    fit_memorization_time,
)
from jaxdiff.scaling.parametric import LeftOut, ParametricFit, fit_parametric, predict_left_out
from jaxdiff.scaling.points import Answer, Depth, Refused, count_distinct, order_depths
from jaxdiff.scaling.resampling import MIN_SEEDS, group_runs
from jaxdiff.scaling.times import GENERATION, MEMORIZATION, Rule, Window, find_windows

MIN_HELD_OUT = 500  # images of a loss
LARGEST_EPOCHS = 4  # to which repeated images teach nearly as much (Muennighoff et al. 2023)


class FitNumber(NamedTuple):
    """A number of a fit.

    Parameters
    ----------
    name
        What it is.
    answer
        The number, or why there is none.
    labels
        What else tells it from others of its name, such as its depth.
    """

    name: str
    answer: Answer
    labels: Mapping[str, Any] = {}

    def to_json(self) -> dict[str, Any]:
        """The entry of scaling.json: an estimate's, or the reason under ``refused``."""
        if isinstance(self.answer, Estimate):
            return dataclasses.replace(self.answer, name=self.name, labels=self.labels).to_json()
        return {"name": self.name, **self.labels, "refused": self.answer.refused}


@dataclasses.dataclass(frozen=True)
class ScalingFits:
    """The fits of a scaling study.

    Parameters
    ----------
    cells
        What was fitted.
    law
        L(F, D).
    left_out
        Its prediction of the largest size and of the longest runs.
    isoflop
        By depth: the best sizes, of models of the largest number of training images.
    memorization, generation
        Fits of the times until a run memorizes, by rule, and until it generalizes.
    windows
        The ratio of both times of each run, by rule.
    amplification
        Theorem 2's S and b at equal loss.
    limits
        What the study lacks for conclusions, a sentence each.
    """

    cells: ScalingCells
    law: ParametricFit | Refused
    left_out: tuple[LeftOut | Refused, ...]
    isoflop: Mapping[Depth, IsoflopFit]
    memorization: Mapping[str, MemorizationFit | Refused]
    generation: MemorizationFit | Refused
    windows: Mapping[str, tuple[Window, ...]]
    amplification: tuple[AtLoss, ...] | Refused
    limits: tuple[str, ...]

    def numbers(self) -> dict[str, list[FitNumber]]:
        """All numbers, by fit."""
        return {
            "law": list(_law_numbers(self.law)),
            "left_out": list(_left_out_numbers(self.left_out)),
            "isoflop": list(_isoflop_numbers(self.isoflop)),
            "memorization": [
                number
                for rule, fit in self.memorization.items()
                for number in _time_numbers(fit, {"rule": rule})
            ],
            "generation": list(_time_numbers(self.generation, {})),
            "window": list(_window_numbers(self.windows)),
            "amplification": list(_amplification_numbers(self.amplification)),
        }


def fit_study(cells: ScalingCells) -> ScalingFits:
    """Make all fits; what the points do not determine is refused within."""
    largest = max(point.unique_images for point in cells.points)
    isoflop = {}
    for depth in order_depths([point.depth for point in cells.points]):
        of_depth = [p for p in cells.points if p.depth == depth and p.unique_images == largest]
        if of_depth:
            isoflop[depth] = fit_isoflop(of_depth, choose_budgets(of_depth))
    return ScalingFits(
        cells=cells,
        law=fit_parametric(cells.points),
        left_out=tuple(predict_left_out(cells.points)),
        isoflop=isoflop,
        memorization={
            rule.name: _fit_times(cells.times.get(rule.name, ()), rule, "memorize")
            for rule in MEMORIZATION
        },
        generation=_fit_times(cells.generation, GENERATION, "generalize"),
        windows={
            rule: tuple(find_windows(times, cells.generation))
            for rule, times in cells.times.items()
        },
        amplification=fit_amplification(cells.courses),
        limits=tuple(find_limits(cells)),
    )


def _fit_times(times: Sequence[EventTime], rule: Rule, event: str) -> MemorizationFit | Refused:
    return fit_memorization_time(times, event) if times else Refused(rule.missing)


def find_limits(cells: ScalingCells) -> Iterator[str]:
    """What a study lacks for conclusions, a sentence each."""
    points = cells.points
    if cells.held_out < MIN_HELD_OUT:
        yield f"A loss is of {cells.held_out} unseen images, and needs {MIN_HELD_OUT}."
    if group_runs(points) is None:
        yield (
            f"Some size has fewer than {MIN_SEEDS} seeds, so that intervals are over points, and "
            "those of one run are not independent."
        )
    by_depth: dict[Depth, list[float]] = {}
    for point in points:
        by_depth.setdefault(point.depth, []).append(point.flops)
    sizes = min(map(count_distinct, by_depth.values()))
    if sizes < MIN_SIZES:
        where = " of some depth" if len(by_depth) > 1 else ""
        yield f"There are {sizes} sizes{where}, and a best size at given compute needs {MIN_SIZES}."
    epochs = max(point.images / point.unique_images for point in points)
    if epochs > LARGEST_EPOCHS:
        yield f"Training images are seen up to {epochs:.0f} times, so that the law rests on r."
    if len(cells.majorities) > 1:
        yield (
            "Either class has the majority in some cells, and losses are of images in that mix, so "
            "that seeds differ by more than chance."
        )
    one_rate = {point.flops for point in points} - {choice.flops for choice in cells.rates}
    if one_rate:
        of_sizes = f" for {len(one_rate)} sizes" if cells.rates else ""
        yield (
            f"One learning rate was tried{of_sizes}, which may suit one size or depth better than "
            "another."
        )
    at_ends = [choice for choice in cells.rates if not choice.is_inside]
    if at_ends:
        yield (
            f"The best learning rate is the smallest or the largest tried for {len(at_ends)} of "
            f"{len(cells.rates)} sizes and lengths."
        )


def _law_numbers(law: ParametricFit | Refused) -> Iterator[FitNumber]:
    if isinstance(law, Refused):
        yield FitNumber("law", law)
        return
    yield FitNumber("alpha", law.alpha)
    yield FitNumber("beta", law.beta)
    yield FitNumber("allocation", law.allocation)
    yield FitNumber("irreducible_loss", law.irreducible_loss)
    for depth, coefficient in law.size_coefficients.items():
        yield FitNumber("size_coefficient", coefficient, {"depth": depth})
    yield FitNumber("data_coefficient", law.data_coefficient)
    if law.repeat_scale is not None:
        yield FitNumber("repeat_scale", law.repeat_scale)
    if law.depth_effect is not None:
        yield FitNumber("depth_effect", law.depth_effect)
    yield FitNumber("noise", Estimate(law.noise, n=len(law.points)))


def _left_out_numbers(results: tuple[LeftOut | Refused, ...]) -> Iterator[FitNumber]:
    for result in results:
        if isinstance(result, Refused):
            yield FitNumber("relative_error", result)
        else:
            yield FitNumber("relative_error", result.relative_error, {"left_out": result.what})


def _isoflop_numbers(fits: Mapping[Depth, IsoflopFit]) -> Iterator[FitNumber]:
    for depth, fit in fits.items():
        yield FitNumber("exponent", fit.exponent, {"depth": depth})
        for budget in fit.budgets:
            labels = {"depth": depth, "compute": budget.compute, "sizes": budget.sizes}
            yield FitNumber("best_flops", budget.best_flops, labels)


def _time_numbers(fit: MemorizationFit | Refused, labels: Mapping[str, Any]) -> Iterator[FitNumber]:
    if isinstance(fit, Refused):
        yield FitNumber("kappa", fit, labels)
        return
    yield FitNumber("kappa", fit.kappa, labels)
    for depth, offset in fit.offsets.items():
        answer = offset if isinstance(offset, Refused) else Estimate(offset)
        yield FitNumber("offset", answer, {**labels, "depth": depth})
    if fit.depth_effect is not None and all(isinstance(depth, int) for depth in fit.offsets):
        yield FitNumber("depth_effect", fit.depth_effect, labels)
    yield FitNumber("noise", Estimate(fit.sigma), labels)


def _window_numbers(windows: Mapping[str, Sequence[Window]]) -> Iterator[FitNumber]:
    if not any(windows.values()):
        yield FitNumber("window", Refused("no run has both times"))
    for rule, of_rule in windows.items():
        for window in of_rule:
            labels = {
                "rule": rule, "depth": window.depth, "images": window.images, "seed": window.seed
            }  # fmt: skip
            yield FitNumber("window", _window_answer(window), labels)


def _window_answer(window: Window) -> Answer:
    """The ends that are known; the ratio itself is not."""
    if not window.is_bounded:
        return Refused("the checkpoints bound the ratio on neither side")
    return Estimate(
        None,
        window.low if window.low > 0 else None,
        window.high if math.isfinite(window.high) else None,
        method="between checkpoints",
    )


def _amplification_numbers(fits: tuple[AtLoss, ...] | Refused) -> Iterator[FitNumber]:
    if isinstance(fits, Refused):
        yield FitNumber("exponent", fits)
        return
    for fit in fits:
        labels = {"loss": fit.loss, "depth": fit.depth}
        yield FitNumber("exponent", fit.exponent, labels)
        yield FitNumber("offset", fit.offset, {**labels, "class": fit.class_label})
        yield FitNumber("gate", Estimate(fit.gate), labels)
