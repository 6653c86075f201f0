import numpy as np
import pytest
from scipy.stats import binomtest

from jaxdiff.measures import flips


def test_counts_and_both_selections():
    roles_a = flips.role_indices(np.array([6, 6, 6, 9, 9, 9, 3]), 6, 9)
    roles_b = flips.role_indices(np.array([6, 9, 6, 6, 6, 9, 6]), 6, 9)
    result = flips.count_flips(roles_a, roles_b)
    assert result.table.tolist() == [[2, 1, 0], [2, 1, 0], [1, 0, 0]]
    assert (result.to_majority, result.to_minority) == (2, 1)
    assert result.p_value == pytest.approx(binomtest(2, 3).pvalue)
    selections = {selection.name: selection.value for selection in result.selections}
    assert selections["minority_in_a"] == pytest.approx(2 / 3)
    assert selections["minority_in_b"] == pytest.approx(1 / 2)


def test_the_entry_of_comparisons_json():
    roles = flips.role_indices(np.array([6, 6, 9]), 6, 9)
    entry = flips.count_flips(roles, roles).to_json()
    assert list(entry) == ["n", "table", "b_count", "c_count", "p_value", "selections"]
    assert (entry["n"], entry["b_count"], entry["c_count"]) == (3, 0, 0)
    assert entry["selections"][0]["interval"] == "Wilson 95 %"


def test_selection_alone_makes_the_papers_effect():
    """Two models that draw the minority of 20 % independently.

    Four fifths of the minority of a "flip" in b, and as many of the minority of b in a.
    """
    rng = np.random.default_rng(0)
    roles_a = rng.binomial(1, 0.2, 5000)
    roles_b = rng.binomial(1, 0.2, 5000)
    result = flips.count_flips(roles_a, roles_b)
    values = [selection.value for selection in result.selections]
    assert values == pytest.approx([0.8, 0.8], abs=0.03)
    assert result.p_value > 0.01


def test_similar_images_are_nearer_than_shuffled_ones():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)

    def distance(a, b):
        return np.abs(a.astype(float) - b).mean(axis=(1, 2, 3))

    values = {
        (estimate.name, estimate.labels["pairing"]): estimate.value
        for estimate in flips.similarity(images, images, distance)
    }
    assert values["lpips", "paired"] == 0
    assert values["lpips", "shuffled"] > 50
    assert values["correlation", "paired"] == pytest.approx(1)
    assert abs(values["correlation", "shuffled"]) < 0.15


def test_flat_images_have_no_correlation():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    flat = np.zeros((2, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(flips.correlation(flat, images), 0)


def test_the_interval_of_different_noises_counts_each_noise_once():
    """Images have a typicality of their own, by which those of one noise are alike in both models.

    A distance between embeddings; its mean over all pairs of different noises is known. Coverage
    of 300 studies is .95 with a standard error of .013.
    """

    def distance(a, b):
        return np.square(a - b).sum(axis=(1, 2, 3))

    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        lengths = rng.normal(1.0, 0.3, (128, 1, 1, 1))
        images = lengths * rng.normal(size=(128, 4, 4, 1))
        other = images + 0.1 * rng.normal(size=images.shape)
        rows = flips.similarity(images, other, distance)
        (shuffled,) = [r for r in rows if r.name == "lpips" and r.labels["pairing"] == "shuffled"]
        expected = 16 * (2 * (1.0**2 + 0.3**2) + 0.1**2)
        covered.append(shuffled.low <= expected <= shuffled.high)
    assert 0.91 < np.mean(covered) < 0.99


def test_two_images_have_one_mean_of_different_noises():
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 1))
    rows = flips.similarity(images, images, lambda a, b: np.square(a - b).sum(axis=(1, 2, 3)))
    shuffled = [row for row in rows if row.labels["pairing"] == "shuffled"]
    assert [(row.low, row.high) for row in shuffled] == [(None, None)] * 2


def test_one_image_has_no_other_noise():
    assert flips.similarity(np.zeros((1, 4, 4, 1)), np.ones((1, 4, 4, 1)), lambda a, b: a) == []
