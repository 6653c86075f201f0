"""Theorem 1 on probed models: does the norm of the Hessian fall from level to level, or with depth?

Premise and conclusion are tested separately. Norms are compared raw and multiplied by the level's
total variance, and every comparison of trained networks has one of the same networks with random
weights beside it: what holds there too is not learned. Intervals are over points of the networks
that were probed, and say nothing of networks of another seed. No JAX.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxdiff.analysis.probed_models import (
    Norms,
    ProbedModel,
    Quantity,
    Site,
    find_contractions,
    find_level_norms,
    find_pixel_norms,
    group_cells,
)
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellResult

WEIGHTS = ("trained", "random")
RAW = "raw"
TIMES_VARIANCE = "x total variance"
OVER_POINTS = "points, given these networks"  # what intervals are over

Kind = Literal["level with level", "bottleneck with bottleneck", "level 0 with level 0"]


@dataclasses.dataclass(frozen=True)
class DecreaseTest:
    """The claim that a norm decreases, at points of one model or of two.

    Parameters
    ----------
    refuted
        Whether some point does not decrease: the theorem is universal.
    share
        Share of the decided points that decrease; None where no point is decided.
    undecided
        Points at which the errors leave it open.
    log_ratio
        Mean of log(after / before) over the points, negative where norms decrease.
    """

    refuted: bool
    share: Estimate | None
    undecided: int
    log_ratio: Estimate

    def to_row(self) -> dict[str, Any]:
        """The columns of a table."""
        share = self.share or Estimate.undefined()
        ratio = self.log_ratio
        has_decided_points = self.undecided < (ratio.n or 0)
        return {
            "refuted": self.refuted,
            "share": share.value,
            "low": share.low,
            "high": share.high,
            "n": ratio.n,
            "undecided": self.undecided,
            "log_ratio": ratio.value,
            "log_low": math.nan if ratio.low is None else ratio.low,
            "log_high": math.nan if ratio.high is None else ratio.high,
            "interval": ratio.method,
            "verdict": name_verdict(ratio, has_decided_points),
        }


def name_verdict(log_ratio: Estimate, has_decided_points: bool) -> str:
    """The verdict on the norms of two sites in words, at the points of given networks.

    "no difference seen" where the interval of the log ratio contains 0, or where the errors of
    the norms leave every point undecided; otherwise whether the norm is smaller or larger after.
    """
    if log_ratio.low is None or log_ratio.high is None:
        return "no interval"
    if not has_decided_points or log_ratio.low <= 0 <= log_ratio.high:
        return "no difference seen"
    return "smaller" if log_ratio.high < 0 else "larger"


def compare_pointwise(before: Norms, after: Norms) -> Int[np.ndarray, " points"]:
    """At each point 1 where the norm decreases beyond the errors, -1 where not, 0 if undecided."""
    # An error is a bound or a standard error: the intervals must not overlap.
    error = before.errors + after.errors
    decreases = after.values < before.values - error
    does_not = after.values >= before.values + error
    return np.where(decreases, 1, np.where(does_not, -1, 0))


def check_decrease(before: Norms, after: Norms) -> DecreaseTest:
    """Test Theorem 1's claim after < before at paired points.

    Parameters
    ----------
    before, after
        Positive norms at the same points.

    Returns
    -------
    test
        With Wilson's interval of the share and the t interval of the log ratio.

    Raises
    ------
    ValueError
        Where a norm is not positive and finite.
    """
    values = np.stack([before.values, after.values])
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(
            f"norms must be positive to be compared, got {values.min():g} to {values.max():g}"
        )
    changes = compare_pointwise(before, after)
    decreases = int((changes > 0).sum())
    increases = int((changes < 0).sum())
    decided = decreases + increases
    log_ratios = np.log(after.values / before.values)
    return DecreaseTest(
        refuted=increases > 0,
        share=Estimate.proportion(decreases, decided) if decided else None,
        undecided=len(changes) - decided,
        log_ratio=Estimate.mean(log_ratios.tolist(), OVER_POINTS),
    )


class SitePair(NamedTuple):
    """Two levels of one network, or of two, that are compared at the same points."""

    kind: Kind
    model: str
    before: Site
    after: Site


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One norm before and after, at the same points.

    Parameters
    ----------
    sites
        Where the norms were measured.
    quantity, scale
        Which norm, and whether it is multiplied by the total variance.
    before, after
        The norms.
    premise
        The points where the theorem's premise holds; None where the theorem does not speak of
        this norm. It speaks of E o phi^-1 as it is: not of a decoder, a memory or a scaled norm.
    """

    sites: SitePair
    quantity: Quantity
    scale: str
    before: Norms
    after: Norms
    premise: Bool[np.ndarray, " points"] | None = None

    @property
    def changes(self) -> Int[np.ndarray, " points"]:
        """At each point 1, -1 or 0, of `compare_pointwise`."""
        return compare_pointwise(self.before, self.after)

    def to_row(self) -> dict[str, Any] | None:
        """The verdict over the points; None where no two norms can be compared."""
        # False for nan as well, where a norm is undefined.
        mask = (self.before.values > 0) & (self.after.values > 0)
        if not mask.any():
            return None
        before = Norms(self.before.values[mask], self.before.errors[mask])
        after = Norms(self.after.values[mask], self.after.errors[mask])
        row = {
            "comparison": self.sites.kind,
            "model": self.sites.model,
            "weights": self.sites.before.weights,
            "t": self.sites.before.t,
            "from": self.sites.before.level,
            "to": self.sites.after.level,
            "reading": self.quantity.reading,
            "form": self.quantity.form,
            "scale": self.scale,
            "premise": None if self.premise is None else float(self.premise.mean()),
            **check_decrease(before, after).to_row(),
        }
        if self.premise is None:
            return row | {"refuted": None}
        # Only a point where the premise holds can refute the theorem; where a norm is nan, its
        # change is 0, undecided.
        return row | {"refuted": bool(np.any(self.premise & (self.changes < 0)))}


