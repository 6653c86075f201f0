"""Both theorems without a trained model: what is computed, as rows of numbers.

Theorem 1's cases, Theorem 2's two laws and Figure 3's grids, and retrieval from labeled points:
the smoothed sampler, hard votes, and the free energy's minima.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int, Key
from scipy.special import expit, logit

from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import wilson
from jaxdiff.landscape import memory, minima, retrieval, theorem1, theorem2
from jaxdiff.landscape.energies import Points

Labels = Int[np.ndarray, " n"]  # 0 for the majority, 1 for the minority

LAW_SHARES = np.arange(0.55, 0.96, 0.05)
LAW_FEATURES = (1.0, 1.5, 2.0, 3.0)  # S of Eq. 15
VOTE_STEPS = (200, 400, 600)  # timesteps t of the queries of Eq. 1
MAX_PURE = 0.1  # weight of the other class above which a sample is a mixture


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaseLevel(theorem1.Level):
    """One level of a case of Theorem 1."""

    case: str
    shows: str  # the step of the proof that the case is about
    premise: bool  # whether it holds for the case, as the next two
    stepwise: bool
    conclusion: bool
    level: int
    exact: float  # |Hess E^(a)| in closed form, beside `hessian` by autodiff


def theorem1_levels() -> list[CaseLevel]:
    """Every level of every case of Theorem 1."""
    rows = []
    for case in theorem1.build_cases():
        levels = theorem1.compute_levels(case)
        premise = theorem1.premise_holds(levels)
        stepwise = theorem1.stepwise_premise_holds(levels)
        conclusion = theorem1.conclusion_holds(levels)
        for i, level in enumerate(levels):
            row = CaseLevel(
                case=case.name,
                shows=case.shows,
                premise=premise,
                stepwise=stepwise,
                conclusion=conclusion,
                level=i,
                exact=case.exact[i],
                **dataclasses.asdict(level),
            )
            rows.append(row)
    return rows


@dataclasses.dataclass(frozen=True)
class GridShare:
    """The majority's share at one level of Figure 3's grids."""

    p: float  # the share that the grids were drawn with
    level: int  # number of votes so far
    simulated: float  # mean over the grids
    standard_error: float
    closed_form: float  # the iterate of theorem2.majority_map
    exponent: float | None  # S of the closed form


def simulate_grids(
    p: float, *, side: int, count: int, rng: np.random.Generator
) -> tuple[list[theorem2.Grid], list[GridShare]]:
    """Figure 3 for one share of the majority.

    Returns one grid of side x side cells with exact counts and its coarser ones, to draw; and the
    majority's share at each level over `count` grids of independent cells.
    """
    proportions = [p, 1 - p]
    grid = theorem2.sample_grids(proportions, side, 1, rng, exact=True)
    drawn = theorem2.coarsen_fully(grid, 2, rng)

    grids = theorem2.sample_grids(proportions, side, count, rng)
    levels = theorem2.coarsen_fully(grids, 2, rng)
    means, errors = theorem2.shares_by_level(levels)
    closed_forms = theorem2.iterates(p, len(levels) - 1)
    rows = []
    for i, closed_form in enumerate(closed_forms):
        # Odds of 1 cannot be raised, and a share of 1 has none.
        is_defined = p != 0.5 and closed_form != 1
        row = GridShare(
            p=p,
            level=i,
            simulated=float(means[i]),
            standard_error=float(errors[i]),
            closed_form=float(closed_form),
            exponent=float(theorem2.exponent(p, closed_form)) if is_defined else None,
        )
        rows.append(row)
    return [level[0] for level in drawn], rows


@dataclasses.dataclass(frozen=True)
class LawShares:
    """Both of Theorem 2's laws at one share."""

    p: float  # the majority's share
    window: float  # its share after the vote of 2 x 2 cells
    window_exponent: float  # the S that this amounts to
    by_features: dict[float, float]  # its share by Eq. 15, for each S


def law_shares() -> list[LawShares]:
    """Theorem 2's two laws, which the paper takes for one, at shares of .55 to .95."""
    rows = []
    for p in LAW_SHARES:
        window = theorem2.majority_map(p)
        by_features = {}
        for features in LAW_FEATURES:
            odds = theorem2.odds(float(p), 1 - float(p), features)
            by_features[features] = odds / (1 + odds)
        exponent = float(theorem2.exponent(p, window))
        rows.append(LawShares(float(p), float(window), exponent, by_features))
    return rows


@dataclasses.dataclass(frozen=True)
class RetrievedShare:
    """The minority's share of what is retrieved."""

    share: float  # by argmax
    low: float  # ends of Wilson's 95 % interval
    high: float
    soft: float  # mean soft label (Eq. 2)
    mixed: float  # share of mixtures: of neither class to 90 %
    n: int  # number of retrieved points


def retrieved_share(soft: Float[np.ndarray, " q"]) -> RetrievedShare:
    """The minority's share, from its weight at each retrieved point; a tie is the majority's."""
    is_minority = soft > 0.5
    is_mixture = (soft > MAX_PURE) & (soft < 1 - MAX_PURE)
    low, high = wilson(int(is_minority.sum()), len(soft))
    return RetrievedShare(
        share=float(is_minority.mean()),
        low=low,
        high=high,
        soft=float(soft.mean()),
        mixed=float(is_mixture.mean()),
        n=len(soft),
    )


