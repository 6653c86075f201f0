"""Verdicts on the bypassed mid-block, from estimates whose truth is known."""

import numpy as np
import pytest

from jaxdiff.analysis import bypass, similarity
from jaxdiff.analysis.bypass import PLAIN, QUANTITIES, CellPoints, Group, Point, change_at
from jaxdiff.analysis.similarity import DrawnModel, Similarity
from jaxdiff.estimates import Estimate

FULL = Point("blend", 1.0)
HIGH_VARIANCE = "moves toward high variance"
REALISTIC = "more realistic"


def entry(key, value, half=0.01, values=None):
    """A section's name and an estimate of a quantity."""
    quantity = QUANTITIES[key]
    numbers = None if values is None else list(values)
    estimate = Estimate(
        value, value - half, value + half, name=quantity.name, labels={}, values=numbers
    )
    return quantity.section, estimate


def build_cell(seed=0, kin="a", entries=None, **values):
    """A cell whose quantities are given as (without bypassing, all bypassed)."""
    if entries is None:
        entries = {
            point: [entry(key, pair[i]) for key, pair in values.items()]
            for i, point in enumerate((PLAIN, FULL))
        }
    group = Group("2", "80-20", 300, "eps", 16, kin)
    return CellPoints(f"cell-{kin}-{seed}", group, 2, seed, entries)


def verdicts_of(*cells):
    return {verdict.claim: verdict for verdict in bypass.judge(cells)}


def test_signs_that_agree_support_a_claim_and_those_that_disagree_leave_it_open():
    cell = build_cell(nearest=(0.2, 0.1), k_eff=(9.0, 2.0), gate=(0.8, 0.9), kid=(0.3, 0.1))
    verdicts = verdicts_of(cell)
    assert verdicts[HIGH_VARIANCE].verdict == "supported"
    assert verdicts[REALISTIC].verdict == "supported"
    assert "given this one model" in verdicts[REALISTIC].why
    cell = build_cell(nearest=(0.2, 0.1), k_eff=(2.0, 9.0), gate=(0.9, 0.9), kid=(0.1, 0.3))
    verdicts = verdicts_of(cell)
    assert verdicts[HIGH_VARIANCE].verdict == "undecided"
    assert verdicts[REALISTIC].verdict == "contradicted"
    assert "against it: effective k" in verdicts[HIGH_VARIANCE].why


def test_where_the_gate_falls_nearness_is_no_support():
    """Samples that are no digits may be near to everything; a larger distance still counts."""
    nearer = verdicts_of(build_cell(nearest=(0.2, 0.1), gate=(0.9, 0.2)))[HIGH_VARIANCE]
    assert nearer.verdict == "undecided"
    assert "the gate falls" in nearer.why
    farther = verdicts_of(build_cell(nearest=(0.1, 0.2), gate=(0.9, 0.2)))[HIGH_VARIANCE]
    assert farther.verdict == "contradicted"


def test_over_seeds_the_interval_is_of_their_changes():
    """Levels that differ by ten times the change do not widen it; an opposite seed does."""
    agreeing = [
        build_cell(seed, nearest=(level, level - 0.1 - 0.001 * seed), gate=(0.9, 0.9))
        for seed, level in enumerate((1.0, 2.0, 3.0))
    ]
    assert verdicts_of(*agreeing)[HIGH_VARIANCE].verdict == "supported"
    change = change_at(agreeing, "nearest", FULL)
    assert change.value == pytest.approx(-0.101)
    assert change.high < 0
    opposite = [*agreeing[:2], build_cell(2, nearest=(3.0, 3.2), gate=(0.9, 0.9))]
    assert verdicts_of(*opposite)[HIGH_VARIANCE].verdict == "undecided"
    assert len(bypass.group_cells(opposite)) == 1


def test_cells_of_other_settings_are_no_seeds_of_each_other():
    cells = [build_cell(0, nearest=(0.2, 0.1)), build_cell(1, kin="b", nearest=(0.2, 0.1))]
    assert len(bypass.group_cells(cells)) == 2


def test_a_quantity_that_one_seed_lacks_is_not_taken_from_the_other():
    cells = [
        build_cell(0, nearest=(0.2, 0.1), k_eff=(9.0, 2.0)),
        build_cell(1, nearest=(0.2, 0.12)),
    ]
    assert change_at(cells, "k_eff", FULL) is None
    assert change_at(cells, "nearest", FULL) is not None


def test_seeds_that_agree_to_the_last_digit_decide_nothing():
    """Counts can: their t interval has no width."""
    cells = [build_cell(seed, nearest=(0.2, 0.1), gate=(0.5, 0.5)) for seed in (0, 1)]
    assert verdicts_of(*cells)[HIGH_VARIANCE].verdict == "undecided"


