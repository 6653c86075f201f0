"""Verdicts on made-up shares, by the rules that were fixed before any run."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from jaxdiff.analysis import contrasts, verdicts
from jaxdiff.analysis.claims import judge
from jaxdiff.analysis.over_seeds import lost_fractions_over_seeds, shares_over_seeds
from jaxdiff.analysis.plan import Plan
from jaxdiff.estimates import Estimate
from tests.report.small_results import make_cell, make_info

# Shares of the models 2 and 6 by seed.
FALLING = ((0.2, 0.21, 0.19, 0.2), (0.1, 0.11, 0.1, 0.09))


def cell(model, seed, share, trained=0.2, gate=0.98, ambiguous=5):
    """A finished cell; odd seeds have the other class as the majority."""
    info = make_info(model, seed, trained)
    if seed % 2:
        info = dataclasses.replace(info, majority=info.minority, minority=info.majority)
    bounds = Estimate(share, n=1000, name="bounds")
    return make_cell(
        info,
        quality=[Estimate(gate, n=1000, name="gate")],
        share=[
            Estimate(share, n=1000, name="share", labels={"share_form": "forced_choice"}),
            bounds.labeled(ambiguous=ambiguous, confidence=verdicts.BOUNDS_CONFIDENCE),
        ],
    )


def cells_of(shallow, deep, trained=0.2, **changes):
    """Cells of the models 2 and 6 with these shares by seed."""
    return [
        cell(model, seed, share, trained, **changes)
        for model, shares in (("2", shallow), ("6", deep))
        for seed, share in enumerate(shares)
    ]


def plan_of(number, **changes):
    return Plan(**{"seeds": tuple(range(number)), **changes})


def judge_all(cells, seeds, test_images=1000, **changes):
    return judge(cells, plan_of(seeds, **changes), test_images)


def test_verdicts_of_intervals():
    intervals = {
        (-0.9, -0.3, 0.0): "supported",
        (-0.9, -0.3, 0.3): "undecided",
        (-0.2, 0.4, 0.0): "no effect of half the paper's size",
        (-0.2, 0.4, 0.1): "undecided",
        (-0.2, -0.1, 0.0): "smaller than half the paper's",
        (-0.2, -0.1, 0.1): "undecided",
        (-0.9, 0.1, 0.0): "undecided",
    }
    assert {case: verdicts.judge_contrast(*case) for case in intervals} == intervals


def test_equivalence_of_intervals():
    intervals = {(0.19, 0.21): "supported", (0.1, 0.17): "contradicted", (0.17, 0.2): "undecided"}
    assert {ends: verdicts.judge_equivalence(*ends, 0.2) for ends in intervals} == intervals


def test_a_blocked_mean_of_two_roles():
    """Against a regression on the role with effects that sum to 0."""
    values = [0.1, -0.3, 0.2, -0.5, 0.05, -0.35]
    majorities = [6, 9, 6, 9, 6, 9]
    mean = contrasts.BlockedMean.of(values, majorities)
    sign = np.array([1, -1] * 3)
    design = np.stack([np.ones(6), sign], axis=1)
    coefficients, residuals, _, _ = np.linalg.lstsq(design, np.array(values), rcond=None)
    error = math.sqrt(residuals[0] / 4 * np.linalg.inv(design.T @ design)[0, 0])
    assert mean.value == pytest.approx(coefficients[0])
    assert mean.standard_error == pytest.approx(error)
    assert mean.dof == 4
    assert mean.p_value == pytest.approx(2 * stats.t.sf(abs(mean.value) / error, 4))
    estimate = mean.estimate()
    assert estimate.high - estimate.value == pytest.approx(stats.t.ppf(0.975, 4) * error)


def test_roles_of_unequal_number_are_weighted_equally():
    """What belongs to a class cancels whatever the numbers of seeds are."""
    effect = {6: 0.3, 9: -0.3}
    mean = contrasts.BlockedMean.of([effect[r] for r in (6, 9, 6)], [6, 9, 6])
    assert mean.value == pytest.approx(0.0)
    assert contrasts.BlockedMean.of([0.1, 0.2], [6, 9]).estimate().low is None


def test_a_shift_by_lost_images_is_that_of_counts():
    """Of 800 and 200 samples, 90 % can be read and the minority is lost 1.5 times as often."""
    lost = 0.1 / (1.5 * 0.2 + 0.8)
    readable = np.array([800 * (1 - lost), 200 * (1 - 1.5 * lost)])
    assert readable.sum() == pytest.approx(900)
    shift = math.log(readable[1] / readable[0]) - logit(0.2)
    assert contrasts.shift_by_lost_images(0.9, 0.2, 1.5) == pytest.approx(shift)
    assert contrasts.shift_by_lost_images(0.9, 0.2, 1.0) == 0.0
    assert contrasts.shift_by_lost_images(0.3, 0.2, 10.0) == -math.inf, "none is left"


def test_the_critical_ratio_shifts_the_interval_to_0():
    data = [((0.8, 0.2), 300)]
    contrast = contrasts.build_contrast(cells_of(*FALLING, gate=0.9), "2", "6", range(4), data)
    ratio = contrast.critical_ratio(0.15)
    assert contrast.widening(ratio) == pytest.approx(0.15)
    assert contrast.critical_ratio(0.0) == 1.0
    # All that is lost, were it the minority, moves the logit by log(1 - .1 / .1) at most.
    for gate, ratio in ((1.0, math.inf), (0.0, 1.0)):
        cells = cells_of(*FALLING, gate=gate)
        contrast = contrasts.build_contrast(cells, "2", "6", range(4), data)
        assert contrast.critical_ratio(0.15) == ratio


def test_the_verdicts_of_a_primary_claim():
    claim = judge_all(cells_of(*FALLING), 4)[0]
    assert claim.rank == "primary"
    assert claim.verdict == "supported"
    assert claim.estimate.high < 0
    changes = logit(FALLING[1]) - logit(FALLING[0])
    assert claim.estimate.value == pytest.approx(changes.mean())
    shallow = FALLING[0]
    equal = judge_all(cells_of(shallow, (0.2, 0.211, 0.19, 0.201)), 4)[0]
    assert equal.verdict == "no effect of half the paper's size"
    little = judge_all(cells_of(shallow, (0.18, 0.189, 0.171, 0.18), gate=0.999), 4)[0]
    assert little.verdict == "smaller than half the paper's"
    wide = judge_all(cells_of((0.2, 0.2, 0.3, 0.3), (0.1, 0.1, 0.3, 0.3)), 4)[0]
    assert wide.verdict == "undecided"
    assert wide.critical_ratio == 1.0


def test_what_cannot_be_read_can_undo_a_verdict():
    """At a gate of .85 a change of .06 can be loss alone."""
    shares = ((0.2, 0.21, 0.19, 0.2), (0.19, 0.1995, 0.1805, 0.19))
    clear = judge_all(cells_of(*shares, gate=0.999), 4)[0]
    assert clear.estimate.high + clear.widening < 0
    unclear = judge_all(cells_of(*shares, gate=0.85), 4)[0]
    assert unclear.estimate == clear.estimate
    assert clear.verdict == "smaller than half the paper's"
    assert unclear.verdict == "no effect of half the paper's size"
    assert unclear.critical_ratio < verdicts.LOST_RATIO


def test_a_low_gate_is_not_readable():
    claim = judge_all(cells_of(*FALLING, gate=0.79), 4)[0]
    assert claim.verdict == "not readable"
    assert claim.why == (
        "the mean quality gate is 0.79 of model 2 and 0.79 of model 6; 0.8 is needed"
    )


def test_missing_evidence_leaves_a_claim_undecided():
    few_images = judge_all(cells_of(*FALLING), 4, test_images=50)[0]
    assert few_images.verdict == "undecided"
    assert few_images.why == "the classifier is tested on 50 images a class; 950 are needed"
    one_seed = judge_all(cells_of([0.2], [0.1]), 1)[0]
    assert one_seed.verdict == "undecided"
    assert one_seed.why == "one seed has no interval between seeds"
    assert one_seed.estimate.low is None
    odd = judge_all(cells_of((0.2, 0.2, 0.2), (0.1, 0.11, 0.1)), 3)[0]
    assert odd.verdict == "undecided"
    assert odd.why.startswith("2 planned seeds have the first class as the majority and 1 the sec")
    even = judge(cells_of(*FALLING), Plan((0, 2)), 1000)[0]
    assert even.verdict == "undecided", "one role alone"
    two = judge_all(cells_of((0.2, 0.2), (0.1, 0.11)), 2)[0]
    assert two.why == "there are too few seeds for an interval; plan at least 4"
    equal = judge_all(cells_of((0.2,) * 4, (0.1,) * 4), 4)[0]
    assert equal.why == "the seeds do not differ, so that nothing is tested"


def test_an_unfinished_study_has_no_verdict():
    cells = [c for c in cells_of(*FALLING) if c.name != "6-s3"]
    for claim in judge_all(cells, 4)[:2]:
        assert claim.verdict == "interim"
        assert claim.estimate.low is None
        assert claim.p_value is None
    claim = judge_all(cells, 4)[0]
    assert claim.why == "3 of 4 planned seeds are finished"


def test_cells_that_were_not_planned_are_in_no_claim():
    cells = cells_of(*FALLING)
    planned = judge_all(cells, 4)[0]
    more = cells + [cell(model, seed, 0.2) for model in ("2", "6") for seed in (4, 5)]
    assert judge_all(more, 4)[0].estimate == planned.estimate
    others = [cell("7", seed, 0.1) for seed in range(4)]
    assert judge_all(cells + others, 4, models=("2", "6"))[0].claim.startswith("model 6")
    data = (((0.8, 0.2), 300),)
    other_mix = cells_of(FALLING[0], FALLING[0], trained=0.3)
    assert judge_all(cells + other_mix, 4, data=data)[0].estimate == planned.estimate


def test_seeds_whose_loss_was_not_finite_are_left_out():
    cells = cells_of((*FALLING[0], 0.2, 0.2), (*FALLING[1], 0.1, 0.1))
    finished = [c for c in cells if c.info.seed not in (4, 5) or c.info.model == "2"]
    diverged = [make_info("6", 4), make_info("6", 5)]
    claim = judge(finished, plan_of(6), 1000, diverged)[0]
    assert claim.verdict == "supported"
    assert claim.mean.n == 4
    # One pair of cells is left out; its role then has a seed less than the other.
    finished = [c for c in cells if c.info.seed != 5 or c.info.model == "2"]
    claim = judge(finished, plan_of(6), 1000, diverged[1:])[0]
    assert claim.verdict == "supported"
    assert claim.mean.n == 5
    # Of one role no seed is left: what belongs to a class no longer cancels.
    of_one_role = [make_info("6", seed) for seed in (1, 3, 5)]
    finished = [c for c in cells if c.info.seed % 2 == 0 or c.info.model == "2"]
    claim = judge(finished, plan_of(6), 1000, of_one_role)[0]
    assert claim.verdict == "undecided"
    assert claim.why.startswith("only seeds of one role are left")
    of_both_roles = [make_info("6", seed) for seed in range(6)]
    claim = judge(
        [c for c in cells if c.info.model == "2"],
        plan_of(6, primary=("2", "6")),
        1000,
        of_both_roles,
    )[0]
    assert (claim.verdict, claim.mean.n) == ("undecided", 0)
    assert claim.why == "for every planned seed, the training of at least one model diverged"
    # A control, and training data that were not planned, leave the claim alone.
    plan = plan_of(6, primary=("2", "6"), secondary=(("2", "7"),), data=(((0.8, 0.2), 300),))
    other = dataclasses.replace(make_info("6", 4), n=50)
    assert judge(cells, plan, 1000, [make_info("7", 3), other])[0].mean.n == 6


def test_a_seed_that_diverged_on_one_mix_stays_in_the_claims_about_the_others():
    cells = cells_of(*FALLING) + cells_of(*FALLING, trained=0.3)
    finished = [c for c in cells if c.info.name != "6-s3" or c.info.proportions == (0.8, 0.2)]
    diverged = [make_info("6", 3, trained=0.3)]
    pooled, *others = judge(finished, plan_of(4, look=0), 1000, diverged)
    seeds = {claim.data: claim.mean.n for claim in others if claim.contrast is not None}
    assert pooled.mean.n == 3
    assert seeds == {"80-20, N = 300": 4, "70-30, N = 300": 3}


@pytest.mark.parametrize("trained", [0.5, 0.0])
def test_there_is_no_claim_without_a_minority(trained):
    cells = cells_of(*FALLING, trained=trained)
    assert judge_all(cells, 4, secondary=(("2", "6"),), named=("equal_loss",)) == []


def test_a_cell_without_a_sample_of_the_two_classes_is_named():
    cells = cells_of(*FALLING)
    labels = {"confidence": verdicts.BOUNDS_CONFIDENCE, "ambiguous": 0}
    undefined = Estimate.undefined("bounds", 0, **labels)
    share = [cells[-1].sections["share"][0], undefined]
    cells[-1] = dataclasses.replace(cells[-1], sections={**cells[-1].sections, "share": share})
    (claim,) = [c for c in judge_all(cells, 4) if c.claim.endswith("than it was shown")]
    assert claim.verdict == "undecided"
    assert claim.why == "what is compared is undefined for 6-s3"


@pytest.mark.parametrize(
    "changes",
    [
        {"primary": ("2", "7")},
        {"primary": ("2", "6"), "data": (((0.8, 0.2), 300), ((0.9, 0.1), 300))},
    ],
)
def test_a_planned_model_or_mix_without_a_cell_is_waited_for(changes):
    claim = judge_all(cells_of(*FALLING), 4, **changes)[0]
    assert claim.verdict == "interim"
    assert claim.why == "0 of 4 planned seeds are finished"
    assert claim.estimate.value is None


def test_secondary_claims_wait_for_their_whole_family():
    cells = [*cells_of(*FALLING), cell("7", 0, 0.1)]
    plan = {"primary": ("2", "6"), "secondary": (("2", "7"),)}
    primary, *secondary = judge_all(cells, 4, **plan)
    assert primary.verdict == "supported"
    assert {claim.verdict for claim in secondary} == {"interim"}
    at_look = judge_all(cells, 8, look=4, **plan)
    assert [claim.verdict for claim in at_look[:2]] == ["supported", "interim"]


def test_an_undefined_share_is_named():
    cells = cells_of(*FALLING)
    undefined = [Estimate.undefined("share", share_form="loss_corrected")]
    cells[-1] = dataclasses.replace(cells[-1], sections={**cells[-1].sections, "share": undefined})
    claim = judge_all(cells, 4)[0]
    assert claim.verdict == "undecided"
    assert claim.why == "what is compared is undefined for 6-s3"


def test_without_a_gate_nothing_is_readable():
    cells = [dataclasses.replace(c, sections={"share": c.sections["share"]})
             for c in cells_of(*FALLING)]  # fmt: skip
    claim = judge_all(cells, 4)[0]
    assert claim.verdict == "not readable"
    assert claim.why == "no quality gate was measured of model 2 and 6"


def test_groups_of_classes_are_told_apart():
    """Two mixes of four groups with the same shares of the classes are two mixes."""

    def in_groups(cells, shares):
        return [dataclasses.replace(c, config={"proportions": list(shares)}) for c in cells]

    mixes = ((0.4, 0.4, 0.1, 0.1), (0.5, 0.3, 0.1, 0.1))
    cells = in_groups(cells_of(*FALLING), mixes[0])
    cells += in_groups(cells_of(FALLING[0], FALLING[0]), mixes[1])
    for order in (cells, cells[::-1]):
        pooled = judge_all(order, 4, primary=("2", "6"))[0]
        changes = (logit(FALLING[1]) - logit(FALLING[0])) / 2
        assert pooled.estimate.value == pytest.approx(changes.mean())
        rows = [row for row in shares_over_seeds(order) if row.model == "6"]
        assert [row.mix.groups for row in rows] == [mixes[1], mixes[0]]
        assert [len(row.values) for row in rows] == [4, 4]
        assert rows[1].estimate.value < 0.11 < 0.19 < rows[0].estimate.value


def test_one_look_at_its_own_level():
    """Eight seeds with a look at four, which an effect of this size decides."""
    early = judge_all(cells_of(*FALLING), 8, look=4)[0]
    assert early.verdict == "supported"
    assert early.alpha == verdicts.LOOK_ALPHA
    assert early.why == "decided at the planned look after 4 seeds (p < 0.0052)"
    # Later seeds do not change what was decided.
    later = cells_of((*FALLING[0], 0.2, 0.2, 0.2, 0.2), (*FALLING[1], 0.3, 0.3, 0.3, 0.3))
    assert judge_all(later, 8, look=4)[0].estimate == early.estimate
    wide = ((0.2, 0.21, 0.19, 0.2), (0.1, 0.15, 0.1, 0.2))
    assert judge_all(cells_of(*wide), 8, look=4)[0].verdict == "interim"
    final = judge_all(cells_of(wide[0] * 2, wide[1] * 2), 8, look=4)[0]
    assert final.alpha == verdicts.FINAL_ALPHA


def test_controls_do_not_change_the_primary_claim():
    cells = cells_of(*FALLING) + [cell("7", seed, 0.2) for seed in range(4)]
    first = judge_all(cells, 4, primary=("2", "6"))[0]
    assert first.claim == "model 6 draws fewer of the minority than model 2"
    pair = judge_all(cells, 4, primary=("2", "7"))[0]
    assert pair.claim.startswith("model 7")
    secondary = judge_all(cells, 4, primary=("2", "6"), secondary=(("2", "7"),))[1]
    assert secondary.rank == "secondary"
    assert secondary.claim.startswith("model 7")


def test_the_primary_claim_pools_the_mixes_by_seed():
    mixes = cells_of(*FALLING) + cells_of(FALLING[0], FALLING[0], trained=0.3)
    pooled, *others = judge_all(mixes, 4)
    changes = (logit(FALLING[1]) - logit(FALLING[0])) / 2
    assert pooled.estimate.value == pytest.approx(changes.mean())
    assert pooled.mean.n == 4
    by_mix = [claim for claim in others if claim.contrast is not None]
    assert sorted(claim.estimate.value for claim in by_mix) == pytest.approx(
        [2 * changes.mean(), 0.0]
    )
    # Equal classes have no minority, and one class alone has none either.
    for trained in (0.5, 0.0):
        others = cells_of(FALLING[0], FALLING[0], trained=trained)
        estimate = judge_all(cells_of(*FALLING) + others, 4)[0].estimate
        assert estimate.value == pytest.approx(2 * changes.mean())


def test_holm_demotes_every_verdict_and_widens_its_interval():
    """Alone this is smaller than half the paper's; among four mixes it is not below 0."""
    shares = (FALLING[0], (0.189, 0.198, 0.171, 0.18))
    alone = judge_all(cells_of(*shares, gate=0.9999), 4)[0]
    assert alone.verdict == "smaller than half the paper's"
    trained = (0.2, 0.21, 0.22, 0.23)
    mixes = [c for share in trained for c in cells_of(*shares, share, gate=0.9999)]
    secondary = [claim for claim in judge_all(mixes, 4) if claim.rank == "secondary"]
    by_mix = [claim for claim in secondary if claim.contrast is not None]
    assert len(by_mix) == 4
    for claim in by_mix:
        assert claim.alpha < verdicts.ALPHA
        width = claim.estimate.high - claim.estimate.low
        assert width > alone.estimate.high - alone.estimate.low
        assert claim.p_value == pytest.approx(5 * alone.p_value), "four mixes, and the data"
        assert claim.verdict != alone.verdict