def retrieve_smoothed(
    points: Points,
    labels: Labels,
    key: Key[Array, ""],
    *,
    rho: float,
    count: int,
    sampling_steps: int,
) -> tuple[Float[np.ndarray, "q d"], RetrievedShare]:
    """Samples of the smoothed sampler, as `retrieval.sample_smoothed`, and the minority's share."""
    x0, soft = retrieval.sample_smoothed(
        points, labels, Schedule.linear(), rho, key, count=count, sampling_steps=sampling_steps
    )
    return x0, retrieved_share(soft[:, 1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class VoteShare(RetrievedShare):
    """The minority's share by Eq. 1, for noised points at timestep t and k neighbors."""

    t: int
    k: int


def vote_shares(
    points: Points, labels: Labels, *, ks: Sequence[int], count: int, seed: int
) -> list[VoteShare]:
    """Eq. 1's hard vote for `count` noised points of the memory at each of a few noise levels.

    By t, then k; a k above the number of points is left out. A tie counts for the majority.
    """
    rng = np.random.default_rng(seed)
    schedule = Schedule.linear()
    possible_ks = tuple(k for k in ks if k <= len(points))
    rows = []
    for t in VOTE_STEPS:
        # In x_t / s, where the points are the clean ones and the noise is sigma / s.
        s_square = float(schedule.alpha_bar[t])
        indices = rng.integers(0, len(points), count)
        noise = rng.normal(size=(count, points.shape[1]))
        noise = noise * ((1 - s_square) / s_square) ** 0.5
        queries = points[indices] + jnp.asarray(noise, jnp.float32)
        votes = retrieval.hard_votes(queries, points, labels, 2, possible_ks)
        for k, shares in votes.items():
            share = retrieved_share(shares[:, 1])
            rows.append(VoteShare(t=t, k=k, **dataclasses.asdict(share)))
    return rows


@dataclasses.dataclass(frozen=True)
class MinimaCount:
    """The free energy's minima at one tau."""

    tau: float
    times: float  # tau in units of the median squared distance to the nearest point
    minima: int  # how many there are
    merged: int  # how many of them hold several of the smallest tau's
    points_in_merged: float  # share of the points that come to those
    # Means over the merged ones, as in minima.MergedMinimum; None where none is defined.
    purity: float | None
    epsilon: float | None
    depth_before: float | None
    depth_after: float | None
    smallest_before: float | None
    smallest_after: float | None
    gap: float | None


MERGED_MEANS = (
    "purity",
    "epsilon",
    "depth_before",
    "depth_after",
    "smallest_before",
    "smallest_after",
    "gap",
)


def count_minima(
    points: Points, labels: Labels, *, tau_factors: Sequence[float], seed: int
) -> list[MinimaCount]:
    """Minima of the free energy as tau grows, and Definition 1 over those that merged.

    ``tau_factors`` are in units of the median squared distance to the nearest point, ascending.
    Raises ValueError where most points have a copy.
    """
    unit = memory.nearest_scale(points)
    rng = np.random.default_rng(seed)
    rows = []
    for factor in tau_factors:
        tau = factor * unit
        merged = []
        if factor > tau_factors[0]:
            merged = minima.merged_minima(
                points, labels, tau_before=tau_factors[0] * unit, tau_after=tau, rng=rng
            )
        means = {
            name: _finite_mean([getattr(minimum, name) for minimum in merged])
            for name in MERGED_MEANS
        }
        row = MinimaCount(
            tau=tau,
            times=factor,
            minima=len(minima.find_minima(points, tau).centers),
            merged=len(merged),
            points_in_merged=sum(minimum.points for minimum in merged) / len(points),
            **means,
        )
        rows.append(row)
    return rows


def _finite_mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


@dataclasses.dataclass(frozen=True)
class LawFit:
    """logit(generated) = b + S logit(trained) with t intervals, over n memories."""

    n: int
    S: float
    S_low: float
    S_high: float
    b: float
    b_low: float
    b_high: float


def fit_law(
    trained: Float[np.ndarray, " memories"], generated: Float[np.ndarray, " memories"], count: int
) -> LawFit:
    """Fit Theorem 2's law for one class, from its share of each memory and of what it retrieves.

    Least squares weighted by n p (1 - p), with `count` samples behind each generated share.
    Theorem 2 predicts b = 0 and one S; b is what the classes' own shapes do. The memories are
    draws from one pool of images, and the intervals hold for it alone.
    """
    # A share of 0 counts as half a sample.
    smallest = 0.5 / count
    x = logit(np.clip(trained, smallest, 1 - smallest))
    y = logit(np.clip(generated, smallest, 1 - smallest))
    share = expit(y)
    # polyfit's weights multiply residuals, and the variance of a logit is 1 / (n p (1 - p)).
    weights = np.sqrt(count * share * (1 - share))
    (slope, intercept), covariance = np.polyfit(x, y, 1, w=weights, cov=True)
    quantile = scipy.stats.t.ppf(0.975, len(x) - 2)
    slope_half, intercept_half = quantile * np.sqrt(np.diag(covariance))
    return LawFit(
        n=len(x),
        S=float(slope),
        S_low=float(slope - slope_half),
        S_high=float(slope + slope_half),
        b=float(intercept),
        b_low=float(intercept - intercept_half),
        b_high=float(intercept + intercept_half),
    )