@pytest.mark.parametrize(("count", "verdict"), [(12, "undecided"), (24, "supported")])
def test_counts_of_one_cell_are_decided_by_mcnemar(count, verdict):
    """A third of the samples become digits, none ceases to be one: p = .125, and .008."""
    before = np.zeros(count)
    after = (np.arange(count) < count // 3).astype(float)
    entries = {
        PLAIN: [entry("gate", before.mean(), values=before)],
        FULL: [entry("gate", after.mean(), values=after)],
    }
    assert verdicts_of(build_cell(entries=entries))[REALISTIC].verdict == verdict


def test_one_cells_samples_are_compared_in_pairs():
    """Values that vary widely and all fall by .1 are decided in pairs alone."""
    before = np.random.default_rng(0).normal(size=50)
    after = before - 0.1 + 0.01 * np.random.default_rng(1).normal(size=50)
    paired = {
        PLAIN: [entry("nearest", before.mean(), 0.3, before)],
        FULL: [entry("nearest", after.mean(), 0.3, after)],
    }
    unpaired = {
        PLAIN: [entry("nearest", before.mean(), 0.3)],
        FULL: [entry("nearest", after.mean(), 0.3)],
    }
    assert change_at([build_cell(entries=paired)], "nearest", FULL).high < 0
    assert change_at([build_cell(entries=unpaired)], "nearest", FULL).high > 0


@pytest.mark.parametrize(("fall", "verdict"), [(0.0015, "undecided"), (0.003, "supported")])
def test_a_change_that_no_one_could_see_does_not_count(fall, verdict):
    """A fall of .002 of .2 in every sample is one part in a hundred; .0015 is less."""
    before = np.random.default_rng(0).normal(0.2, 0.01, 50)
    entries = {
        PLAIN: [entry("nearest", 0.2, values=before)],
        FULL: [entry("nearest", 0.2, values=before - fall)],
    }
    assert verdicts_of(build_cell(entries=entries))[HIGH_VARIANCE].verdict == verdict


def test_an_undefined_quantity_is_left_out():
    cell = build_cell(nearest=(0.2, 0.1), gate=(0.9, 0.9))
    cell.estimates[PLAIN].append(entry("k_eff", 5.0))
    cell.estimates[FULL].append(("effective_k", Estimate.undefined("k_eff", why="no fit")))
    assert change_at([cell], "k_eff", FULL) is None
    assert verdicts_of(cell)[HIGH_VARIANCE].verdict == "supported"
    (row,) = bypass.summarize([cell])
    assert row["cells"] == "2 (80-20, n = 300, eps, 16 px)"
    assert row["quality gate"] == "0.9 -> 0.9"
    assert row[HIGH_VARIANCE] == "supported at 1"


def build_model(bypassed):
    """LPIPS between the prompts of two seeds, and `bypassed` with all of it bypassed.

    .5 at the study's guidance of 7.5, .3 at 3, .1 at 1; .9 at 12, which is stronger than the
    study's own and no control.
    """

    def measured(value, point=PLAIN, guidance=7.5):
        values = [value - 0.01, value + 0.01]
        labels = {"between": "prompts", "space": "lpips vgg 0.1"}
        estimate = Estimate(value, value, value, 2, name="lpips", labels=labels, values=values)
        return Similarity("lpips", "prompts", point, guidance, estimate)

    similarities = (
        measured(0.9, guidance=12.0),
        measured(0.5),
        measured(0.3, guidance=3.0),
        measured(0.1, guidance=1.0),
        measured(bypassed, FULL),
    )
    return DrawnModel("sd", 7.5, ("a", "b"), (0, 1), (), (), similarities)


@pytest.mark.parametrize(
    ("bypassed", "control"),
    [
        (0.2, "a guidance scale of about 2.0"),
        (0.6, "prompts are no more alike"),
        (0.05, "no guidance scale down to 1"),
    ],
)
def test_what_bypassing_does_is_given_as_a_guidance_scale(bypassed, control):
    (row,) = similarity.summarize([build_model(bypassed)])
    assert row["as alike without bypassing"] == control
    assert ("more alike" in row["LPIPS between prompts"]) == (bypassed < 0.5)


def test_a_cell_of_bypass_json_is_read_with_its_labels():
    row = {
        "form": "",
        "p": 0.0,
        "measure": "fidelity",
        "name": "kid",
        "value": 0.1,
        "low": 0.0,
        "high": 0.2,
        "n": 5,
        "interval": "jackknife 95 %",
    }
    content = {
        "proportions": [0.8, 0.2],
        "model": "2",
        "n": 300,
        "prediction": "v",
        "size": 16,
        "kin": "abcdefghij",
        "depth": 2,
        "seed": 1,
        "rows": [row | {"against": "train"}, row | {"against": "unseen", "value": 0.3}],
    }
    cell = CellPoints.from_json("cell", content)
    assert cell.group.kin == "abcdefgh"
    assert cell.find("kid", PLAIN).value == 0.3
    assert cell.find("gate", PLAIN) is None