def test_amplified_against_the_data_is_judged_by_the_bounds():
    def verdict(share, ambiguous):
        cells = [cell("2", seed, share + 0.002 * (seed // 2), ambiguous=ambiguous)
                 for seed in range(4)]  # fmt: skip
        claim = next(c for c in judge_all(cells, 4) if c.claim.endswith("than it was shown"))
        return claim.verdict

    assert verdict(0.12, 20) == "supported"
    assert verdict(0.12, 200) == "undecided", "with all of them the minority's share is .22"
    assert verdict(0.3, 20) == "contradicted"


def test_alignment_takes_24_seeds():
    def alignment(seeds, gate=0.98):
        shares = [0.2 + 0.001 * (seed // 2 % 2) for seed in range(seeds)]
        cells = [cell("2", seed, share, gate=gate) for seed, share in enumerate(shares)]
        return next(c for c in judge_all(cells, seeds) if c.claim.endswith("within 2 points"))

    assert alignment(24).verdict == "supported"
    assert alignment(24, gate=0.5).verdict == "not readable"
    few = alignment(6)
    assert few.verdict == "undecided"
    assert few.why == "a margin of 2 points takes 24 seeds: read the interval alone"
    assert few.estimate.low < 0.2005 < few.estimate.high


def test_a_pair_with_fewer_seeds_waits_for_those_alone():
    cells = cells_of((0.2, 0.21, 0.19, 0.2, 0.2, 0.21), (0.1, 0.11, 0.1, 0.09, 0.1, 0.1))
    cells += [cell("3", seed, 0.19 + 0.001 * seed) for seed in range(4)]

    def judge_pair(*seeds):
        plan = plan_of(6, primary=("2", "6"), secondary=(("2", "3"),), model_seeds={"3": seeds})
        claims = judge(cells, plan, 1000)
        return next(claim for claim in claims if "model 3" in claim.claim)

    assert judge_pair(0, 1, 2, 3).mean.n == 4
    assert judge_pair(0, 1, 2, 3).verdict != "interim"
    assert judge_pair(0, 1, 2, 3, 4).verdict == "interim"
    assert judge_pair(0, 2, 3).why.startswith("2 planned seeds have the first class")


def test_a_study_of_older_code_is_bound_to_its_seeds():
    plan = Plan.from_study({"seeds": [0, 1], "primary": ["2", "6"]})
    assert plan.seeds == (0, 1)
    assert plan.primary == ("2", "6")
    assert plan.data == ()
    planned = {"seeds": [0, 1], "n": [300], "proportions": [[0.8, 0.2]], "primary": ["2", "3"]}
    begun = Plan.from_study({"seeds": [0, 1, 2], "planned": planned})
    assert begun.seeds == (0, 1)
    assert begun.primary == ("2", "3")
    assert begun.data == (((0.8, 0.2), 300),)


def test_shares_over_seeds_need_degrees_of_freedom():
    cells = [cell("2", 0, 0.2), *(cell("6", seed, 0.1 + 0.01 * seed) for seed in range(4))]
    shallow, deep = shares_over_seeds(cells)
    assert shallow.estimate.low is None
    assert shallow.values == (0.2,)
    assert deep.estimate.low < 0.115 < deep.estimate.high


def test_lost_fractions_over_seeds():
    cells = cells_of(*FALLING)
    lost = [
        make_cell(c.info, loss_by_class=[Estimate(0.1, name="lost", labels={"role": "minority"})])
        for c in cells
    ]
    rows = lost_fractions_over_seeds(lost, "minority")
    assert [(row.model, row.estimate.value) for row in rows] == [
        ("2", pytest.approx(0.1)),
        ("6", pytest.approx(0.1)),
    ]
    assert lost_fractions_over_seeds(lost, "majority") == []
