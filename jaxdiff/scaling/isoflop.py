"""The best size at given compute, by parabolas. No JAX.

Approach 2 of Hoffmann et al. (2022). A parabola of log L in log F misses the minimum of the true
curve the more, the wider the range of sizes and the less it is centered (arXiv 2603.22339): where
`fit_parametric` disagrees, believe the narrower range.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float

from jaxdiff.estimates import Estimate
from jaxdiff.scaling.points import (
    Answer,
    LossPoint,
    Refused,
    check_points,
    count_distinct,
    group_nearly_equal,
    order_depths,
)
from jaxdiff.scaling.resampling import stretch_ends, t_over_normal

BOOTSTRAPS = 1000
BUDGET_TOLERANCE = 0.05  # points whose 3 F D lie this close, relatively, share a budget
MIN_SIZES = 5  # of a parabola, which three determine
MIN_BUDGETS = 3
BUDGETS = 4
CANDIDATES = 200  # for a budget
MAX_WITHOUT_MINIMUM = 0.05  # share of bootstrap draws that may lack a minimum


@dataclasses.dataclass(frozen=True)
class Budget:
    """The best size at one amount of compute.

    Parameters
    ----------
    compute
        C = 3 F D, in FLOP.
    sizes
        The number of sizes that were compared.
    best_flops
        F_opt, in FLOP a forward pass of an image.
    flops, losses
        What the parabola was fitted to.
    parabola
        Coefficients of 1, x, x^2 in log L, with x = log F minus the mean of `flops`' logarithms.
    """

    compute: float
    sizes: int
    best_flops: Answer
    flops: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    parabola: tuple[float, ...] = ()

    def loss_at(self, flops: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The parabola's loss at other sizes."""
        x = np.log(flops) - np.log(self.flops).mean()
        return np.exp(np.vander(x, 3, increasing=True) @ np.array(self.parabola))


@dataclasses.dataclass(frozen=True)
class IsoflopFit:
    """The best size against compute.

    Parameters
    ----------
    budgets
        By compute.
    exponent
        The slope of log F_opt on log C.
    """

    budgets: tuple[Budget, ...]
    exponent: Answer


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Log losses of one budget: which sizes, and how each is a mean of points' log losses."""

    compute: float
    log_flops: Float[np.ndarray, " sizes"]
    weights: Float[np.ndarray, "sizes points"]

    @property
    def sizes(self) -> int:
        return count_distinct(np.exp(self.log_flops).tolist())

    @property
    def center(self) -> float:
        return float(self.log_flops.mean())

    @property
    def design(self) -> np.ndarray:
        """Columns of the parabola: 1, x, x^2 with x = log F minus its mean."""
        return np.vander(self.log_flops - self.center, 3, increasing=True)

    def fit(self, log_losses: np.ndarray) -> np.ndarray:
        """Coefficients of 1, x, x^2; of each row, in columns."""
        return np.linalg.pinv(self.design) @ log_losses.T

    def find_minimum(self, log_losses: np.ndarray) -> np.ndarray:
        """log F at the minimum of each row's parabola; nan where it has none."""
        _, slope, curvature = self.fit(log_losses)
        has_minimum = curvature > 0
        return np.where(
            has_minimum, self.center - slope / (2 * np.where(has_minimum, curvature, 1)), math.nan
        )

    def describe(self, log_loss: np.ndarray, best_flops: Answer) -> Budget:
        """The budget of this curve, with the log losses of all points."""
        log_losses = self.weights @ log_loss
        return Budget(
            self.compute,
            self.sizes,
            best_flops,
            flops=tuple(np.exp(self.log_flops).tolist()),
            losses=tuple(np.exp(log_losses).tolist()),
            parabola=tuple(self.fit(log_losses).tolist()),
        )

    def why_not(self, minimum: float) -> str:
        """Why this is no minimum within the sampled sizes; empty where it is one."""
        if self.sizes < MIN_SIZES:
            return (
                f"{self.sizes} sizes at {self.compute:.3g} FLOP, and a parabola needs {MIN_SIZES}"
            )
        # Also where there is no minimum: nan lies between no two numbers.
        if not self.log_flops.min() < minimum < self.log_flops.max():
            return f"not bracketed: no minimum within the sizes at {self.compute:.3g} FLOP"
        return ""


