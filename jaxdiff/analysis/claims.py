"""What a study may claim, by rules that were fixed before its runs. No JAX.

A study has one primary claim: the deep model draws fewer of the minority than the shallow one. It
is judged once all planned seeds are finished, and at one look before that where one was planned.
docs/method.md states the rules for readers.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from scipy.special import expit

from jaxdiff.analysis.contrasts import (
    BlockedMean,
    Contrast,
    build_contrast,
    find_share,
    has_minority,
    logit_share,
)
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.queries import format_mix, group_by_mix, group_key
from jaxdiff.analysis.verdicts import (
    ALPHA,
    BOUNDS_CONFIDENCE,
    EXACT_TRIALS,
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
from jaxdiff.estimates import Estimate, bounded_logit, holm, holm_levels
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
    why
        The reason of a verdict that the interval alone does not give.
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
    why: str = ""
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

    def judged(self, alpha: float, p_value: float | None) -> "Claim":
        """The claim with the verdict of its rule at this level."""
        verdict: Verdict = "undecided"
        why = self.why
        if not why and self.contrast is not None:
            why = _explain_unreadable(self.contrast)
            verdict = "not readable" if why else verdict
        if not why:
            verdict = self.rule(alpha)
        return dataclasses.replace(self, verdict=verdict, why=why, alpha=alpha, p_value=p_value)


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
    shallow, deep = plan.primary_pair(cells)
    compared = {shallow, deep, *(model for pair in plan.secondary for model in pair)}
    left_out = {info.seed for info in diverged if info.model in compared}
    seeds = tuple(seed for seed in plan.seeds if seed not in left_out)
    early = seeds[: plan.look]
    primary = _claim_change(cells, shallow, deep, early, test_images) if early else None
    at_look = None if primary is None else _judge_look(primary, len(early), len(seeds))
    if at_look is not None:
        # A study that ends at its look is analyzed on the seeds of the look throughout.
        return [at_look, *_judge_family(_secondary_claims(cells, plan, early, test_images))]
    primary = _claim_change(cells, shallow, deep, seeds, test_images)
    secondary = _secondary_claims(cells, plan, seeds, test_images)
    claims = []
    if primary is not None:
        alpha = FINAL_ALPHA if plan.look else ALPHA
        claims = _postponed([primary], len(seeds)) or [primary.judged(alpha, primary.test_p_value)]
        claims = [dataclasses.replace(claim, rank="primary") for claim in claims]
    # Holm's correction needs the p-values of the whole family.
    return claims + (_postponed(secondary, len(seeds)) or _judge_family(secondary))


def _postponed(claims: Sequence[Claim], planned: int) -> list[Claim]:
    """The claims without verdicts while some seed of one of them is missing; then empty."""
    if all(claim.mean.n == planned for claim in claims):
        return []
    postponed = []
    for claim in claims:
        why = f"{claim.mean.n} of {planned} planned seeds are finished"
        postponed.append(dataclasses.replace(claim, why=why, alpha=None))
    return postponed


def _judge_look(primary: Claim, look: int, planned: int) -> Claim | None:
    """The primary claim where the planned look supports it, which ends the study; else None."""
    if primary.mean.n < look:
        return None
    claim = dataclasses.replace(primary, rank="primary").judged(LOOK_ALPHA, primary.test_p_value)
    if claim.verdict != "supported":
        return None
    why = f"decided at the planned look after {look} of {planned} seeds (p < {LOOK_ALPHA})"
    return dataclasses.replace(claim, why=why)


def _secondary_claims(
    cells: Sequence[CellResult], plan: Plan, seeds: Sequence[int], test_images: int
) -> list[Claim]:
    shallow, deep = plan.primary_pair(cells)
    groups = [group for mix, group in group_by_mix(cells).items() if has_minority(mix)]
    claims = [_claim_change(cells, *pair, seeds, test_images) for pair in plan.secondary]
    if len(groups) > 1:
        claims += [_claim_change(group, shallow, deep, seeds, test_images) for group in groups]
    claims.append(_claim_against_data(cells, deep, seeds, test_images))
    claims += [_claim_alignment(group, shallow, seeds, test_images) for group in groups]
    return [claim for claim in claims if claim is not None]


def _judge_family(claims: Sequence[Claim]) -> list[Claim]:
    """Judge claims together: Holm's level of each sets its interval, and so its verdict."""
    p_values = [claim.test_p_value for claim in claims if claim.test_p_value is not None]
    tests = iter(zip(holm(p_values), holm_levels(p_values, ALPHA), strict=True))
    judged = []
    for claim in claims:
        if claim.alpha is not None:  # it has a level of its own
            judged.append(claim.judged(claim.alpha, None))
        elif claim.test_p_value is None:
            judged.append(claim.judged(ALPHA, None))
        else:
            p_value, level = next(tests)
            judged.append(claim.judged(level, p_value))
    return judged


