import math

import numpy as np
import pytest

from jaxdiff.measures import shares

PERFECT = 50 * np.eye(11, dtype=int)


def reading(called, sure=0.95, second=None):
    called = np.array(called)
    probability = np.full((len(called), 11), (1 - sure) / 10)
    probability[np.arange(len(called)), called] = sure
    return shares.Reading(called, probability, called if second is None else np.array(second))


def named(entries):
    return {entry["name"]: entry for entry in entries}


def test_quality_and_disagreement():
    seen = reading([6] * 6 + [9] * 2 + [3] + [10], second=[6] * 5 + [9] * 3 + [4] + [6])
    quality = shares.quality(seen, (6, 9))
    assert [q["name"] for q in quality] == ["gate", "other_class", "no_class", "disagreement"]
    assert [q["value"] for q in quality] == pytest.approx([0.8, 0.1, 0.1, 0.2]), (
        "3 and 4 are both neither: they agree"
    )


def test_every_reading_of_a_perfect_classifier_is_the_share():
    share = named(shares.minority_share(reading([6] * 80 + [9] * 20), 6, 9, PERFECT, PERFECT, 0.2))
    assert list(share) == [
        "classified",
        "corrected",
        "corrected_denoised",
        "corrected_many",
        "second",
        "bounds",
    ]
    for entry in share.values():
        assert entry["value"] == pytest.approx(0.2, abs=1e-6)
        assert entry["low"] < 0.2 < entry["high"]
        assert entry["trained"] == 0.2
    width = {name: entry["high"] - entry["low"] for name, entry in share.items()}
    assert width["corrected"] > width["classified"], "the matrix is uncertain too"


def test_errors_are_corrected_where_they_are_known():
    """The classifier calls a tenth of the sixes nines: of 80 and 20 it calls 72 and 28."""
    confusion = PERFECT * 20
    confusion[6, 6], confusion[6, 9] = 900, 100
    share = named(shares.minority_share(reading([6] * 72 + [9] * 28), 6, 9, confusion, None, 0.2))
    assert share["classified"]["value"] == pytest.approx(0.28)
    assert share["corrected"]["value"] == pytest.approx(0.2)
    assert share["corrected_many"]["value"] == pytest.approx(0.2, abs=1e-4)
    assert "corrected_denoised" not in share


def test_many_classes_are_told_apart_where_two_are_not_enough():
    """Half of what is called 9 are fours: the two-class correction cannot know, the ten-class one does."""
    confusion = PERFECT * 20
    confusion[4, 4], confusion[4, 9] = 500, 500
    called = [6] * 60 + [9] * 30 + [4] * 10  # of 60 sixes, 20 nines and 20 fours
    share = named(shares.minority_share(reading(called), 6, 9, confusion, None, 0.25))
    assert share["corrected"]["value"] == pytest.approx(1 / 3)
    assert share["corrected_many"]["value"] == pytest.approx(0.25, abs=1e-3)


def test_true_shares_are_the_least_squares_on_the_simplex():
    rates = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.3, 0.7]])
    np.testing.assert_allclose(
        shares.true_shares(np.array([0.5, 0.3, 0.2]) @ rates, rates), [0.5, 0.3, 0.2], atol=1e-6
    )
    called = np.array([0.0, 0.0, 1.0])  # no mix gives this: the answer lies on the edge
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    best = min(grid, key=lambda p: np.sum((np.array(p) @ rates - called) ** 2))
    np.testing.assert_allclose(shares.true_shares(called, rates), best, atol=0.01)


def test_bounds_hold_every_ambiguous_image():
    sure, unsure = (
        reading([6] * 60 + [9] * 20 + [3] * 20),
        reading([6] * 60 + [9] * 20 + [3] * 20, sure=0.6),
    )
    bounds = shares.bounds(sure, 6, 9)
    assert bounds["ambiguous"] == 20
    assert bounds["low"] < 0.2
    assert bounds["high"] > 0.4
    assert shares.bounds(unsure, 6, 9)["ambiguous"] == 100


def test_amplification_on_three_scales():
    entry = {
        "name": "classified",
        "value": 0.1,
        "low": 0.05,
        "high": 0.2,
        "n": 1000,
        "interval": "Wilson 95 %",
    }
    found = named(shares.amplification(entry, 0.2))
    assert found["absolute"]["value"] == pytest.approx(0.1)
    assert found["odds_ratio"]["value"] == pytest.approx(9 / 4)
    assert found["exponent"]["value"] == pytest.approx(math.log(9) / math.log(4))
    assert found["exponent"]["low"] == pytest.approx(1.0), "the high end is the trained share"
    assert all(e["low"] <= e["value"] <= e["high"] for e in found.values())
    paper = shares.amplification(entry | {"value": 0.2885}, 0.4168)
    assert named(paper)["exponent"]["value"] == pytest.approx(2.69, abs=0.01), "Table 2, depth 6"
    assert "exponent" not in named(shares.amplification(entry, 0.5))


def test_nothing_to_share_is_no_share():
    assert shares.minority_share(reading([3, 10]), 6, 9, PERFECT, None, 0.2) == []
    one = shares.minority_share(reading([9, 10]), 6, 9, np.zeros((11, 11), int), None, 0.2)
    assert "corrected" not in named(one), "no test image of a class, no correction between them"
