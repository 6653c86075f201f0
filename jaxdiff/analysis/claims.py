"""What a study may claim, by rules that were fixed before its runs. No JAX.

A study has one primary claim: the deep model draws fewer of the minority than the shallow one. It
is judged once all planned seeds are finished, and at one look before that where one was planned.
docs/method.md states the rules for readers.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from scipy.special import expit

from jaxdiff.analysis.contrasts import (
    BlockedMean,
    Contrast,
    DataKey,
    FinishedSeeds,
    build_contrast,
    find_finished,
    find_share,
    logit_share,
    mean_gate,
    to_mix,
)
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.queries import format_mix
from jaxdiff.analysis.verdicts import (
    ALPHA,
    BOUNDS_CONFIDENCE,
    FINAL_ALPHA,
    LOOK_ALPHA,
    LOSS_RATIO,
    MIN_ALIGNMENT_SEEDS,
    MIN_GATE,
    MIN_TEST_IMAGES,
    Verdict,
    judge_contrast,
    judge_equivalence,
)
from jaxdiff.estimates import EXACT_TRIALS, Estimate, bounded_logit, holm, holm_levels
from jaxdiff.results import CellInfo, CellResult, StudyResults

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
        Of the primary claim as it is, of a secondary one after Holm; None without a test.
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
        if not has_level:
            estimate = Estimate(estimate.value, n=estimate.n)
        return estimate if self.to_unit is None else estimate.map(self.to_unit)

    @property
    def test_p_value(self) -> float | None:
        """Of the claim's own test; None where something is missing."""
        return None if self.why else self.mean.p_value

    @property
    def widening(self) -> float | None:
        """How far either end moves at R = `LOSS_RATIO`; None where no models are compared."""
        return None if self.contrast is None else self.contrast.widening(LOSS_RATIO)

    @property
    def critical_ratio(self) -> float | None:
        """R*, at which the interval touches 0; None without an interval of two models."""
        low, high = self.estimate.low, self.estimate.high
        if self.contrast is None or low is None or high is None:
            return None
        return self.contrast.critical_ratio(max(-high, low, 0.0))

    @property
    def is_finished(self) -> bool:
        """Whether every seed that it waits for is finished, with or without a value."""
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


def judge_study(study: StudyResults) -> list[Claim]:
    """The claims of a study of trained cells, the primary one first."""
    plan = Plan.from_study(study.settings)
    return judge(study.cells, plan, study.classifier_test_images, study.diverged)


def judge(
    cells: Sequence[CellResult], plan: Plan, test_images: int, diverged: Sequence[CellInfo] = ()
) -> list[Claim]:
    """Judge the primary claim and the secondary ones.

    Parameters
    ----------
    cells
        Finished cells; those of seeds that were not planned are in no claim.
    plan
        What was fixed before.
    test_images
        Images a class that the classifier was tested on.
    diverged
        Cells whose loss was not finite; the seeds of compared models among them are left out.
    """
    cells = plan.select(cells)
    if not cells:
        return []
    study = _Study(cells, plan, test_images, plan.select_diverged(diverged))
    shallow, deep = plan.primary_pair(cells)
    early = plan.seeds[: plan.look]
    claims = []
    if shallow != deep:
        at_look = _judge_look(study.claim_change(shallow, deep, early)) if early else None
        if at_look is not None:
            # A study that ends at its look is analyzed on the seeds of the look throughout.
            return [at_look, *_judge_family(study.secondary_claims(early))]
        alpha = FINAL_ALPHA if plan.look else ALPHA
        claim = study.claim_change(shallow, deep, plan.seeds)
        is_finished = claim.is_finished
        claim = claim.judged(alpha, claim.test_p_value) if is_finished else claim.postponed()
        claims.append(dataclasses.replace(claim, rank="primary"))
    return claims + _judge_family(study.secondary_claims(plan.seeds))


