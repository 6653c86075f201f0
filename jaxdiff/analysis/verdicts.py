"""The words of verdicts, and the rules by which an interval gives one. No JAX."""

from typing import Literal

Verdict = Literal[
    "supported",
    "smaller than half the paper's",
    "no effect of half the paper's size",
    "contradicted",
    "undecided",
    "not readable",
    "interim",
]

OPEN_VERDICTS: tuple[Verdict, ...] = ("undecided", "not readable", "interim")

HALF_THE_EFFECT = -0.25  # the paper's depth 6 against 2 is -0.51 logit of the minority share
ALPHA = 0.05
# O'Brien & Fleming's (1979) levels for one look after half of the seeds, and for the end after it.
LOOK_ALPHA = 0.0052
FINAL_ALPHA = 0.048
# Losing the minority this many times as often as the majority must not change a verdict.
LOST_RATIO = 1.5
MIN_GATE = 0.8  # below it an arm's samples cannot be read
# With fewer a class the classifier's own errors leave a share undecided. Full MNIST has as many of
# every digit, by `jaxdiff.datasets.base.POOL_SHARES`.
MIN_TEST_IMAGES = 950
ALIGNMENT_MARGIN = 0.02
MIN_ALIGNMENT_SEEDS = 24  # with fewer the interval is wider than the margin allows
BOUNDS_CONFIDENCE = 0.75  # of the bounds by which a model is compared with its training data


def explain_few_test_images(count: int) -> str:
    """Why tests on so many images a class are too few for a verdict; empty where they suffice."""
    if count >= MIN_TEST_IMAGES:
        return ""
    return f"the classifier is tested on {count} images a class; {MIN_TEST_IMAGES} are needed"


def judge_contrast(low: float, high: float, widening: float) -> Verdict:
    """Judge the change of the logit share, deep minus shallow, by its widened interval.

    Parameters
    ----------
    low, high
        Ends of the interval at the claim's level.
    widening
        How far what cannot be read may move either end, at least 0.
    """
    is_below = high + widening < 0
    is_weak = low - widening > HALF_THE_EFFECT
    if is_below and is_weak:
        return "smaller than half the paper's"
    if is_below:
        return "supported"
    return "no effect of half the paper's size" if is_weak else "undecided"


def judge_sign(low: float, high: float) -> Verdict:
    """Judge by its interval whether a value is above 0."""
    if low > 0:
        return "supported"
    return "contradicted" if high < 0 else "undecided"


def judge_equivalence(low: float, high: float, target: float) -> Verdict:
    """Judge whether a share agrees with a target within 2 points, by its 90 % interval.

    References
    ----------
    Schuirmann (1987): both one-sided tests at 5 % reject where the 90 % interval is inside.
    """
    lowest = target - ALIGNMENT_MARGIN
    highest = target + ALIGNMENT_MARGIN
    if lowest < low and high < highest:
        return "supported"
    return "contradicted" if high < lowest or low > highest else "undecided"
