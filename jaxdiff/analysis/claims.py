"""What a study may claim, by rules that were fixed before its runs. No JAX.

A study has one primary claim: the deep model draws fewer of the minority than the shallow one. It
is judged once all planned seeds are finished, and at one look before that where one was planned.
docs/method.md states the rules for readers.
"""

import dataclasses
from collections.abc import Sequence

from jaxdiff.analysis.claim import Claim
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.planned_claims import PlannedClaims
from jaxdiff.analysis.verdicts import ALPHA, FINAL_ALPHA, LOOK_ALPHA
from jaxdiff.estimates import holm, holm_levels
from jaxdiff.results import CellInfo, CellResult, StudyResults


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
    study = PlannedClaims(cells, plan, test_images, plan.select_diverged(diverged))
    shallow, deep = plan.primary_pair(cells)
    early = plan.seeds[: plan.look]
    claims = []
    if shallow != deep and plan.data_with_minority(cells):
        at_look = _judge_look(study.claim_change(shallow, deep, early)) if early else None
        if at_look is not None:
            # The interim look may end the primary claim only. The other claims wait for all seeds:
            # to stop them at a time that depends on the data would bias them.
            return [at_look, *_judge_family(study.secondary_claims(plan.seeds))]
        alpha = FINAL_ALPHA if plan.look else ALPHA
        claim = study.claim_change(shallow, deep, plan.seeds)
        is_finished = claim.is_finished
        claim = claim.judged(alpha, claim.test_p_value) if is_finished else claim.postponed()
        claims.append(dataclasses.replace(claim, rank="primary"))
    return claims + _judge_family(study.secondary_claims(plan.seeds))


def _judge_look(claim: Claim) -> Claim | None:
    """The primary claim where the planned look supports it, which ends that claim; else None."""
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
        # A claim without a test is undecided at any level, and does not count among the family's.
        if claim.alpha is not None or claim.test_p_value is None:
            judged.append(claim.judged(claim.alpha or ALPHA, None))
        else:
            p_value, level = next(tests)
            judged.append(claim.judged(level, p_value))
    return judged
