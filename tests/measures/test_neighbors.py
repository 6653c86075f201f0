import numpy as np
import pytest

from jaxdiff.measures import exact_knn, knn_host, knn_references
from jaxdiff.measures.neighbors import nearest, neighbor_estimates

pytestmark = pytest.mark.accelerator


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(exact_knn, "QUERY_BLOCK", 32)
    monkeypatch.setattr(knn_references, "REFERENCE_BLOCK", 64)
    monkeypatch.setattr(knn_host, "QUERY_BLOCK", 32)
    monkeypatch.setattr(knn_host, "REFERENCE_BLOCK", 64)
    monkeypatch.setattr(knn_host, "GROUP", 4)
    monkeypatch.setattr(knn_host, "DEPTH", 16)
    monkeypatch.setattr(knn_host, "RANKED_PAIRS", 8)


@pytest.fixture(params=["host", "devices"])
def path(request, monkeypatch):
    """Both ways of finding the candidates, whatever this machine would choose."""
    monkeypatch.setattr(exact_knn, "has_accelerator", lambda: request.param == "devices")
    return request.param


def sort_all(queries, references, metric):
    """All values, and the order of the references of each query, by brute force."""
    if metric == "euclidean":
        values = np.linalg.norm(queries[:, None] - references[None], axis=-1)
        return values, np.argsort(values, axis=1)
    query_length = np.linalg.norm(queries, axis=1)[:, None]
    reference_length = np.linalg.norm(references, axis=1)[None]
    values = queries @ references.T / (query_length * reference_length)
    return values, np.argsort(-values, axis=1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_brute_force_over_several_blocks(metric, path):
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(70, 20)) + 5
    references = rng.normal(size=(333, 20)) + 5
    expected_values, expected_order = sort_all(queries, references, metric)
    values, indices = nearest(queries.astype(np.float32), references.astype(np.float32), 7, metric)
    order = expected_order[:, :7]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(values, np.take_along_axis(expected_values, order, 1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_references_on_the_devices_give_the_same_bits(monkeypatch, metric, dtype, k):
    """Several blocks of both, ties, and candidates beyond those that are compared there."""
    rng = np.random.default_rng(0)
    references = rng.integers(0, 256, (333, 20)).astype(dtype)
    references[200:230] = references[:30]
    queries = np.concatenate([references[:20], rng.integers(0, 256, (50, 20)).astype(dtype)])
    expected = knn_host.search(queries, references, k, metric)
    monkeypatch.setattr(knn_references, "fits_devices", lambda rows, devices: True)
    monkeypatch.setattr(exact_knn, "has_accelerator", lambda: True)
    on_devices = nearest(queries, references, k, metric)
    np.testing.assert_array_equal(on_devices.values, expected.values)
    np.testing.assert_array_equal(on_devices.indices, expected.indices)
    assert on_devices.values.dtype == expected.values.dtype


def test_distances_in_whole_numbers_are_exact_up_to_the_largest(monkeypatch):
    """At 104 px RGB the sum of squares still has 31 bits; at 105 the host takes over."""
    monkeypatch.setattr(knn_references, "fits_devices", lambda rows, devices: True)
    monkeypatch.setattr(exact_knn, "has_accelerator", lambda: True)
    for size, is_exact in ((104, True), (105, False)):
        rows = np.full((8, size * size * 3), 255, np.uint8)
        references = knn_references.References(rows)
        queries = np.zeros((1, rows.shape[1]), np.uint8)
        candidates = np.zeros((1, 1), np.int32)
        assert references.has_exact_distances(queries, candidates) is is_exact
        values = nearest(queries, rows, 1).values
        assert values[0, 0] == np.float32(255 * np.sqrt(rows.shape[1]))


def compare_all(queries, references, k, metric):
    """The k nearest by comparing every pair in float64; ties by index."""
    compare, sign = knn_host.COMPARISONS[metric]
    values = np.concatenate(
        [compare(query.astype(np.float64), references[None]) for query in queries[:, None]]
    )
    order = np.argsort(sign * values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, 1).astype(np.float32), order


def make_copies(rng, d):
    """Many more copies of a reference than neighbors, apart from each other."""
    rows = rng.normal(size=(300, d))
    rows[::3] = rows[0]
    return rows


def make_close(rng, d):
    """Differences far below what float32 products tell apart."""
    return 1.0 + 1e-5 * rng.normal(size=(300, d))


def make_outlier(rng, d):
    """One reference so long that its error bound makes candidates of all of its block."""
    rows = rng.normal(size=(300, d))
    rows[123] *= 1e4
    return rows


def make_tiny(rng, d):
    """Products that float32 cannot hold."""
    return 1e-25 * rng.normal(size=(300, d))


MAKERS = [make_copies, make_close, make_outlier, make_tiny]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_host_finds_exactly_what_comparing_all_pairs_finds(make, dtype, metric, k):
    rng = np.random.default_rng(0)
    references = make(rng, 50).astype(dtype)
    if metric == "cosine" and make is make_tiny:
        references *= dtype(1e15)  # shorter ones have no cosine that float32 tells
    spread = references.std()
    noise = rng.normal(size=(20, 50)).astype(dtype) * spread
    queries = np.concatenate([references[:20], references[:20] + noise])
    values, indices = knn_host.search(queries, references, k, metric)
    expected_values, expected_indices = compare_all(queries, references, k, metric)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(values, expected_values)


def test_scores_stay_within_the_bound_of_their_errors():
    """The largest error of products of equal signs is near to what their number allows."""
    rng = np.random.default_rng(0)
    for d in (1, 16, 17, 300):
        rows = rng.random((200, d)).astype(np.float32) + 1
        projected = knn_host._project(rows, "euclidean", np.zeros((1, d), np.float32))
        exact = rows.astype(float) @ rows.T.astype(float)
        exact -= np.square(rows.astype(float)).sum(1)[None] / 2
        error = np.abs(knn_host._scores(projected, projected) - exact).max(axis=1)
        assert (error <= knn_host._bound_error(projected, projected.largest())).all()


def test_values_beyond_float32_are_left_to_float64():
    references = np.random.default_rng(0).normal(size=(300, 4)) * 1e30
    values, indices = knn_host.search(references[:5], references, 3, "euclidean")
    expected_values, expected_indices = compare_all(references[:5], references, 3, "euclidean")
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(values, expected_values)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_copies_of_long_rows_are_equal_in_whatever_part_they_are_compared(monkeypatch, metric):
    monkeypatch.setattr(knn_host, "DEPTH", 4096)
    rng = np.random.default_rng(0)
    references = np.repeat(rng.normal(size=(1, 12288)), 9, axis=0)  # parts of 8 and of 1
    queries = references[:1] + rng.normal(size=(20, 12288))
    _, indices = knn_host.search(queries, references, 9, metric)
    np.testing.assert_array_equal(indices, np.tile(np.arange(9), (20, 1)))


class Device:
    """A device of a platform, with a limit of its memory or without one."""

    def __init__(self, platform, limit):
        self.platform = platform
        self.limit = limit

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


@pytest.mark.parametrize(
    ("platform", "limit", "expected"),
    [("gpu", 3200, True), ("gpu", 3196, False), ("tpu", None, False), ("cpu", 10**9, False)],
)
def test_references_stay_where_a_quarter_of_the_memory_holds_them(platform, limit, expected):
    rows = np.zeros((10, 20))  # 800 bytes as float32
    assert knn_references.fits_devices(rows, [Device(platform, limit)]) is expected


@pytest.mark.parametrize(
    ("platform", "k", "margin"),
    [("gpu", 1, 8), ("gpu", 8, 8), ("gpu", 10, 6), ("gpu", 12, 4), ("gpu", 13, 8), ("cpu", 10, 8)],
)
def test_candidates_fit_the_top_k_of_a_gpu(platform, k, margin):
    assert exact_knn.choose_margin(k, platform) == margin


def test_uint8_images_and_ties_by_index(path):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)).astype(np.uint8)
    doubled = np.concatenate([images, images])
    values, indices = nearest(images, doubled, 2)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(indices, np.stack([np.arange(50), np.arange(50) + 50], 1))


