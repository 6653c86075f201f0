"""Numbers with their uncertainty, and the statistics that make them. No JAX."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from scipy.special import logit, ndtri

NORMAL_QUANTILE = 1.96  # of a normal 95 % interval
EXACT_TRIALS = 10**9  # of a share that is exact, whose logit is bounded as if of so many images


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Parameters
    ----------
    value
        The number; None where it is undefined.
    low, high
        Ends of the interval; None where there is none.
    n
        Number of observations behind the value.
    method
        How the interval was made, such as "Wilson 95 %".
    standard_error
        0.0 where the value is exact; None where it is not known.
    bound
        Largest possible error of the value; None where it is not known.
    name
        What is estimated, such as "gate".
    labels
        What else tells this number from others of its name, such as ``{"space": "pixels"}``.
    values
        The value of each single observation, where observations are compared in pairs.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    method: str = "none"
    standard_error: float | None = None
    bound: float | None = None
    name: str = ""
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    values: Sequence[float] | None = None

    def __str__(self) -> str:
        """The value and its interval, as 0.12 [0.08, 0.18]."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"

    @property
    def quantity(self) -> str:
        """Its name with its labels, as nearest (space pixels)."""
        labels = ", ".join(f"{key} {value}" for key, value in self.labels.items())
        return f"{self.name} ({labels})" if labels else self.name

    def __float__(self) -> float:
        return math.nan if self.value is None else float(self.value)

    @classmethod
    def undefined(cls, name: str = "", n: int | None = None, **labels: Any) -> "Estimate":
        """An estimate without a value; give the reason as the label ``why``."""
        return cls(None, n=n, name=name, labels=labels)

    @classmethod
    def proportion(
        cls, successes: int, trials: int, name: str = "", level: float = 0.95, **labels: Any
    ) -> "Estimate":
        """A count over its number of trials, with Wilson's interval."""
        low, high = wilson(successes, trials, level)
        method = f"Wilson {100 * level:g} %"
        return cls(successes / trials, low, high, trials, method, name=name, labels=labels)

    @classmethod
    def normal(
        cls, value: float, standard_error: float, n: int, method: str, name: str = "", **labels: Any
    ) -> "Estimate":
        """A value with the normal 95 % interval; without one where the error is 0 or not finite.

        Observations that are all equal have an error of 0, which says nothing of further ones.
        """
        half = NORMAL_QUANTILE * standard_error
        if half == 0 or not math.isfinite(half):
            return cls(value, n=n, name=name, labels=labels)
        return cls(
            value, value - half, value + half, n, method, standard_error, name=name, labels=labels
        )

    @classmethod
    def mean(
        cls, values: Sequence[float], over: str, name: str = "", level: float = 0.95, **labels: Any
    ) -> "Estimate":
        """The mean of independent values, with a t interval; one value has no interval.

        Parameters
        ----------
        values
            At least one number.
        over
            What the values belong to, such as "images"; it is named in the method.
        """
        center = float(np.mean(values))
        if len(values) < 2:
            return cls(center, n=len(values), name=name, labels=labels)
        quantile = float(scipy.stats.t.ppf(0.5 + level / 2, len(values) - 1))
        half = quantile * float(scipy.stats.sem(values))
        method = f"t {100 * level:g} % over {over}"
        return cls(
            center, center - half, center + half, len(values), method, name=name, labels=labels
        )

    def named(self, name: str, **labels: Any) -> "Estimate":
        """The same estimate under another name, with more labels."""
        return dataclasses.replace(self, name=name, labels={**self.labels, **labels})

    def labeled(self, **labels: Any) -> "Estimate":
        """The same estimate with more labels."""
        return self.named(self.name, **labels)

    def map(self, function: Any, **changes: Any) -> "Estimate":
        """Apply an increasing function to the value and to both ends of the interval."""
        ends = [
            None if x is None else float(function(x)) for x in (self.value, self.low, self.high)
        ]
        value, low, high = ends
        return dataclasses.replace(
            self, value=value, low=low, high=high, standard_error=None, bound=None, **changes
        )

    def to_json(self) -> dict[str, Any]:
        """The entry of result.json; ``values`` is included where it is set."""
        entry = {
            "name": self.name,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "interval": self.method,
            **self.labels,
        }
        return entry if self.values is None else entry | {"values": list(self.values)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Estimate":
        """Read an entry of result.json."""
        fields = ("name", "value", "low", "high", "n", "interval", "values")
        labels = {key: value for key, value in entry.items() if key not in fields}
        value, low, high = (
            None if entry[key] is None else float(entry[key]) for key in ("value", "low", "high")
        )
        return cls(
            value,
            low,
            high,
            entry["n"],
            entry["interval"],
            name=entry["name"],
            labels=labels,
            values=entry.get("values"),
        )


class Proportion(NamedTuple):
    """A count and its number of trials."""

    successes: int
    trials: int

    @property
    def value(self) -> float:
        """The count over the trials."""
        return self.successes / self.trials


def wilson(successes: float | int, trials: float | int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927).

    Parameters
    ----------
    successes, trials
        0 <= successes <= trials, trials > 0; an effective number of trials need not be whole.
    level
        Confidence level, between 0 and 1.

    Returns
    -------
    low, high
        Ends of the interval, in 0..1.

    Raises
    ------
    ValueError
        Where the counts are no proportion.
    """
    if not 0 <= successes <= trials or trials <= 0:
        raise ValueError(
            "a proportion needs 0 <= successes <= trials and trials > 0, got "
            f"{successes} of {trials}"
        )
    z = float(ndtri(0.5 + level / 2))
    p = successes / trials
    denominator = 1.0 + z * z / trials
    center = (p + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    # The formula gives these too, up to rounding, which could leave 0..1.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == trials else center + half
    return low, high


def rogan_gladen(
    observed: Proportion, sensitivity: Proportion, specificity: Proportion, level: float = 0.95
) -> Estimate | None:
    """Share of a class, corrected for the errors of the classifier that counted it.

    Parameters
    ----------
    observed
        Images that were classified as the class, of all images.
    sensitivity
        Correctly classified test images of the class, of all of them.
    specificity
        Correctly classified test images of the other class, of all of them.
    level
        Confidence level.

    Returns
    -------
    estimate
        The value of Rogan & Gladen (1978), clipped to 0..1, with the interval of Lang &
        Reiczigel (2014), which carries the uncertainty of both error rates; None where the
        classifier is no better than chance.

    Raises
    ------
    ValueError
        Where a number of trials is 0.
    """
    if min(observed.trials, sensitivity.trials, specificity.trials) <= 0:
        raise ValueError(
            "a corrected share needs samples and test images of both classes, got none"
        )
    youden = sensitivity.value + specificity.value - 1.0
    if youden <= 0.0:
        return None
    value = (observed.value + specificity.value - 1.0) / youden

    # Lang & Reiczigel: shrink all three rates, then widen by the variance of each.
    z = float(ndtri(0.5 + level / 2))
    n = observed.trials + z * z
    n_positive = sensitivity.trials + 2
    n_negative = specificity.trials + 2
    p = (observed.successes + z * z / 2) / n
    se = (sensitivity.successes + 1) / n_positive
    sp = (specificity.successes + 1) / n_negative
    youden = se + sp - 1.0
    if youden <= 0:
        # So few test images leave it open whether the classifier is better than chance.
        value = float(np.clip(value, 0.0, 1.0))
        return Estimate(value, 0.0, 1.0, observed.trials, f"Lang-Reiczigel {100 * level:g} %")
    share = (p + sp - 1.0) / youden
    se_variance = se * (1 - se) / n_positive
    sp_variance = sp * (1 - sp) / n_negative
    variance = p * (1 - p) / n + share**2 * se_variance + (1 - share) ** 2 * sp_variance
    half = z * math.sqrt(variance) / youden
    shift = 2 * z * z * (share * se_variance - (1 - share) * sp_variance)
    value = float(np.clip(value, 0.0, 1.0))
    low = float(np.clip(share + shift - half, 0.0, 1.0))
    high = float(np.clip(share + shift + half, 0.0, 1.0))
    method = f"Lang-Reiczigel {100 * level:g} %"
    # The value is of the rates before they were shrunk, and may lie outside the interval.
    return Estimate(value, min(low, value), max(high, value), observed.trials, method)


def jackknife(
    value: float, left_out: Float[np.ndarray, " groups"], sizes: Float[np.ndarray, " groups"]
) -> float:
    """Standard error by the delete-a-group jackknife for groups of any size.

    Parameters
    ----------
    value
        The statistic of all observations.
    left_out
        The statistic with each group left out.
    sizes
        Observations in each group; empty groups are skipped.

    Returns
    -------
    standard_error
        nan for fewer than two groups, or where the statistic has no value without one of them.

    References
    ----------
    Busing, Meijer & van der Leeden (1999), Delete-m jackknife for unequal m.
    """
    left_out = left_out[sizes > 0]
    sizes = sizes[sizes > 0]
    groups = len(sizes)
    if groups < 2 or not np.isfinite(left_out).all():
        return math.nan
    # For groups of one size h is their number, and this is the ordinary jackknife.
    h = sizes.sum() / sizes
    pseudo_values = h * value - (h - 1) * left_out
    center = groups * value - np.sum((1 - 1 / h) * left_out)
    return float(math.sqrt(np.mean((pseudo_values - center) ** 2 / (h - 1))))


def mcnemar(b: int, c: int) -> float:
    """Two-sided exact p-value that pairs change either way equally often (McNemar 1947)."""
    return float(scipy.stats.binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def bounded_logit(share: float, trials: int) -> float:
    """ln(p / (1 - p)), with p kept half an observation away from 0 and from 1."""
    return float(logit(min(max(share, 0.5 / trials), 1 - 0.5 / trials)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        # The running maximum: where a p-value is not rejected, no larger one is.
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm's procedure (1979) tests each p-value, in the order given.

    The i-th smallest of m is tested at alpha / (m - i), i from 0. All that follow the first one
    that is not rejected share its level, so that none of them is rejected either.
    """
    count = len(p_values)
    levels = [alpha] * count
    level = 0.0
    is_rejecting = True
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        if is_rejecting:
            level = alpha / (count - rank)
            is_rejecting = p_values[i] <= level
        levels[i] = level
    return levels