def _judge_look(claim: Claim) -> Claim | None:
    """The primary claim where the planned look supports it, which ends the study; else None."""
    if not claim.is_finished:
        return None
    claim = dataclasses.replace(claim, rank="primary").judged(LOOK_ALPHA, claim.test_p_value)
    if claim.verdict != "supported":
        return None
    why = f"decided at the planned look after {claim.planned} seeds (p < {LOOK_ALPHA})"
    return dataclasses.replace(claim, why=why)


def _judge_family(claims: Sequence[Claim]) -> list[Claim]:
    """Judge claims together: Holm's level of each sets its interval, and so its verdict.

    The correction needs all p-values, so that none is judged before all are finished. A claim that
    has a level of its own is no part of the family.
    """
    if not all(claim.is_finished for claim in claims):
        return [claim.postponed() for claim in claims]
    family = [claim for claim in claims if claim.alpha is None]
    p_values = [claim.test_p_value for claim in family if claim.test_p_value is not None]
    tests = iter(zip(holm(p_values), holm_levels(p_values, ALPHA), strict=True))
    judged = []
    for claim in claims:
        if claim.alpha is not None or claim.test_p_value is None:
            judged.append(claim.judged(claim.alpha or ALPHA, None))
        else:
            p_value, level = next(tests)
            judged.append(claim.judged(level, p_value))
    return judged


@dataclasses.dataclass(frozen=True)
class _Study:
    """The planned cells of a study, from which claims are built."""

    cells: Sequence[CellResult]
    plan: Plan
    test_images: int
    diverged: Sequence[CellInfo]

    def secondary_claims(self, seeds: Sequence[int]) -> list[Claim]:
        """Planned pairs, each mix alone, and models against their training data."""
        shallow, deep = self.plan.primary_pair(self.cells)
        data = self.plan.data_with_minority(self.cells)
        claims = [self.claim_change(*pair, seeds) for pair in self.plan.secondary]
        if len(data) > 1 and shallow != deep:
            claims += [self.claim_change(shallow, deep, seeds, [key]) for key in data]
        if data:
            claims.append(self.claim_against_data(deep, seeds, data))
        return claims + [self.claim_alignment(shallow, seeds, key) for key in data]

    def claim_change(
        self, shallow: str, deep: str, seeds: Sequence[int], data: Sequence[DataKey] | None = None
    ) -> Claim:
        """One model draws fewer of the minority than another; pooled, the seed as unit."""
        seeds = self._without_diverged(seeds, (shallow, deep))
        if data is None:
            data = self.plan.data_with_minority(self.cells)
        contrast = build_contrast(self.cells, shallow, deep, seeds, data)
        mean = contrast.mean

        def rule(alpha: float) -> Verdict:
            interval = mean.estimate(1 - alpha)
            assert interval.low is not None
            assert interval.high is not None
            return judge_contrast(interval.low, interval.high, contrast.widening(LOSS_RATIO))

        return Claim(
            f"model {deep} draws fewer of the minority than model {shallow}",
            _format_data(data),
            "change of the logit share",
            mean,
            rule,
            len(seeds),
            gates={arm.model: arm.gate for arm in contrast.arms},
            why=self._explain_missing(contrast.undefined),
            undefined=contrast.undefined,
            contrast=contrast,
        )

    def claim_against_data(
        self, model: str, seeds: Sequence[int], data: Sequence[DataKey]
    ) -> Claim:
        """A model draws fewer of the minority than it was shown, by the bounds of its share."""
        seeds = self._without_diverged(seeds, (model,))
        finished = find_finished(self.cells, (model,), seeds, data, _find_bounds)
        upper = _mean_of_bounds(finished, 1)
        lower = _mean_of_bounds(finished, -1)

        def rule(alpha: float) -> Verdict:
            high = upper.estimate(1 - alpha).high
            low = lower.estimate(1 - alpha).low
            if high is not None and high < 0:
                return "supported"
            return "contradicted" if low is not None and low > 0 else "undecided"

        return Claim(
            f"model {model} draws fewer of the minority than it was shown",
            _format_data(data),
            "logit, generated less trained, every ambiguous sample counted for the minority",
            upper,
            rule,
            len(seeds),
            why=self._explain_missing(finished.undefined),
            undefined=finished.undefined,
        )

    def claim_alignment(self, model: str, seeds: Sequence[int], key: DataKey) -> Claim:
        """A model draws the minority as often as it was shown it."""
        seeds = self._without_diverged(seeds, (model,))
        finished = find_finished(self.cells, (model,), seeds, [key], find_share)
        members = [cell for rows in finished.cells.values() for (cell,) in rows]
        mean = BlockedMean.of([logit_share(cell) for cell in members], _roles(members))
        trained = to_mix(key).proportions[1]

        def rule(alpha: float) -> Verdict:
            interval = mean.estimate(1 - alpha).map(expit)
            assert interval.low is not None
            assert interval.high is not None
            return judge_equivalence(interval.low, interval.high, trained)

        why = self._explain_missing(finished.undefined)
        if not why and mean.n < MIN_ALIGNMENT_SEEDS:
            why = f"a margin of 2 points takes {MIN_ALIGNMENT_SEEDS} seeds: read the interval alone"
        return Claim(
            f"model {model} draws the trained share, within 2 points",
            _format_data([key]),
            "minority share, at 90 %",
            mean,
            rule,
            len(seeds),
            gates={model: mean_gate(members)},
            why=why,
            undefined=finished.undefined,
            alpha=0.10,
            to_unit=expit,
        )

    def _without_diverged(self, seeds: Sequence[int], models: Sequence[str]) -> list[int]:
        """The seeds without those of which one of the models has diverged."""
        left_out = {info.seed for info in self.diverged if info.model in models}
        return [seed for seed in seeds if seed not in left_out]

    def _explain_missing(self, undefined: Sequence[str]) -> str:
        """Why nothing can be concluded whatever the values are; empty where something can."""
        if undefined:
            return f"what is compared is undefined for {', '.join(undefined)}"
        if self.test_images < MIN_TEST_IMAGES:
            few_images = (
                f"the classifier was tested on {self.test_images} images a class; "
                f"{MIN_TEST_IMAGES} are needed"
            )
            return self.plan.explain_roles() or few_images
        return self.plan.explain_roles()