def test_far_from_the_origin_float32_products_still_find_the_nearest(path):
    rng = np.random.default_rng(1)
    references = (1000 + rng.normal(size=(200, 64))).astype(np.float32)
    queries = references[:40] + rng.normal(size=(40, 64)).astype(np.float32) * 0.01
    assert (nearest(queries, references, 1).indices[:, 0] == np.arange(40)).all()


def test_k_of_all_references(path):
    x = np.random.default_rng(0).normal(size=(5, 3))
    assert sorted(nearest(x[:1], x, 5).indices[0]) == [0, 1, 2, 3, 4]


def test_bad_input():
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(ValueError, match="k is 6; with 5 references it must be between 1 and 5"):
        nearest(x, x, 6)
    with pytest.raises(ValueError, match="queries have 2 numbers each and references 3"):
        nearest(x[:, :2], x, 1)
    with pytest.raises(ValueError, match="choose one of euclidean, cosine"):
        nearest(x, x, 1, "manhattan")


def test_both_readings_of_table_3():
    values = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 8.0]])
    estimates = neighbor_estimates(values, (1, 3), {"images": "samples"}, store_values=True)
    readings = {(e.name, e.labels["k"]): e for e in estimates}
    assert readings["kth", 1].values == [1.0, 3.0]
    assert readings["kth", 3].value == 7.0
    assert readings["kth", 3].values is None
    assert readings["mean", 3].value == pytest.approx(4.0)
    assert readings["mean", 3].labels == {"k": 3, "images": "samples"}
