"""Numbers with their uncertainty. No JAX."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.special import expit, logit

Norms = Float[np.ndarray, " points"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its standard error (0.0 where exact) or a bound on its error, one of them, from n observations."""

    value: float
    standard_error: float | None = None
    bound: float | None = None
    n: int | None = None

    def __float__(self) -> float:
        return float(self.value)


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927), in 0..1. Raises ValueError unless 0 <= successes <= trials, trials > 0."""
    if not 0 <= successes <= trials or trials <= 0:
        raise ValueError(
            f"{successes} successes in {trials} trials is no proportion; 0 <= successes <= trials, trials > 0"
        )
    z = stats.norm.ppf(0.5 + level / 2)
    p, denominator = successes / trials, 1.0 + z * z / trials
    centre = (p + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (0.0 if successes == 0 else centre - half), (
        1.0 if successes == trials else centre + half
    )


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A share corrected for the classifier's errors: the estimate and its interval, all in 0..1."""

    value: float
    low: float
    high: float


def rogan_gladen(
    successes: int,
    trials: int,
    hits: int,
    positives: int,
    correct_rejections: int,
    negatives: int,
    level: float = 0.95,
) -> Corrected | None:
    """The true share of a class, given a classifier's counts on images of known class.

    successes of trials were called the class; of `positives` images of the class, `hits` were; of `negatives` images
    of the other, `correct_rejections` were not. The value is Rogan & Gladen's (1978), clipped to 0..1; the interval is
    Lang & Reiczigel's (2014) and carries the uncertainty of both error rates. None where the classifier is no better
    than chance. Raises ValueError on empty counts.
    """
    if min(trials, positives, negatives) <= 0:
        raise ValueError(
            "a corrected share needs samples and test images of both classes; some count is 0"
        )
    z = float(stats.norm.ppf(0.5 + level / 2))
    sensitivity, specificity = hits / positives, correct_rejections / negatives
    if sensitivity + specificity <= 1.0:
        return None
    value = (successes / trials + specificity - 1.0) / (sensitivity + specificity - 1.0)
    n, n_pos, n_neg = trials + z * z, positives + 2, negatives + 2
    p, se, sp = (successes + z * z / 2) / n, (hits + 1) / n_pos, (correct_rejections + 1) / n_neg
    youden = se + sp - 1.0
    share = (p + sp - 1.0) / youden
    v_pos, v_neg = se * (1 - se) / n_pos, sp * (1 - sp) / n_neg
    spread = z * math.sqrt(p * (1 - p) / n + share**2 * v_pos + (1 - share) ** 2 * v_neg) / youden
    shift = 2 * z * z * (share * v_pos - (1 - share) * v_neg)
    low, high = (min(max(x, 0.0), 1.0) for x in (share + shift - spread, share + shift + spread))
    value = min(max(value, 0.0), 1.0)
    return Corrected(value, min(low, value), max(high, value))


def jackknife(
    value: float, without: Float[np.ndarray, " groups"], sizes: Float[np.ndarray, " groups"]
) -> float:
    """Standard error by the delete-a-group jackknife for groups of any size (Busing, Meijer & van der Leeden 1999).

    `without` holds the statistic with each group left out; empty groups are passed over. nan for fewer than two groups, or
    where the statistic has no value without one of them.
    """
    without, sizes = without[sizes > 0], sizes[sizes > 0]
    if len(without) < 2 or not np.isfinite(without).all():
        return math.nan
    h, groups = sizes.sum() / sizes, len(sizes)
    pseudo = h * value - (h - 1) * without
    centre = groups * value - np.sum((1 - 1 / h) * without)
    return float(math.sqrt(np.mean((pseudo - centre) ** 2 / (h - 1))))


def mcnemar(b: int, c: int) -> float:
    """Two-sided exact p-value that paired flips go either way equally often, from the counts each way (McNemar 1947)."""
    return float(stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def mean_t(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float] | None:
    """Mean and t interval, len(values) - 1 degrees of freedom; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def logit_over_seeds(
    shares: Sequence[float], trials: Sequence[int], level: float = 0.95
) -> Corrected | None:
    """A share over seeds: the t interval of the mean logit, mapped back to 0..1. None for fewer than two seeds.

    A count of 0 or of all is moved half an observation inwards, since its logit is infinite.
    """
    found = mean_t([bounded_logit(s, n) for s, n in zip(shares, trials, strict=True)], level)
    return None if found is None else Corrected(*(float(expit(x)) for x in found))


def bounded_logit(share: float, trials: int) -> float:
    """ln(p / (1 - p)), with p at least half an observation from 0 and from 1."""
    return float(logit(min(max(share, 0.5 / trials), 1 - 0.5 / trials)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    order, adjusted, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def fallen(
    before: Norms, after: Norms, before_error: Norms | float = 0.0, after_error: Norms | float = 0.0
) -> Int[np.ndarray, " points"]:
    """At each point 1 where after < before beyond their errors, -1 where it is not, 0 where that cannot be told."""
    error = np.asarray(before_error) + np.asarray(after_error)
    return np.where(after < before - error, 1, np.where(after >= before + error, -1, 0))


def falls(
    before: Norms, after: Norms, before_error: Norms | float = 0.0, after_error: Norms | float = 0.0
) -> dict[str, Any]:
    """The claim after < before (Theorem 1's) at points of one model, or of two: norms, paired, with the error of each.

    A point falls, or does not, where the errors leave no doubt; the rest is undecided. refuted: whether some point does not
    fall; share with its Wilson interval: of the decided points, those that fall (None where none is decided); log_ratio: the mean
    of log(after / before) with its t interval, negative where norms fall. Raises ValueError unless all norms are positive.
    """
    both = np.stack([np.asarray(before, np.float64), np.asarray(after, np.float64)])
    if not np.all(np.isfinite(both) & (both > 0)):
        raise ValueError(
            f"norms of {both.min():g} to {both.max():g} were given; positive ones are compared"
        )
    sides = fallen(both[0], both[1], before_error, after_error)
    down, up, n = int((sides > 0).sum()), int((sides < 0).sum()), len(sides)
    share, low, high = (
        (down / (down + up), *wilson(down, down + up)) if down + up else (None, None, None)
    )
    ratio = np.log(both[1] / both[0])
    mean, log_low, log_high = mean_t(ratio.tolist()) or (float(ratio[0]), math.nan, math.nan)
    return {"refuted": up > 0, "share": share, "low": low, "high": high, "n": n, "undecided": n - down - up,
            "log_ratio": mean, "log_low": log_low, "log_high": log_high}  # fmt: skip


Verdict = Literal["supported", "contradicted", "smaller than half the paper's", "undecided"]
HALF_THE_EFFECT = -0.25  # the paper's depth 6 against 2 is -0.51 logit of the minority share


def verdict(low: float, high: float) -> Verdict:
    """What a 95 % interval of the contrast, deepest minus shallowest logit of the minority share, says of the claim."""
    below, weak = high < 0, low > HALF_THE_EFFECT
    if below and weak:
        return "smaller than half the paper's"
    return "supported" if below else "contradicted" if weak else "undecided"


def equivalent(low: float, high: float, target: float, margin: float = 0.02) -> Verdict:
    """Whether a share agrees with `target` within `margin` (two one-sided tests: the 90 % interval lies inside)."""
    inside = target - margin < low and high < target + margin
    outside = high < target - margin or low > target + margin
    return "supported" if inside else "contradicted" if outside else "undecided"
