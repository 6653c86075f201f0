"""Exact nearest neighbors by brute force: matrix products a block at a time and a running top-k.

Memory is bounded by the block, never queries x references. On accelerators the references of a
block are sharded over the devices; on a CPU knn_host.py does all of it.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxdiff import parallel
from jaxdiff.measures import knn_host
from jaxdiff.measures.knn_host import COMPARISONS, Neighbors
from jaxdiff.measures.knn_references import EXACT_BLOCK, Candidates, References, Vectors, pad_rows

QUERY_BLOCK = 1024
MIN_ROWS = 64  # queries of the smallest program
MARGIN = 8  # candidates beyond k that are held until the exact values are computed
MIN_MARGIN = 4  # few references are so near to the k-th that float32 products confuse them
GPU_TOP_K = 16  # XLA's own kernel for GPUs ends there, and what is more is sorted


class TopK(NamedTuple):
    """The best references so far of each query, best first, on each device."""

    scores: Float[Array, "device q c"]
    indices: Int[Array, "device q c"]


def nearest(
    queries: Array | np.ndarray, references: Array | np.ndarray, k: int, metric: str = "euclidean"
) -> Neighbors:
    """The k nearest references of each query, best first.

    Candidates come from float32 products; they are compared again by direct difference in float64
    (uint8 rows on an accelerator in whole numbers, which gives the same), and ties are ordered by
    index. On a CPU the candidates are all that the products' errors may have misplaced; on an
    accelerator they are k and a margin.

    Parameters
    ----------
    queries, references
        [N, ...] of any number type (uint8 images are not copied as floats), of one shape except N.
    k
        1 to the number of references.
    metric
        "euclidean" or "cosine".

    Returns
    -------
    values
        Float32 [Q, k]: distances (not squared), or cosine similarities.
    indices
        Int [Q, k] into the references.

    Raises
    ------
    ValueError
        For another metric, where k is out of range, or where the shapes differ.
    """
    query_rows = np.asarray(queries).reshape(len(queries), -1)
    reference_rows = np.asarray(references).reshape(len(references), -1)
    _check(query_rows, reference_rows, k, metric)
    if not has_accelerator():
        return knn_host.search(query_rows, reference_rows, k, metric)
    placed = References(reference_rows)
    blocks = [
        _rank_candidates(rows, placed, candidates, k, metric)
        for rows, candidates in _find_candidates(query_rows, placed, k, metric)
    ]
    values = np.concatenate([block.values for block in blocks])
    indices = np.concatenate([block.indices for block in blocks])
    return Neighbors(values, indices)


def has_accelerator() -> bool:
    """Whether products are computed elsewhere than by the host's BLAS."""
    return jax.default_backend() != "cpu"


class TwoNearest(NamedTuple):
    """The nearest reference of q queries, and the nearest one that is no repeat of it.

    ``is_repeated`` says of which queries a repeat of the nearest reference was passed over.
    """

    distances: Float[np.ndarray, "q 2"]
    indices: Int[np.ndarray, "q 2"]
    is_repeated: Bool[np.ndarray, " q"]


def two_nearest(queries: Vectors, references: Vectors, tolerance: float) -> TwoNearest:
    """The two nearest references by Euclidean distance, of which repeats count as one.

    Parameters
    ----------
    queries, references
        Rows of any number type.
    tolerance
        References at most this far from each other are repeats of one.

    Raises
    ------
    ValueError
        Where all references are repeats of one.
    """
    first = nearest(queries, references, 2)
    distances = first.values.copy()
    indices = first.indices.copy()
    pending = np.arange(len(queries))
    candidates = first
    k = 2
    is_repeated = np.zeros(len(queries), bool)
    while len(pending):
        gaps = _gaps(references, candidates.indices)
        has_other = (gaps > tolerance).any(axis=1)
        other = np.argmax(gaps > tolerance, axis=1)[has_other]
        rows = pending[has_other]
        distances[rows, 1] = candidates.values[has_other, other]
        indices[rows, 1] = candidates.indices[has_other, other]
        pending = pending[~has_other]
        is_repeated[pending] = True
        if not len(pending):
            break
        if k == len(references):
            raise ValueError(
                f"the {k} references are repeats of one image; at least two different ones are "
                "needed"
            )
        # Few images are repeated often, so that few queries come here.
        k = min(4 * k, len(references))
        candidates = nearest(queries[pending], references, k)
    return TwoNearest(distances, indices, is_repeated)


