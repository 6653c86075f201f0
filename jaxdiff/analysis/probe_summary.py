"""Counts of decreasing norms over all points of a probe, and its results in one small table."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from jaxdiff.analysis.probed_models import Norms, ProbedModel, Quantity
from jaxdiff.analysis.smoothness import (
    OVER_POINTS,
    Comparison,
    Kind,
    compare_models,
    name_verdict,
)
from jaxdiff.estimates import Estimate

RANKS_DISAGREE = "ranks disagree"
Theorem = Literal["", "premise never holds", "undecided", "refuted", "not refuted"]


@dataclasses.dataclass(frozen=True)
class TheoremCounts:
    """Points of a comparison that Theorem 1 speaks of.

    Parameters
    ----------
    points
        Points at which the premise was measured.
    premise_holds
        Points where it holds.
    decided
        Of these, the points where the norm decreases or does not, beyond its error.
    counterexamples
        Of these, the points where it does not.
    """

    points: int
    premise_holds: int
    decided: int
    counterexamples: int

    @property
    def verdict(self) -> Theorem:
        """What the counts say of the theorem."""
        if not self.premise_holds:
            return "premise never holds"
        if not self.decided:
            return "undecided"
        return "refuted" if self.counterexamples else "not refuted"


@dataclasses.dataclass(frozen=True)
class Tally:
    """How often a norm decreases, over all levels, noise levels and points.

    Parameters
    ----------
    kind, model, quantity, scale, weights
        What is compared.
    decreases, increases, undecided
        Numbers of points.
    log_ratio
        Mean of log(after / before) over the points, each the mean over its levels and noise
        levels; None where it is undefined.
    verdict
        What the ratio says of the points of these networks, if all ranks say the same; empty where
        it is undefined.
    theorem
        Counts of the points that the theorem speaks of; None where it does not.
    """

    kind: Kind
    model: str
    quantity: Quantity
    scale: str
    weights: str
    decreases: int
    increases: int
    undecided: int
    log_ratio: Estimate | None
    verdict: str
    theorem: TheoremCounts | None

    @property
    def decided(self) -> int:
        """Points where the norm decreases or does not, beyond its error."""
        return self.decreases + self.increases

    @property
    def percent(self) -> float | None:
        """Decreases in percent of the decided points."""
        return round(100 * self.decreases / self.decided, 1) if self.decided else None

    @property
    def statistic(self) -> str:
        """What `number` is."""
        return "falls, %" if self.kind == "level with level" else "ratio"

    @property
    def number(self) -> float | None:
        """How often the norm falls from level to level; by what factor two depths differ."""
        if self.kind == "level with level":
            return self.percent
        return self.ratio.value

    @property
    def ratio(self) -> Estimate:
        """The geometric mean of after / before, with its interval."""
        return (self.log_ratio or Estimate.undefined()).map(np.exp)

    def to_row(self) -> dict[str, Any]:
        """The row of tables/in_short.csv."""
        theorem = self.theorem
        log_ratio = self.log_ratio or Estimate.undefined()
        return {
            "comparison": self.kind,
            "model": self.model,
            "reading": self.quantity.reading,
            "form": self.quantity.form,
            "scale": self.scale,
            "weights": self.weights,
            "falls": self.decreases,
            "does not fall": self.increases,
            "undecided": self.undecided,
            "falls, %": self.percent,
            "log ratio": log_ratio.value,
            "log low": log_ratio.low,
            "log high": log_ratio.high,
            "interval": log_ratio.method,
            "verdict": self.verdict,
            "premise holds": None if theorem is None else theorem.premise_holds,
            "of": None if theorem is None else theorem.points,
            "premise holds, decided": None if theorem is None else theorem.decided,
            "premise holds, does not fall": None if theorem is None else theorem.counterexamples,
        }


def tally_decreases(models: Sequence[ProbedModel]) -> list[Tally]:
    """A tally for each comparison, model, reading, scale and weights.

    The ranks of the pull-back must agree at a point, or it counts as undecided.
    """
    groups: dict[tuple[Any, ...], list[Comparison]] = {}
    for comparison in compare_models(models):
        sites = comparison.sites
        quantity = _merge_ranks(comparison.quantity)
        key = (sites.kind, sites.model, quantity, comparison.scale, sites.before.weights)
        groups.setdefault(key, []).append(comparison)
    return [_tally(groups[key]) for key in sorted(groups)]


def _merge_ranks(quantity: Quantity) -> Quantity:
    return Quantity("pull-back") if quantity.reading == "pull-back" else quantity


def _tally(comparisons: Sequence[Comparison]) -> Tally:
    """The tally of comparisons that differ in noise level, level and rank alone."""
    # The ranks of one place are a single observation.
    by_site: dict[tuple[int, int], list[Comparison]] = {}
    for comparison in comparisons:
        before = comparison.sites.before
        by_site.setdefault((before.t, before.level), []).append(comparison)
    changes = [_agreed_changes(forms) for forms in by_site.values()]
    # The premise is of the site, whatever the rank.
    premises = [forms[0].premise for forms in by_site.values()]

    all_changes = np.concatenate(changes)
    decreases = int((all_changes > 0).sum())
    increases = int((all_changes < 0).sum())
    first = comparisons[0]
    return Tally(
        first.sites.kind,
        first.sites.model,
        _merge_ranks(first.quantity),
        first.scale,
        first.sites.before.weights,
        decreases,
        increases,
        undecided=len(all_changes) - decreases - increases,
        log_ratio=_mean_log_ratio(comparisons),
        verdict=_name_agreed_verdict(comparisons),
        theorem=_count_premises(changes, premises),
    )


def _agreed_changes(forms: Sequence[Comparison]) -> np.ndarray:
    """The change at each point on which all forms (ranks) agree, else 0."""
    changes = np.stack([comparison.changes for comparison in forms])
    return np.where(np.all(changes == changes[0], axis=0), changes[0], 0)


def _name_agreed_verdict(comparisons: Sequence[Comparison]) -> str:
    """The verdict of every form (rank), or that they disagree; empty without a ratio."""
    by_form: dict[Quantity, list[Comparison]] = {}
    for comparison in comparisons:
        by_form.setdefault(comparison.quantity, []).append(comparison)
    verdicts = set()
    for form in by_form.values():
        ratio = _mean_log_ratio(form)
        if ratio is not None:
            has_decided_points = any(comparison.changes.any() for comparison in form)
            verdicts.add(name_verdict(ratio, has_decided_points))
    return RANKS_DISAGREE if len(verdicts) > 1 else "".join(verdicts)


def _mean_log_ratio(comparisons: Sequence[Comparison]) -> Estimate | None:
    """The mean over the points; levels, noise levels and ranks repeat a point and are no others."""
    # A norm may be 0 or undefined at single points; their ratios are left out.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = [np.log(pair.after.values / pair.before.values) for pair in comparisons]
    log_ratios = np.stack(ratios)
    is_defined = np.isfinite(log_ratios)
    counts = is_defined.sum(axis=0)
    sums = np.where(is_defined, log_ratios, 0.0).sum(axis=0)
    means = sums[counts > 0] / counts[counts > 0]
    return Estimate.mean(means.tolist(), OVER_POINTS) if len(means) else None


def _count_premises(
    changes: Sequence[np.ndarray], premises: Sequence[np.ndarray | None]
) -> TheoremCounts | None:
    measured = [
        (change, premise)
        for change, premise in zip(changes, premises, strict=True)
        if premise is not None
    ]
    if not measured:
        return None
    change = np.concatenate([change for change, _ in measured])
    premise = np.concatenate([premise for _, premise in measured])
    return TheoremCounts(
        points=len(premise),
        premise_holds=int(premise.sum()),
        decided=int((premise & (change != 0)).sum()),
        counterexamples=int((premise & (change < 0)).sum()),
    )


@dataclasses.dataclass(frozen=True)
class SummaryLine:
    """A statistic of trained networks, beside the same networks with random weights.

    Parameters
    ----------
    comparison
        What is compared, or where one quantity is looked at.
    model, quantity, scale
        Which model, which norm, on which scale.
    statistic
        What the two numbers are.
    trained, random
        The statistic with trained and with random weights; None where it was not measured.
    theorem
        What the trained network says of Theorem 1.
    low, high
        Ends of the interval of `trained`, where it is a ratio of two models.
    verdict
        What that interval says of the two trained networks.
    """

    comparison: str
    model: str
    quantity: str
    scale: str
    statistic: str
    trained: float | None
    random: float | None
    theorem: Theorem = ""
    low: float | None = None
    high: float | None = None
    verdict: str = ""


def summarize(models: Sequence[ProbedModel]) -> list[SummaryLine]:
    """The probe's results: premise, conclusion from level to level, depths compared, |H|.

    Last how far M is from symmetric: its antisymmetric part is of no Hessian.
    """
    tallies = tally_decreases(models)
    levels = [tally for tally in tallies if tally.kind == "level with level"]
    depths = [tally for tally in tallies if tally.kind != "level with level"]
    lines = []
    for model in models:
        # |J| < 1 is the premise of the theorem.
        lines += _summarize_points(
            "premise", model, "|J|", _premise_statistics, reading="maps", name="from_pixels"
        )
    lines += _summarize_tallies(levels)
    lines += _summarize_tallies(depths)
    for model in models:
        # What the theorem speaks of; the largest bounds L of Eqs. 7 and 25 from below.
        lines += _summarize_points(
            "pixels", model, "|H|", _norm_statistics, reading="hessian", name="spectral_norm"
        )
        lines += _summarize_points(
            "pixels",
            model,
            "asymmetry of M",
            _norm_statistics,
            reading="denoiser",
            name="asymmetry",
        )
    return lines


def _summarize_points(
    comparison: str,
    model: ProbedModel,
    quantity: str,
    compute: Callable[[Norms], dict[str, float]],
    **labels: str,
) -> list[SummaryLine]:
    """Statistics of one reading over all levels, noise levels and points of a model."""
    trained = _concatenate(model, weights="trained", **labels)
    random = _concatenate(model, weights="random", **labels)
    of_trained = {} if trained is None else compute(trained)
    of_random = {} if random is None else compute(random)
    return [
        SummaryLine(
            comparison, model.name, quantity, "", name, of_trained.get(name), of_random.get(name)
        )
        for name in of_trained or of_random
    ]


def _norm_statistics(norms: Norms) -> dict[str, float]:
    return {
        "median": float(np.median(norms.values)),
        "90 % quantile": float(np.quantile(norms.values, 0.9)),
        "largest": float(norms.values.max()),
    }


def _premise_statistics(norms: Norms) -> dict[str, float]:
    # As far as the products show: they meet the largest singular value from below.
    contracts = norms.values + norms.errors < 1
    return {"below 1, %": float(100 * contracts.mean()), **_norm_statistics(norms)}


def _concatenate(model: ProbedModel, **labels: str) -> Norms | None:
    """All values of a reading; None where the model has no such reading."""
    norms = [Norms.of(reading) for reading in model.readings if reading.matches(**labels)]
    if not norms:
        return None
    values = np.concatenate([norm.values for norm in norms])
    return Norms(values, np.concatenate([norm.errors for norm in norms]))


def _summarize_tallies(tallies: Sequence[Tally]) -> list[SummaryLine]:
    """A line for all tallies that differ in weights alone; none where there is no number."""
    groups: dict[tuple[str, ...], dict[str, Tally]] = {}
    for tally in tallies:
        key = (tally.kind, tally.model, *tally.quantity, tally.scale)
        groups.setdefault(key, {})[tally.weights] = tally
    lines = []
    for by_weights in groups.values():
        trained = by_weights["trained"]
        random = by_weights.get("random")
        line = SummaryLine(
            trained.kind,
            trained.model,
            str(trained.quantity),
            trained.scale,
            trained.statistic,
            trained.number,
            None if random is None else random.number,
            trained.theorem.verdict if trained.theorem is not None else "",
        )
        if trained.kind != "level with level":
            ratio = trained.ratio
            line = dataclasses.replace(
                line, low=ratio.low, high=ratio.high, verdict=trained.verdict
            )
        if line.theorem or line.trained is not None or line.random is not None:
            lines.append(line)
    return lines
