"""Verdicts on the bypassed mid-block, from rows whose truth is known."""

import numpy as np
import pytest

from jaxdiff.analysis import bypass
from jaxdiff.analysis import similarity as likeness


def row(key, form, p, value, half=0.01, values=None):
    found = bypass.QUANTITIES[key].where | {
        "form": form,
        "p": p,
        "value": value,
        "low": value - half,
        "high": value + half,
    }
    return found | ({} if values is None else {"values": list(values)})


def cell(seed=0, kin="a", **values):
    """A cell's rows from {quantity: (at 0, at 1)}."""
    rows = [
        row(key, form, p, v)
        for key, ends in values.items()
        for form, p, v in zip(("", "blend"), (0.0, 1.0), ends, strict=True)
    ]
    return {
        "model": "2",
        "depth": 2,
        "seed": seed,
        "n": 300,
        "proportions": [0.8, 0.2],
        "prediction": "eps",
        "size": 16,
        "kin": kin,
        "rows": rows,
    }


def told(*cells):
    return {r["claim"]: r for r in bypass.verdicts({str(i): c for i, c in enumerate(cells)})}


def test_signs_that_agree_support_a_claim_and_those_that_disagree_leave_it_open():
    found = told(cell(nearest=(0.2, 0.1), k_eff=(9.0, 2.0), gate=(0.8, 0.9), kid=(0.3, 0.1)))
    assert {claim: r["verdict"] for claim, r in found.items()} == {
        "moves toward high variance": "supported", "more realistic": "supported"}  # fmt: skip
    assert "given this one model" in found["more realistic"]["why"]
    found = told(cell(nearest=(0.2, 0.1), k_eff=(2.0, 9.0), gate=(0.9, 0.9), kid=(0.1, 0.3)))
    assert {claim: r["verdict"] for claim, r in found.items()} == {
        "moves toward high variance": "undecided", "more realistic": "contradicted"}  # fmt: skip
    assert "against it: effective k" in found["moves toward high variance"]["why"]


def test_where_the_gate_falls_nearness_is_no_support():
    """Samples that are no digits may be near to everything; a larger distance still speaks against the claim."""
    found = told(cell(nearest=(0.2, 0.1), gate=(0.9, 0.2)))["moves toward high variance"]
    assert found["verdict"] == "undecided"
    assert "the gate falls" in found["why"]
    assert (
        told(cell(nearest=(0.1, 0.2), gate=(0.9, 0.2)))["moves toward high variance"]["verdict"]
        == "contradicted"
    )


def test_over_seeds_the_interval_is_of_their_changes():
    """Levels that differ by ten times the change do not widen it; one seed that goes the other way does."""
    same = [
        cell(seed, nearest=(level, level - 0.1 - 0.001 * seed), gate=(0.9, 0.9))
        for seed, level in enumerate((1.0, 2.0, 3.0))
    ]
    assert told(*same)["moves toward high variance"]["verdict"] == "supported"
    moved = bypass.change(same, "nearest", "blend", 1.0)
    assert moved[0] == pytest.approx(-0.101)
    assert moved[2] < 0
    other = [*same[:2], cell(2, nearest=(3.0, 3.2), gate=(0.9, 0.9))]
    assert told(*other)["moves toward high variance"]["verdict"] == "undecided"
    assert len(bypass.groups({str(i): c for i, c in enumerate(other)})) == 1


def test_cells_of_other_settings_are_no_seeds_of_each_other():
    a, b = cell(0, nearest=(0.2, 0.1)), cell(1, kin="b", nearest=(0.2, 0.1))
    assert len(bypass.groups({"a": a, "b": b})) == 2


def test_a_quantity_that_one_seed_lacks_is_not_told_from_the_other():
    both = [cell(0, nearest=(0.2, 0.1), k_eff=(9.0, 2.0)), cell(1, nearest=(0.2, 0.12))]
    assert bypass.change(both, "k_eff", "blend", 1.0) is None
    assert bypass.change(both, "nearest", "blend", 1.0) is not None


def test_seeds_that_agree_to_the_last_digit_decide_nothing():
    """Counts can: their t interval has no width."""
    same = [cell(seed, nearest=(0.2, 0.1), gate=(0.5, 0.5)) for seed in (0, 1)]
    assert told(*same)["moves toward high variance"]["verdict"] == "undecided"