def _gaps(references: Vectors, indices: Int[np.ndarray, "q k"]) -> Float[np.ndarray, "q k"]:
    """Distances of each row's references from the first of them."""
    gaps = np.empty(indices.shape)
    for start in range(0, len(indices), EXACT_BLOCK):
        block = indices[start : start + EXACT_BLOCK]
        first = references[block[:, 0]].astype(np.float64)
        gaps[start : start + EXACT_BLOCK] = knn_host.distances(first, references[block])
    return gaps


def _check(queries: np.ndarray, references: np.ndarray, k: int, metric: str) -> None:
    if metric not in COMPARISONS:
        raise ValueError(f"metric {metric!r} is not known; choose one of {', '.join(COMPARISONS)}")
    if queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} numbers each and references {references.shape[1]}"
        )
    count = len(references)
    if not 1 <= k <= count:
        raise ValueError(f"k is {k}; with {count} references it must be between 1 and {count}")


def _find_candidates(
    queries: Vectors, references: References, k: int, metric: str
) -> Iterator[tuple[Vectors, Candidates]]:
    """Each block of queries, and its best references by float32 products: k and a margin."""
    mesh = references.mesh
    total = len(references.rows)
    count = min(k + choose_margin(k, mesh.devices.flat[0].platform), total)
    # Products of centered rows lose fewer digits far from the origin; cosines need the origin.
    if metric == "euclidean":
        center = np.asarray(np.mean(references.rows, axis=0, dtype=np.float64), np.float32)
    else:
        center = np.zeros(queries.shape[1], np.float32)
    # A power of two, so that sets of like sizes, such as the samples of a class, share a program.
    num_rows = min(QUERY_BLOCK, max(MIN_ROWS, 1 << (len(queries) - 1).bit_length()))
    for start in range(0, len(queries), QUERY_BLOCK):
        rows = queries[start : start + QUERY_BLOCK]
        # An index of -1 stays where a device has too few references; its score loses to all others.
        best = TopK(
            jnp.full((mesh.size, num_rows, count), -jnp.inf),
            jnp.full((mesh.size, num_rows, count), -1, jnp.int32),
        )
        # One size of blocks, the last ones padded, is one compiled program.
        padded = jax.device_put(pad_rows(rows, num_rows), parallel.replicated(mesh))
        for first, block in references.blocks():
            if references.resident is None:
                jax.block_until_ready(best)  # or blocks would pile up ahead of the device
            best = _merge_block(mesh, metric, best, padded, block, center, first, total)
        yield rows, _gather_devices(best)[: len(rows)]


def choose_margin(k: int, platform: str) -> int:
    """Candidates beyond k: fewer on a GPU where XLA's fast top-k then takes all of them."""
    if platform == "gpu" and k + MIN_MARGIN <= GPU_TOP_K:
        return min(MARGIN, GPU_TOP_K - k)
    return MARGIN