def fit_isoflop(
    points: Sequence[LossPoint],
    budgets: Sequence[float] | None = None,
    bootstraps: int = BOOTSTRAPS,
    seed: int = 0,
) -> IsoflopFit:
    """The exponent of the best size in compute.

    Parameters
    ----------
    points
        Held-out losses of models of one depth.
    budgets
        C, in FLOP: the loss of each run is interpolated there, log L linear in log C between its
        two nearest lengths. By default points of nearly equal 3 F D are compared.
    bootstraps
        Draws that the intervals are made of, at least 2.
    seed
        Seed of the draws.

    Returns
    -------
    fit
        Its numbers are refused where a budget has fewer than five sizes or no minimum within
        them, and the exponent where fewer than three budgets have one.

    Raises
    ------
    ValueError
        Without points, with several depths, or where a number is not finite and above 0.
    """
    check_points(points)
    depths = order_depths([point.depth for point in points])
    if len(depths) > 1:
        names = ", ".join(map(str, depths))
        raise ValueError(f"isoFLOP curves need points of one depth, got {names}: fit each alone")
    if bootstraps < 2:
        raise ValueError(f"an interval needs at least 2 bootstraps, got {bootstraps}: give more")
    curves = _group_points(points) if budgets is None else _interpolate(points, budgets)
    log_loss = np.log([point.loss for point in points])
    minima = [float(curve.find_minimum(curve.weights @ log_loss)) for curve in curves]
    reasons = [curve.why_not(value) for curve, value in zip(curves, minima, strict=True)]
    bracketed = [i for i, reason in enumerate(reasons) if not reason]
    draws = _draw_minima([curves[i] for i in bracketed], log_loss, bootstraps, seed)
    answers: list[Answer] = [Refused(reason) for reason in reasons]
    for column, i in enumerate(bracketed):
        best = draws.estimate("best_flops", minima[i], draws.minima[:, column])
        answers[i] = best.map(math.exp) if isinstance(best, Estimate) else best
    rows = zip(curves, answers, strict=True)
    return IsoflopFit(
        tuple(curve.describe(log_loss, answer) for curve, answer in rows),
        _fit_exponent(
            [curves[i].compute for i in bracketed], [minima[i] for i in bracketed], draws
        ),
    )


def choose_budgets(points: Sequence[LossPoint], count: int = BUDGETS) -> list[float] | None:
    """Budgets at which most sizes can be compared, for `fit_isoflop`.

    Parameters
    ----------
    points
        Points of models of one depth.
    count
        The number of budgets.

    Returns
    -------
    budgets
        None where the points themselves share at least three budgets of five sizes. Otherwise
        evenly among those that `MIN_SIZES` sizes have lengths on both sides of; where so many
        never do, those that most do.
    """
    shared = [curve for curve in _group_points(points) if curve.sizes >= MIN_SIZES]
    if len(shared) >= MIN_BUDGETS:
        return None
    sizes = group_nearly_equal(np.array([point.flops for point in points], float))
    compute = np.array([point.compute for point in points])
    runs = [compute[sizes == size] for size in range(sizes.max() + 1)]

    def count_sizes(budgets: np.ndarray) -> np.ndarray:
        return np.sum([(run.min() <= budgets) & (budgets <= run.max()) for run in runs], axis=0)

    counts = count_sizes(compute)
    needed = min(MIN_SIZES, counts.max())
    enough = compute[counts >= needed]
    grid = np.geomspace(enough.min(), enough.max(), CANDIDATES)
    grid = grid[count_sizes(grid) >= needed]
    rows = np.linspace(0, len(grid) - 1, count).round().astype(int)
    return sorted(set(grid[rows].tolist()))


def _group_points(points: Sequence[LossPoint]) -> list[_Curve]:
    """The points of each nearly equal budget."""
    compute = np.array([point.compute for point in points])
    groups = group_nearly_equal(compute, BUDGET_TOLERANCE)
    log_flops = np.log([point.flops for point in points])
    curves = []
    for group in range(groups.max() + 1):
        members = np.flatnonzero(groups == group)
        center = float(np.exp(np.log(compute[members]).mean()))
        curves.append(_Curve(center, log_flops[members], np.eye(len(points))[members]))
    return curves


