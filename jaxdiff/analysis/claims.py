"""Claims that a study may make, by rules that were fixed before its runs; shares over seeds.

The primary claims are, for every proportion (at most six): the contrast, deep minus shallow
model, of the logit of the minority's share; and the agreement of the shallow model with its
training data. Everything else in a report is exploratory.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from scipy import stats

from jaxdiff.analysis.queries import Mix, group_by_mix, model_names
from jaxdiff.estimates import Estimate, bounded_logit, holm, share_over_seeds
from jaxdiff.results import CellResult

Verdict = Literal["supported", "contradicted", "smaller than half the paper's", "undecided"]

HALF_THE_EFFECT = -0.25  # the paper's depth 6 against 2 is -0.51 logit of the minority share
MAX_PROPORTIONS = 6  # whose contrasts are primary claims
# With fewer a class the classifier's own errors leave a share undecided.
MIN_TEST_IMAGES = 950
ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Claim:
    """A primary claim, its estimate over seeds and what may be concluded.

    Parameters
    ----------
    why
        The reason of a verdict that the interval alone does not give.
    quantity
        What the estimate is of.
    p_value
        After Holm's correction; None where the claim has no test.
    """

    claim: str
    verdict: Verdict
    why: str
    mix: Mix
    quantity: str
    estimate: Estimate
    seeds: int
    p_value: float | None = None


@dataclasses.dataclass(frozen=True)
class ShareOverSeeds:
    """The minority's share of one model and training data over its seeds.

    Parameters
    ----------
    shares
        The share of each seed.
    estimate
        The t interval of the mean logit; None for a single seed.
    """

    model: str
    bottleneck: int | None
    mix: Mix
    shares: tuple[float, ...]
    estimate: Estimate | None


@dataclasses.dataclass(frozen=True)
class _Contrast:
    """Two models of one mix, compared seed by seed."""

    shallow: str
    deep: str
    pairs: list[tuple[CellResult, CellResult]]


def verdict(low: float, high: float) -> Verdict:
    """Judge the contrast of the logits, deepest minus shallowest, by its 95 % interval."""
    is_below = high < 0
    is_weak = low > HALF_THE_EFFECT
    if is_below and is_weak:
        return "smaller than half the paper's"
    if is_below:
        return "supported"
    return "contradicted" if is_weak else "undecided"


def equivalent(low: float, high: float, target: float, margin: float = 0.02) -> Verdict:
    """Judge whether a share agrees with a target within a margin, by its 90 % interval.

    These are two one-sided tests: supported where the interval lies inside the margin.
    """
    # Schuirmann (1987): both one-sided tests at 5 % reject where the 90 % interval is inside.
    if target - margin < low and high < target + margin:
        return "supported"
    is_outside = high < target - margin or low > target + margin
    return "contradicted" if is_outside else "undecided"


def shares_over_seeds(cells: Sequence[CellResult]) -> list[ShareOverSeeds]:
    """The share, corrected over all classes, of every model and mix."""
    rows = []
    for mix, group in group_by_mix(cells).items():
        for model in model_names(cells):
            members = [cell for cell in group if cell.info.model == model]
            shares = _known_shares(members)
            if shares:
                values = tuple(float(share) for share in shares)
                bottleneck = members[0].info.bottleneck
                estimate = _over_seeds(shares)
                rows.append(ShareOverSeeds(model, bottleneck, mix, values, estimate))
    return rows


def primary_claims(
    cells: Sequence[CellResult],
    test_images: int,
    *,
    primary: Sequence[str] = (),
    bare: Sequence[str] = (),
) -> list[Claim]:
    """Judge the primary claims.

    Parameters
    ----------
    test_images
        Images a class that the classifier was tested on.
    primary
        The shallow and the deep model of the claims. Where it is empty they are the shallowest
        and the deepest of `bare`.
    bare
        Models that are unchanged rows of Table A; where no cell is of one, all models.
    """
    claims = []
    for mix, group in list(group_by_mix(cells).items())[:MAX_PROPORTIONS]:
        # Controls, which change a row of Table A, are no part of the contrast over depth.
        names = model_names(group)
        candidates = [name for name in names if name in bare] or names
        shallow, deep = primary or (candidates[0], candidates[-1])
        if shallow != deep:
            contrast = _Contrast(shallow, deep, _pair_by_seed(group, shallow, deep))
            claims.append(_judge_amplification(contrast, mix, test_images))
        claims.append(_judge_alignment(group, shallow, mix, test_images))
    return _correct_for_multiplicity(claims)


def _correct_for_multiplicity(claims: Sequence[Claim]) -> list[Claim]:
    """Adjust the p-values by Holm; a claim that is not significant any more is undecided."""
    adjusted = iter(holm([claim.p_value for claim in claims if claim.p_value is not None]))
    return [
        claim if claim.p_value is None else _with_adjusted_p_value(claim, next(adjusted))
        for claim in claims
    ]


def _with_adjusted_p_value(claim: Claim, p_value: float) -> Claim:
    if p_value <= ALPHA or claim.verdict != "supported":
        return dataclasses.replace(claim, p_value=p_value)
    why = "not significant after Holm's correction for the number of claims"
    return dataclasses.replace(claim, p_value=p_value, verdict="undecided", why=why)


def _pair_by_seed(
    cells: Sequence[CellResult], shallow: str, deep: str
) -> list[tuple[CellResult, CellResult]]:
    by_key = {(c.info.model, c.info.seed): c for c in cells if _share(c) is not None}
    seeds = sorted({seed for _, seed in by_key})
    return [
        (by_key[shallow, seed], by_key[deep, seed])
        for seed in seeds
        if (shallow, seed) in by_key and (deep, seed) in by_key
    ]


def _judge_amplification(contrast: _Contrast, mix: Mix, test_images: int) -> Claim:
    """The deep model draws fewer of the minority than the shallow one."""
    changes = [_logit_share(deep) - _logit_share(shallow) for shallow, deep in contrast.pairs]
    estimate = Estimate.mean(changes, "seeds") if changes else Estimate.undefined()
    why = _missing_evidence(len(changes), test_images)
    result: Verdict = "undecided"
    p_value = None
    if estimate.low is not None and estimate.high is not None:
        p_value = _t_test(changes)
        # The interval decides only where nothing else explains or hides the difference.
        if not why:
            why = _contradicting_evidence(contrast, mix, estimate.high)
            result = "undecided" if why else verdict(estimate.low, estimate.high)
    return Claim(
        claim=f"model {contrast.deep} draws fewer of the minority than model {contrast.shallow}",
        verdict=result,
        why=why,
        mix=mix,
        quantity="change of the logit",
        estimate=estimate,
        seeds=len(changes),
        p_value=p_value,
    )


def _judge_alignment(
    cells: Sequence[CellResult], shallow: str, mix: Mix, test_images: int
) -> Claim:
    """The shallow model draws the minority as often as it was shown it."""
    shares = _known_shares([cell for cell in cells if cell.info.model == shallow])
    estimate = _over_seeds(shares, level=0.90)
    why = _missing_evidence(len(shares), test_images)
    result: Verdict = "undecided"
    if estimate is not None and not why:
        assert estimate.low is not None
        assert estimate.high is not None
        result = equivalent(estimate.low, estimate.high, mix.proportions[1])
    if estimate is None:
        estimate = Estimate(shares[0].value) if shares else Estimate.undefined()
    return Claim(
        claim=f"model {shallow} draws the trained share, within 2 points",
        verdict=result,
        why=why,
        mix=mix,
        quantity="minority share (90 % interval)",
        estimate=estimate,
        seeds=len(shares),
    )


def _t_test(changes: Sequence[float]) -> float | None:
    """p-value that the mean is 0; None where no change is different from 0 at all."""
    p_value = float(stats.ttest_1samp(changes, 0.0).pvalue)
    return None if math.isnan(p_value) else p_value


def _missing_evidence(seeds: int, test_images: int) -> str:
    """Why nothing can be concluded; empty where enough was measured."""
    if seeds == 0:
        return "no samples of either class"
    if seeds == 1:
        return "one seed has no interval between seeds"
    if test_images < MIN_TEST_IMAGES:
        return (
            f"the classifier was tested on {test_images} images a class; "
            f"{MIN_TEST_IMAGES} are needed"
        )
    return ""


def _contradicting_evidence(contrast: _Contrast, mix: Mix, high: float) -> str:
    """Why a contrast is not to be trusted; empty where nothing speaks against it."""
    if not all(_have_equal_gates(shallow, deep) for shallow, deep in contrast.pairs):
        return "the models differ in how many samples belong to neither class: compare the bounds"
    trained = mix.proportions[1]
    if high < 0 and any(_bounds_contain(deep, trained) for _, deep in contrast.pairs):
        return "the bounds of the deep model contain the trained share"
    return ""


def _share(cell: CellResult) -> Estimate | None:
    """The share corrected over all classes, otherwise as classified.

    The correction also counts samples mistaken for a third class.
    """
    return cell.find("share", "corrected_many") or cell.find("share", "classified")


def _known_shares(cells: Sequence[CellResult]) -> list[Estimate]:
    shares = [_share(cell) for cell in cells]
    return [share for share in shares if share is not None]


def _over_seeds(shares: Sequence[Estimate], level: float = 0.95) -> Estimate | None:
    trials = [share.n or 0 for share in shares]
    return share_over_seeds([float(share) for share in shares], trials, level)


def _logit_share(cell: CellResult) -> float:
    share = _share(cell)
    assert share is not None
    assert share.n is not None
    return bounded_logit(float(share), share.n)


def _bounds_contain(cell: CellResult, trained: float) -> bool:
    bounds = cell.find("share", "bounds")
    if bounds is None or bounds.low is None or bounds.high is None:
        return False
    return bounds.low <= trained <= bounds.high


def _have_equal_gates(a: CellResult, b: CellResult) -> bool:
    """Whether the intervals of the two quality gates overlap."""
    gates = [cell.find("quality", "gate") for cell in (a, b)]
    ends = [(gate.low, gate.high) for gate in gates if gate is not None]
    lows = [low for low, _ in ends if low is not None]
    highs = [high for _, high in ends if high is not None]
    return len(lows) == len(highs) == 2 and max(lows) <= min(highs)