def compare_models(models: Sequence[ProbedModel]) -> Iterator[Comparison]:
    """Every comparison: levels within a model, and the shallowest model with each deeper one."""
    for model in models:
        yield from compare_levels(model)
    for model in models[1:]:
        yield from compare_depths(models[0], model)


def compare_levels(model: ProbedModel) -> Iterator[Comparison]:
    """Level with level in one model, as the theorem compares them."""
    neighbors = list(itertools.pairwise(model.label_values("level")))
    networks = itertools.product(WEIGHTS, model.label_values("t"))
    for (weights, t), (lower, upper) in itertools.product(networks, neighbors):
        before = Site(model, weights, t, lower)
        after = Site(model, weights, t, upper)
        # Only there are both norms along the same directions: between deeper levels each is along
        # its own level's, and a larger one is no counterexample.
        is_first_step = (lower, upper) == (0, 1)
        premise = find_contractions(after) if is_first_step else None
        sites = SitePair("level with level", model.name, before, after)
        yield from compare_sites(sites, find_level_norms, premise)


def compare_depths(shallow: ProbedModel, deep: ProbedModel) -> Iterator[Comparison]:
    """Bottleneck with bottleneck, and level 0 with level 0, of two models."""
    name = f"{shallow.name} -> {deep.name}"
    for weights, t in itertools.product(WEIGHTS, deep.label_values("t")):
        # The bottleneck is the level whose number is the depth.
        before = Site(shallow, weights, t, shallow.depth)
        after = Site(deep, weights, t, deep.depth)
        bottlenecks = SitePair("bottleneck with bottleneck", name, before, after)
        yield from compare_sites(bottlenecks, find_level_norms)
        pixels = SitePair(
            "level 0 with level 0", name, before._replace(level=0), after._replace(level=0)
        )
        yield from compare_sites(pixels, find_pixel_norms)


def compare_sites(
    sites: SitePair,
    find_norms: Callable[[Site], dict[Quantity, Norms]],
    premise: Bool[np.ndarray, " points"] | None = None,
) -> Iterator[Comparison]:
    """Every norm that both sites have, on every scale that it has.

    A Hessian of E in z has units of 1 / z^2, so it is compared raw and multiplied by the total
    variance. A memory's energy is itself in units of z^2 and its Hessian has none: its two scales
    are its two taus.
    """
    norms_before = find_norms(sites.before)
    norms_after = find_norms(sites.after)
    for quantity, before in norms_before.items():
        if quantity not in norms_after:
            continue
        after = norms_after[quantity]
        is_theorem = quantity.reading == "pull-back"
        yield Comparison(sites, quantity, RAW, before, after, premise if is_theorem else None)
        if quantity.reading in ("pull-back", "decoder"):
            before = before.scaled(sites.before.total_variance)
            after = after.scaled(sites.after.total_variance)
            yield Comparison(sites, quantity, TIMES_VARIANCE, before, after)


def verdict_rows(models: Sequence[ProbedModel]) -> list[dict[str, Any]]:
    """The table of verdicts: a row for each comparison, in a fixed order."""
    columns = ("comparison", "model", "weights", "reading", "form", "scale", "t", "from")
    rows = [row for row in (pair.to_row() for pair in compare_models(models)) if row is not None]
    return sorted(rows, key=lambda row: [row[column] for column in columns])


def compare_cells(cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """A study's verdicts: every model with the shallowest one of the same data and seed."""
    rows = []
    for group, models in group_cells(cells).items():
        for row in verdict_rows(models):
            if row["comparison"] != "level with level":
                rows.append({"data": group, **row})
    return rows


def curvature_rows(models: Sequence[ProbedModel]) -> list[dict[str, Any]]:
    """The table of all readings: a row for each, with quantiles over the points."""
    rows = []
    for model in models:
        about = {"model": model.name, "depth": model.depth, "bottleneck, px": model.bottleneck}
        for reading in model.readings:
            estimate = reading.summarize()
            rows.append({**about, **estimate.labels, **estimate.to_json()})
    return rows