def test_counts_of_one_cell_are_told_apart_by_mcnemar():
    """Of 12 samples 4 become digits and none ceases to be one: p = .125; of 24, 8: p = .008."""
    for count, verdict in ((12, "undecided"), (24, "supported")):
        before = np.zeros(count)
        after = (np.arange(count) < count // 3).astype(float)
        rows = [
            row("gate", form, p, v.mean(), 0.01, v)
            for form, p, v in (("", 0.0, before), ("blend", 1.0, after))
        ]
        assert told(cell() | {"rows": rows})["more realistic"]["verdict"] == verdict


def test_one_cells_samples_are_compared_in_pairs():
    """Values that vary widely and all fall by .1: decided in pairs, and not from the two intervals."""
    before = np.random.default_rng(0).normal(size=50)
    after = before - 0.1 + 0.01 * np.random.default_rng(1).normal(size=50)
    own = cell() | {
        "rows": [
            row("nearest", "", 0.0, before.mean(), 0.3, before),
            row("nearest", "blend", 1.0, after.mean(), 0.3, after),
        ]
    }
    assert bypass.change([own], "nearest", "blend", 1.0)[2] < 0
    alone = cell() | {"rows": [{k: v for k, v in r.items() if k != "values"} for r in own["rows"]]}
    assert bypass.change([alone], "nearest", "blend", 1.0)[2] > 0


def test_a_change_that_no_one_could_see_does_not_count():
    """A fall of .002 of .2 in every sample is one part in a hundred; .0015 is less."""
    before = np.random.default_rng(0).normal(0.2, 0.01, 50)
    for fall, verdict in ((0.0015, "undecided"), (0.003, "supported")):
        after = before - fall
        rows = [
            row("nearest", "", 0.0, 0.2, 0.01, before),
            row("nearest", "blend", 1.0, 0.2, 0.01, after),
        ]
        assert told(cell() | {"rows": rows})["moves toward high variance"]["verdict"] == verdict


def test_an_undefined_quantity_is_passed_over():
    own = cell(nearest=(0.2, 0.1), gate=(0.9, 0.9))
    own["rows"] += [
        row("k_eff", "", 0.0, 5.0),
        row("k_eff", "blend", 1.0, 5.0) | {"value": None, "low": None, "high": None},
    ]
    assert bypass.change([own], "k_eff", "blend", 1.0) is None
    assert told(own)["moves toward high variance"]["verdict"] == "supported"
    assert next(iter(bypass.summary({"a": own}))).startswith(
        "2 (80-20, n = 300, eps, 16 px), blend, p = 0 to 1: quality gate 0.9 -> 0.9"
    )


def pictures(at_1):
    """LPIPS between prompts of two seeds: .5 at guidance 7.5, .3 at 3, .1 at 1; and `at_1` with all bypassed. And .9 at 12, which
    is stronger than the study's own and no control."""

    def entry(value, form="", p=0.0, guidance=7.5):  # fmt: skip
        return {"form": form, "p": p, "guidance": guidance, "between": "prompts", "name": "lpips", "space": "lpips-vgg", "n": 2,
                "value": value, "low": value, "high": value, "values": [value - 0.01, value + 0.01], "interval": ""}  # fmt: skip

    rows = [
        entry(0.9, guidance=12.0),
        entry(0.5),
        entry(0.3, guidance=3.0),
        entry(0.1, guidance=1.0),
        entry(at_1, "blend", 1.0),
    ]
    return {"sd": {"guidance": 7.5, "prompts": ["a", "b"], "seeds": [0, 1], "rows": rows}}


@pytest.mark.parametrize(
    ("at_1", "sentence"),
    [
        (0.2, "A guidance scale of about 2.0, nothing bypassed, makes prompts as alike"),
        (0.6, "Prompts are no more alike than with nothing bypassed."),
        (0.05, "No guidance scale down to 1 makes prompts as alike (0.1 at the least)."),
    ],
)
def test_what_bypassing_does_is_told_as_a_guidance_scale(at_1, sentence):
    (found,) = likeness.summary(pictures(at_1))
    assert sentence in found
    assert ("alike more" in found) == (at_1 < 0.5)
