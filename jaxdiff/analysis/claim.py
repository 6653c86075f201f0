"""A claim over seeds, its estimate, and how a level gives its verdict. No JAX."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Literal

from jaxdiff.analysis.contrasts import BlockedMean, Contrast
from jaxdiff.analysis.verdicts import ALPHA, LOST_RATIO, MIN_GATE, Verdict
from jaxdiff.estimates import Estimate

Rule = Callable[[float], Verdict]  # from the level alpha to what the interval at 1 - alpha says


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, its estimate over seeds and what may be concluded.

    Parameters
    ----------
    claim, data, quantity
        In words: the claim, the training data that it is about, and what the estimate is of.
    mean
        The mean over seeds.
    rule
        What the interval says at a level.
    planned
        Seeds that it waits for.
    gates
        Mean quality gate of each model whose samples have to be readable.
    why
        The reason of a verdict that the interval alone does not give.
    undefined
        Finished cells without the value, whose seeds are not in the mean.
    contrast
        The two models seed by seed, for a claim about two models.
    rank
        "primary" or "secondary"; the p-values of the secondary ones are corrected by Holm.
    verdict
        "interim" until the planned seeds are finished.
    alpha
        The level by which the claim was judged; None while it is not.
    p_value
        Unadjusted for the primary claim, after Holm for a secondary one; None without a test.
    to_unit
        From the mean's unit to that of the estimate, increasing; None where they are the same.
    """

    claim: str
    data: str
    quantity: str
    mean: BlockedMean
    rule: Rule
    planned: int
    gates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    why: str = ""
    undefined: tuple[str, ...] = ()
    contrast: Contrast | None = None
    rank: Literal["primary", "secondary"] = "secondary"
    verdict: Verdict = "interim"
    alpha: float | None = None
    p_value: float | None = None
    to_unit: Callable[[float], float] | None = None

    @property
    def estimate(self) -> Estimate:
        """The mean over seeds; its interval is that of the claim's level, once it is judged."""
        has_level = self.alpha is not None
        estimate = self.mean.estimate(1 - (self.alpha or ALPHA))
        # The level sets the interval: a claim that is not judged yet shows its mean alone.
        if not has_level:
            estimate = Estimate(estimate.value, n=estimate.n)
        return estimate if self.to_unit is None else estimate.map(self.to_unit)

    @property
    def test_p_value(self) -> float | None:
        """Of the claim's own test; None where something is missing."""
        return None if self.why else self.mean.p_value

    @property
    def widening(self) -> float | None:
        """How far either end moves at R = `LOST_RATIO`; None where no models are compared."""
        return None if self.contrast is None else self.contrast.widening(LOST_RATIO)

    @property
    def critical_ratio(self) -> float | None:
        """R*, at which the interval touches 0; None without an interval of two models."""
        low, high = self.estimate.low, self.estimate.high
        if self.contrast is None or low is None or high is None:
            return None
        # From 0 to the interval's nearer end; 0 where the interval contains 0.
        return self.contrast.critical_ratio(max(-high, low, 0.0))

    @property
    def is_finished(self) -> bool:
        """Whether it can be judged: every planned seed has its value, or one has none."""
        # With an undefined value it is undecided whatever the other seeds say: it waits for none.
        return self.mean.n == self.planned or bool(self.undefined)

    def judged(self, alpha: float, p_value: float | None) -> "Claim":
        """The claim with the verdict of its rule at this level."""
        why = self.why or _explain_spread(self.mean)
        unreadable = "" if why else _explain_unreadable(self.gates)
        verdict: Verdict = "undecided"
        if unreadable:
            verdict = "not readable"
        elif not why:
            verdict = self.rule(alpha)
        return dataclasses.replace(
            self, verdict=verdict, why=why or unreadable, alpha=alpha, p_value=p_value
        )

    def postponed(self) -> "Claim":
        """The claim of an unfinished study, without a level and a verdict."""
        why = f"{self.mean.n} of {self.planned} planned seeds are finished"
        return dataclasses.replace(self, why=why, alpha=None)


def _explain_spread(mean: BlockedMean) -> str:
    """Why a mean has no interval; empty where it has one."""
    if mean.dof < 1:
        return "there are too few seeds for an interval; plan at least 4"
    return "" if mean.standard_error > 0 else "the seeds do not differ, so that nothing is tested"


def _explain_unreadable(gates: Mapping[str, float]) -> str:
    """Which models' samples cannot be read well enough; empty where all can."""
    unknown = [model for model, gate in gates.items() if math.isnan(gate)]
    if unknown:
        return f"no quality gate was measured of model {' and '.join(unknown)}"
    failed = [f"{gate:.2f} of model {model}" for model, gate in gates.items() if gate < MIN_GATE]
    return (
        f"the mean quality gate is {' and '.join(failed)}; {MIN_GATE} is needed" if failed else ""
    )
