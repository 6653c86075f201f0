import numpy as np
import pytest

from jaxdiff.measures import neighbors
from jaxdiff.measures.neighbors import nearest


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbors, "QUERY_BLOCK", 32)
    monkeypatch.setattr(neighbors, "REFERENCE_BLOCK", 64)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_brute_force_over_several_blocks_on_eight_devices(metric):
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(70, 20)) + 5, rng.normal(size=(333, 20)) + 5
    if metric == "euclidean":
        table = np.linalg.norm(queries[:, None] - references[None], axis=-1)
        order = np.argsort(table, axis=1)[:, :7]
    else:
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, references)]
        table = unit[0] @ unit[1].T
        order = np.argsort(-table, axis=1)[:, :7]
    values, indices = nearest(queries.astype(np.float32), references.astype(np.float32), 7, metric)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(values, np.take_along_axis(table, order, 1), rtol=1e-5)


def test_images_as_they_are_and_ties_by_index():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    doubled = np.concatenate([images, images])
    values, indices = nearest(images, doubled, 2)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(indices, np.stack([np.arange(50), np.arange(50) + 50], 1))


def test_far_from_the_origin_float32_products_still_find_the_nearest():
    rng = np.random.default_rng(1)
    references = (1000 + rng.normal(size=(200, 64))).astype(np.float32)
    queries = references[:40] + rng.normal(size=(40, 64)).astype(np.float32) * 0.01
    assert (nearest(queries, references, 1)[1][:, 0] == np.arange(40)).all()


def test_k_of_all_references_and_bad_input():
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert sorted(nearest(x[:1], x, 5)[1][0]) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="k is 6; with 5 references it must be between 1 and 5"):
        nearest(x, x, 6)
    with pytest.raises(ValueError, match="queries have 2 numbers each and references 3"):
        nearest(x[:, :2], x, 1)
    with pytest.raises(ValueError, match="choose one of euclidean, cosine"):
        nearest(x, x, 1, "manhattan")