def _interpolate(points: Sequence[LossPoint], budgets: Sequence[float]) -> list[_Curve]:
    """The losses of each run that reaches the budget, between its two nearest lengths."""
    log_compute = np.log([point.compute for point in points])
    sizes = group_nearly_equal(np.array([point.flops for point in points], float))
    runs: dict[tuple[int, int], list[int]] = {}
    for i in np.argsort(log_compute, kind="stable"):
        runs.setdefault((int(sizes[i]), points[i].seed), []).append(int(i))
    curves = []
    for compute in sorted(budgets):
        if not (math.isfinite(compute) and compute > 0):
            raise ValueError(f"a budget must be finite and above 0, got {compute}: give FLOP")
        rows = []
        log_flops = []
        for run in runs.values():
            places = log_compute[run]
            if not places[0] <= math.log(compute) <= places[-1]:
                continue
            row = np.zeros(len(points))
            # The interpolated loss is linear in the losses: unit vectors give each point's weight.
            row[run] = [np.interp(math.log(compute), places, unit) for unit in np.eye(len(run))]
            rows.append(row)
            log_flops.append(math.log(points[run[0]].flops))
        if rows:
            curves.append(_Curve(float(compute), np.array(log_flops), np.array(rows)))
    return curves


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Drawn minima, one row per draw and one column per budget."""

    minima: np.ndarray
    dof: float

    def estimate(self, name: str, center: float, values: np.ndarray) -> Answer:
        """The percentile interval of drawn values, stretched as t is against normal."""
        without_minimum = float(np.isnan(values).mean())
        if without_minimum > MAX_WITHOUT_MINIMUM:
            return Refused(f"{without_minimum:.0%} of the bootstrap's parabolas have no minimum")
        low, high = np.nanquantile(values, (0.025, 0.975))
        ends = stretch_ends(center, float(low), float(high), t_over_normal(self.dof))
        method = f"parametric bootstrap 95 % over points, {self.dof:.3g} degrees of freedom"
        return Estimate(center, *ends, self.minima.shape[1], method, name=name)


def _draw_minima(
    curves: Sequence[_Curve], log_loss: np.ndarray, bootstraps: int, seed: int
) -> _Draws:
    """The minima of normal log losses about the parabolas.

    The standard deviation s of a point's log loss comes from the parabolas' residuals R = M y,
    with s^2 = |R|^2 / tr(M'M), and Satterthwaite's degrees of freedom, tr(M'M)^2 / tr(M'M M'M).
    Budgets that share points move together.
    """
    if not curves:
        return _Draws(np.empty((bootstraps, 0)), 1.0)
    fitted = []
    residual_maps = []
    for curve in curves:
        projection = curve.design @ np.linalg.pinv(curve.design)
        fitted.append(projection @ curve.weights @ log_loss)
        residual_maps.append(curve.weights - projection @ curve.weights)
    residual_map = np.concatenate(residual_maps)
    # Those of M'M, whose sum and sum of squares are the two traces.
    eigenvalues = scipy.linalg.svdvals(residual_map) ** 2
    noise = float(np.linalg.norm(residual_map @ log_loss)) / math.sqrt(eigenvalues.sum())
    dof = float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())
    rng = np.random.default_rng(seed)
    errors = noise * rng.standard_normal((bootstraps, len(log_loss)))
    minima = [
        curve.find_minimum(center[None] + errors @ curve.weights.T)
        for curve, center in zip(curves, fitted, strict=True)
    ]
    return _Draws(np.column_stack(minima), dof)


def _fit_exponent(computes: Sequence[float], minima: Sequence[float], draws: _Draws) -> Answer:
    """The least-squares slope of log F_opt on log C."""
    if len(computes) < MIN_BUDGETS:
        return Refused(
            f"{len(computes)} budgets have a minimum within their sizes, and a slope needs "
            f"{MIN_BUDGETS}"
        )
    deviations = np.log(computes) - np.log(computes).mean()
    slope = deviations / (deviations @ deviations)
    return draws.estimate("exponent", float(slope @ np.array(minima)), draws.minima @ slope)
