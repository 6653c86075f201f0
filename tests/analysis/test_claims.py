"""Verdicts on made-up shares, by the rules that were fixed before any run."""

import dataclasses

import pytest

from jaxdiff.analysis import claims
from jaxdiff.estimates import Estimate
from tests.report.small_results import make_cell, make_info

SUPPORTED = ((0.2, 0.21, 0.19, 0.2), (0.1, 0.11, 0.1, 0.09))  # shares of the models 2 and 6


def make_estimate(name, value, spread, n=1000):
    return Estimate(value, value - spread, value + spread, n, name=name)


def cell(model, seed, share, trained=0.2, gate=0.95):
    """A finished cell with this share, whose bounds leave little doubt."""
    estimates = [make_estimate(name, share, 0.02) for name in ("classified", "corrected_many")]
    bounds = make_estimate("bounds", share, 0.005)
    return make_cell(
        make_info(model, seed, trained),
        quality=[make_estimate("gate", gate, 0.01)],
        share=[*estimates, bounds],
    )


def cells_of(shallow, deep, trained=0.2, deep_gate=0.95):
    """Cells of the models 2 and 6 with these shares by seed."""
    return [cell("2", seed, share, trained) for seed, share in enumerate(shallow)] + [
        cell("6", seed, share, trained, deep_gate) for seed, share in enumerate(deep)
    ]


def amplification(cells, test_images=1000):
    return claims.primary_claims(cells, test_images)[0]


def alignment(cells, test_images=1000):
    return claims.primary_claims(cells, test_images)[1]


def test_verdicts_of_intervals():
    intervals = {
        (-0.9, -0.3): "supported",
        (-0.2, 0.4): "contradicted",
        (-0.2, -0.1): "smaller than half the paper's",
        (-0.9, 0.1): "undecided",
    }
    assert {ends: claims.verdict(*ends) for ends in intervals} == intervals


def test_equivalence_of_intervals():
    intervals = {(0.19, 0.21): "supported", (0.1, 0.17): "contradicted", (0.17, 0.2): "undecided"}
    assert {ends: claims.equivalent(*ends, 0.2) for ends in intervals} == intervals


def test_the_rules():
    claim = amplification(cells_of(*SUPPORTED))
    assert claim.verdict == "supported"
    assert claim.estimate.high < 0
    shallow = SUPPORTED[0]
    equal = cells_of(shallow, (0.2, 0.215, 0.19, 0.2))
    assert amplification(equal).verdict == "contradicted"
    little = cells_of(shallow, (0.18, 0.189, 0.172, 0.181))
    assert amplification(little).verdict == "smaller than half the paper's"
    assert amplification(cells_of((0.2, 0.3), (0.1, 0.25))).verdict == "undecided"
    assert alignment(cells_of(*SUPPORTED)).verdict == "supported", "the shallow model draws 20 %"


def test_too_few_test_images_leave_a_claim_undecided():
    claim = amplification(cells_of(*SUPPORTED), test_images=50)
    assert claim.verdict == "undecided"
    assert claim.why == "the classifier was tested on 50 images a class; 950 are needed"


def test_one_seed_leaves_a_claim_undecided():
    claim = amplification(cells_of([0.2], [0.1]))
    assert claim.verdict == "undecided"
    assert claim.why == "one seed has no interval between seeds"
    assert claim.estimate.low is None
    assert claim.p_value is None


def test_wide_bounds_leave_a_claim_undecided():
    cells = cells_of(*SUPPORTED)
    estimates = cells[-1].estimates("share")
    wide = dataclasses.replace(estimates[-1], high=0.3)
    sections = {**cells[-1].sections, "share": [*estimates[:-1], wide]}
    cells[-1] = dataclasses.replace(cells[-1], sections=sections)
    claim = amplification(cells)
    assert claim.verdict == "undecided"
    assert "bounds" in claim.why


def test_unequal_gates_leave_a_claim_undecided():
    claim = amplification(cells_of(*SUPPORTED, deep_gate=0.4))
    assert claim.verdict == "undecided"
    assert claim.why.startswith("the models differ in how many samples")


def test_controls_do_not_change_the_primary_claim():
    cells = cells_of(*SUPPORTED) + [cell("7", seed, 0.2) for seed in range(4)]
    first = claims.primary_claims(cells, 1000, bare=["2", "6"])[0]
    assert first.claim == "model 6 draws fewer of the minority than model 2"
    first = claims.primary_claims(cells, 1000, bare=["2", "6"], primary=["2", "7"])[0]
    assert first.claim.startswith("model 7")


def test_a_verdict_must_hold_after_holm():
    """One p under .05 among four mixes is not enough."""
    shares = ((0.2, 0.21, 0.19), (0.12, 0.16, 0.13))
    assert amplification(cells_of(*shares)).verdict == "supported"
    mixes = [c for trained in (0.2, 0.21, 0.22, 0.23) for c in cells_of(*shares, trained=trained)]
    claim = claims.primary_claims(mixes, 1000)[-2]
    assert claim.verdict == "undecided"
    assert "Holm" in claim.why


def test_p_values_are_adjusted_for_the_number_of_claims():
    shares = ((0.2, 0.21, 0.19), (0.15, 0.17, 0.14))
    single = cells_of(*shares)
    double = single + cells_of(*shares, trained=0.3)
    assert amplification(double).p_value == pytest.approx(2 * amplification(single).p_value)


def test_shares_over_seeds_need_two_seeds():
    cells = [cell("2", 0, 0.2), *(cell("6", seed, 0.1 + 0.01 * seed) for seed in range(3))]
    shallow, deep = claims.shares_over_seeds(cells)
    assert shallow.estimate is None
    assert shallow.shares == (0.2,)
    assert deep.estimate.low < 0.11 < deep.estimate.high
