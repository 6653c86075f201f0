import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdiff.measures import flips


def test_counts_and_both_selections():
    a = flips.roles(np.array([6, 6, 6, 9, 9, 9, 3]), 6, 9)
    b = flips.roles(np.array([6, 9, 6, 6, 6, 9, 6]), 6, 9)
    found = flips.flips(a, b)
    assert found["table"] == [[2, 1, 0], [2, 1, 0], [1, 0, 0]]
    assert (found["b_count"], found["c_count"]) == (2, 1)
    assert found["p_value"] == pytest.approx(binomtest(2, 3).pvalue)
    chosen = {s["name"]: s for s in found["selections"]}
    assert chosen["minority_in_a"]["value"] == pytest.approx(2 / 3)
    assert chosen["minority_in_b"]["value"] == pytest.approx(1 / 2)


def test_selection_alone_makes_the_papers_effect():
    """Two models that draw the minority of 20 % independently: four fifths of a's minority 'flip', and of b's too."""
    rng = np.random.default_rng(0)
    a, b = (rng.binomial(1, 0.2, 5000) for _ in range(2))
    found = flips.flips(a, b)
    assert [s["value"] for s in found["selections"]] == pytest.approx([0.8, 0.8], abs=0.03)
    assert found["p_value"] > 0.01


def test_similar_images_are_nearer_than_shuffled_ones():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)

    def distance(a, b):
        return np.abs(a.astype(float) - b).mean(axis=(1, 2, 3))

    rows = {
        (r["name"], r["pairing"]): r["value"] for r in flips.similarity(images, images, distance)
    }
    assert rows["lpips", "paired"] == 0
    assert rows["lpips", "shuffled"] > 50
    assert rows["correlation", "paired"] == pytest.approx(1)
    assert abs(rows["correlation", "shuffled"]) < 0.15
    flat = np.zeros((2, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(flips.correlation(flat, images[:2]), 0)