def _claim_change(
    cells: Sequence[CellResult],
    shallow: str,
    deep: str,
    seeds: Sequence[int],
    test_images: int,
) -> Claim | None:
    """One model draws fewer of the minority than another; pooled over mixes, the seed as unit."""
    contrast = None if shallow == deep else build_contrast(cells, shallow, deep, seeds)
    if contrast is None:
        return None
    mean = contrast.mean

    def rule(alpha: float) -> Verdict:
        interval = mean.estimate(1 - alpha)
        assert interval.low is not None
        assert interval.high is not None
        return judge_contrast(interval.low, interval.high, contrast.widening(LOSS_RATIO))

    return Claim(
        f"model {deep} draws fewer of the minority than model {shallow}",
        "; ".join(map(format_mix, contrast.mixes)),
        "change of the logit share",
        mean,
        rule,
        _explain_missing(list(contrast.roles.values()), test_images),
        contrast,
    )


def _claim_against_data(
    cells: Sequence[CellResult], model: str, seeds: Sequence[int], test_images: int
) -> Claim | None:
    """A model draws fewer of the minority than it was shown, by the bounds of its share."""
    members = [
        cell
        for cell in _select(cells, model, seeds)
        if has_minority(group_key(cell)) and _find_bounds(cell) is not None
    ]
    if not members:
        return None
    upper = _mean_over_seeds(members, lambda cell: _bound_less_trained(cell, 1))
    lower = _mean_over_seeds(members, lambda cell: _bound_less_trained(cell, -1))

    def rule(alpha: float) -> Verdict:
        high = upper.estimate(1 - alpha).high
        low = lower.estimate(1 - alpha).low
        if high is not None and high < 0:
            return "supported"
        return "contradicted" if low is not None and low > 0 else "undecided"

    return Claim(
        f"model {model} draws fewer of the minority than it was shown",
        "; ".join(map(format_mix, dict.fromkeys(map(group_key, members)))),
        "logit, generated less trained, every ambiguous sample counted for the minority",
        upper,
        rule,
        _explain_missing(_roles(members), test_images),
    )


def _claim_alignment(
    cells: Sequence[CellResult], model: str, seeds: Sequence[int], test_images: int
) -> Claim | None:
    """A model draws the minority as often as it was shown it; cells are of one mix."""
    members = [cell for cell in _select(cells, model, seeds) if find_share(cell) is not None]
    if not members:
        return None
    mean = _mean_over_seeds(members, logit_share)
    trained = members[0].info.proportions[1]

    def rule(alpha: float) -> Verdict:
        interval = mean.estimate(1 - alpha).map(expit)
        assert interval.low is not None
        assert interval.high is not None
        return judge_equivalence(interval.low, interval.high, trained)

    why = _explain_missing(_roles(members), test_images)
    if not why and mean.n < MIN_ALIGNMENT_SEEDS:
        why = f"a margin of 2 points takes {MIN_ALIGNMENT_SEEDS} seeds: read the interval alone"
    return Claim(
        f"model {model} draws the trained share, within 2 points",
        format_mix(group_key(members[0])),
        "minority share (90 % interval)",
        mean,
        rule,
        why,
        alpha=0.10,
        to_unit=expit,
    )


def _explain_missing(roles: Sequence[int], test_images: int) -> str:
    """Why nothing can be concluded of seeds with these roles; empty where enough was measured."""
    if len(roles) == 1:
        return "one seed has no interval between seeds"
    counts = {role: roles.count(role) for role in sorted(set(roles))}
    if len(set(counts.values())) > 1:
        words = " and ".join(f"{count} of class {role}" for role, count in counts.items())
        return f"the majority is {words}: plan as many seeds of both"
    if len(roles) == len(counts):
        return "two seeds, one of each role, have no interval; plan at least 4"
    if test_images < MIN_TEST_IMAGES:
        return (
            f"the classifier was tested on {test_images} images a class; "
            f"{MIN_TEST_IMAGES} are needed"
        )
    return ""


def _explain_unreadable(contrast: Contrast) -> str:
    """Which models' samples cannot be read well enough; empty where both can."""
    failed = [arm for arm in contrast.arms if arm.gate < MIN_GATE]
    gates = " and ".join(f"{arm.gate:.2f} of model {arm.model}" for arm in failed)
    return f"the mean quality gate is {gates}; {MIN_GATE} is needed" if failed else ""


def _select(cells: Sequence[CellResult], model: str, seeds: Sequence[int]) -> list[CellResult]:
    return [cell for cell in cells if cell.info.model == model and cell.info.seed in seeds]


def _roles(cells: Sequence[CellResult]) -> list[int]:
    """The class that has the majority, for each seed."""
    return list({cell.info.seed: cell.info.majority for cell in cells}.values())


def _mean_over_seeds(
    cells: Sequence[CellResult], value: Callable[[CellResult], float]
) -> BlockedMean:
    """The blocked mean over seeds of each seed's mean over its cells."""
    by_seed: dict[int, list[float]] = {}
    for cell in cells:
        by_seed.setdefault(cell.info.seed, []).append(value(cell))
    return BlockedMean.of([sum(v) / len(v) for v in by_seed.values()], _roles(cells))


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
