"""Numbers with their uncertainty. No JAX."""

import dataclasses
import math

from scipy.stats import norm


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
    z = norm.ppf(0.5 + level / 2)
    p, denominator = successes / trials, 1.0 + z * z / trials
    centre = (p + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


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
        raise ValueError("a corrected share needs samples and test images of both classes; some count is 0")
    z = float(norm.ppf(0.5 + level / 2))
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
