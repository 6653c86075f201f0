"""Refits of a scaling law to drawn losses, and the intervals that they make. No JAX."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy

from jaxdiff.scaling.loss_law import LossLaw, fit_huber
from jaxdiff.scaling.points import Depth, LossPoint, group_nearly_equal

MIN_SEEDS = 3


@dataclasses.dataclass(frozen=True)
class Draws:
    """Refitted parameters, and how their spread becomes an interval."""

    quantities: np.ndarray
    stretch: float
    n: int
    method: str

    def interval(self, center: float, column: int) -> tuple[float, float]:
        """The 95 % percentile interval, its distance from the center stretched."""
        # By default NumPy's ends are those of 93.8 % of new draws, where there are 150.
        values = self.quantities[:, column]
        low, high = np.quantile(values, (0.025, 0.975), method="weibull")
        return stretch_ends(center, float(low), float(high), self.stretch)


def group_runs(points: Sequence[LossPoint]) -> list[list[list[int]]] | None:
    """The points of each run, by size and depth; None unless each has at least three seeds."""
    sizes = group_nearly_equal(np.array([point.flops for point in points], float))
    models: dict[tuple[int, Depth], dict[int, list[int]]] = {}
    for i, point in enumerate(points):
        runs = models.setdefault((int(sizes[i]), point.depth), {})
        runs.setdefault(point.seed, []).append(i)
    if min(len(runs) for runs in models.values()) < MIN_SEEDS:
        return None
    return [list(runs.values()) for runs in models.values()]


def draw_over_points(
    law: LossLaw, theta: np.ndarray, noise: float, bootstraps: int, rng: np.random.Generator
) -> Draws:
    """Refit normal log losses about the fit, with the residuals' standard deviation.

    The fit follows some of few points exactly, so that resampled residuals are too small. The
    residual degrees of freedom set the standard deviation and stretch the interval.
    """
    n = len(law.images)
    prediction = law.evaluate(theta)[0]
    fits = [
        fit_huber(law, prediction + noise * rng.standard_normal(n), theta)[0]
        for _ in range(bootstraps)
    ]
    dof = n - law.parameters
    return Draws(
        np.array([law.to_quantities(fit) for fit in fits]),
        t_over_normal(dof),
        n,
        f"parametric bootstrap 95 % over points, {dof} degrees of freedom",
    )


def draw_over_seeds(
    law: LossLaw,
    theta: np.ndarray,
    log_loss: np.ndarray,
    models: list[list[list[int]]],
    bootstraps: int,
    rng: np.random.Generator,
) -> Draws:
    """Refit with whole runs drawn again among the seeds of each size and depth.

    k drawn values vary less than k new ones, by (k - 1) / k, which the interval makes good.
    """
    fits = []
    for _ in range(bootstraps):
        weights = np.zeros(len(log_loss))
        for runs in models:
            for drawn in rng.integers(len(runs), size=len(runs)):
                weights[runs[drawn]] += 1
        fits.append(fit_huber(law, log_loss, theta, weights)[0])
    n = sum(len(runs) for runs in models)
    dof = n - len(models)
    # Of unequal numbers of seeds the smallest stretches most, and is taken for all.
    seeds = min(len(runs) for runs in models)
    return Draws(
        np.array([law.to_quantities(fit) for fit in fits]),
        t_over_normal(dof) * math.sqrt(seeds / (seeds - 1)),
        n,
        f"bootstrap 95 % over seeds, {dof} degrees of freedom",
    )


def stretch_ends(center: float, low: float, high: float, stretch: float) -> tuple[float, float]:
    """Ends of an interval, each `stretch` times as far from the center and on its own side."""
    return center - stretch * max(center - low, 0.0), center + stretch * max(high - center, 0.0)


def t_over_normal(dof: float | int) -> float:
    """How much wider Student's 95 % interval is than the normal one."""
    return float(scipy.stats.t.ppf(0.975, dof) / scipy.stats.norm.ppf(0.975))