def _explain_spread(mean: BlockedMean) -> str:
    """Why a mean has no interval; empty where it has one."""
    if mean.freedom < 1:
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


def _format_data(data: Sequence[DataKey]) -> str:
    return "; ".join(format_mix(to_mix(key)) for key in data)


def _roles(cells: Sequence[CellResult]) -> list[int]:
    return [cell.info.majority for cell in cells]


def _mean_of_bounds(finished: FinishedSeeds, sign: int) -> BlockedMean:
    """The mean over seeds of one extreme (1 the upper, -1 the lower), less the trained logit."""
    values = []
    for rows in finished.cells.values():
        by_mix = [_bound_less_trained(cell, sign) for (cell,) in rows]
        values.append(sum(by_mix) / len(by_mix))
    return BlockedMean.of(values, list(finished.roles().values()))


def _find_bounds(cell: CellResult) -> Estimate | None:
    return cell.find("share", "bounds", confidence=BOUNDS_CONFIDENCE)


def _bound_less_trained(cell: CellResult, sign: int) -> float:
    """The logit of an extreme share (1 the upper, -1 the lower), less the trained logit."""
    bounds = _find_bounds(cell)
    assert bounds is not None
    assert bounds.n is not None
    # The value counts half of the ambiguous samples for the minority.
    extreme = float(bounds) + sign * bounds.labels["ambiguous"] / (2 * bounds.n)
    trained = bounded_logit(cell.info.proportions[1], EXACT_TRIALS)
    return bounded_logit(extreme, bounds.n) - trained