def _gather_devices(best: TopK) -> Candidates:
    """Indices of the best candidates among those of all devices, in no order."""
    num_devices, num_rows, count = best.scores.shape
    scores = np.asarray(best.scores).swapaxes(0, 1).reshape(num_rows, -1)
    indices = np.asarray(best.indices).swapaxes(0, 1).reshape(num_rows, -1)
    if num_devices == 1:
        return indices
    # Each device has the best of its own references: the best of all are among them.
    order = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return np.take_along_axis(indices, order, 1)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _merge_block(
    mesh: Mesh,
    metric: str,
    best: TopK,
    queries: Array,
    references: Array,
    center: Array,
    first: Array,
    total: Array,
) -> TopK:
    """The best of `best` and of one more block of references, of which each device has a part."""

    def merge_local(
        best: TopK, queries: Array, references: Array, center: Array, first: Array
    ) -> TopK:
        offset = first + jax.lax.axis_index("data") * len(references)
        indices = offset + jnp.arange(len(references), dtype=jnp.int32)
        scores = _scores(metric, queries, references, center)
        # The last block is padded.
        scores = jnp.where((indices < total)[None], scores, -jnp.inf)
        return _merge(best, scores, indices)

    specs = (
        parallel.DATA,
        parallel.REPLICATED,
        parallel.DATA,
        parallel.REPLICATED,
        parallel.REPLICATED,
    )
    run = parallel.shard_map(merge_local, mesh, specs)
    return run(best, queries, references, center, first)


def _merge(best: TopK, scores: Float[Array, "q r"], indices: Int[Array, " r"]) -> TopK:
    """The best of one device's candidates and of more references."""
    count = best.scores.shape[2]
    # A top-k of the block first: sorting it with the best so far would sort more numbers.
    block_scores, block_order = jax.lax.top_k(scores, min(count, scores.shape[1]))
    all_scores = jnp.concatenate([best.scores[0], block_scores], axis=1)
    all_indices = jnp.concatenate([best.indices[0], indices[block_order]], axis=1)
    top_scores, order = jax.lax.top_k(all_scores, count)
    return TopK(top_scores[None], jnp.take_along_axis(all_indices, order, 1)[None])


def _scores(metric: str, queries: Array, references: Array, center: Array) -> Float[Array, "q r"]:
    """Scores of which a larger one is nearer: cosine similarity, or q . r - |r|^2 / 2.

    The second orders the references of a query as their distances do.
    """
    q = queries.astype(jnp.float32) - center[None]
    r = references.astype(jnp.float32) - center[None]
    if metric == "cosine":
        q = _unit_length(q)
        r = _unit_length(r)
    # Full float32 products: an accelerator's default would round them to bfloat16's 8 bits.
    products = jnp.matmul(q, r.T, precision=jax.lax.Precision.HIGHEST)
    if metric == "cosine":
        return products
    return products - 0.5 * jnp.sum(r * r, axis=1)[None]


def _unit_length(rows: Array) -> Array:
    squares = jnp.sum(rows * rows, axis=1, keepdims=True)
    return rows * jax.lax.rsqrt(jnp.maximum(squares, 1e-30))


def _rank_candidates(
    queries: Vectors, references: References, candidates: Candidates, k: int, metric: str
) -> Neighbors:
    """The best k of the candidates by direct difference in float64, or in whole numbers."""
    compare, sign = COMPARISONS[metric]
    if metric == "euclidean" and references.has_exact_distances(queries, candidates):
        values = references.exact_distances(queries, candidates)
    else:
        values = np.empty(candidates.shape)

        def fill(start: int) -> None:
            block = slice(start, start + EXACT_BLOCK)
            q = queries[block].astype(np.float64)
            values[block] = compare(q, references.rows[candidates[block]])

        # NumPy leaves the interpreter to others meanwhile, and beside a GPU this is what takes
        # longest.
        with ThreadPoolExecutor(knn_host.count_threads()) as pool:
            list(pool.map(fill, range(0, len(queries), EXACT_BLOCK)))
    # The last key is the first to sort by; ties go to the lower index.
    order = np.lexsort((candidates, sign * values), axis=1)[:, :k]
    best = np.take_along_axis(values, order, 1).astype(np.float32)
    return Neighbors(best, np.take_along_axis(candidates, order, 1))
