"""Exact nearest neighbors on the host: float32 products by NumPy's BLAS, then float64.

The products choose the candidates: every reference whose score is so near to the k-th best that
their errors may have put it behind. These are compared again by direct difference in float64, so
that the result is that of comparing all pairs so.

Each thread has products of its own, and BLAS is held to one thread meanwhile: nothing has to be set
in the environment, and what is set there changes nothing.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Num
from threadpoolctl import ThreadpoolController

QUERY_BLOCK = 2048
REFERENCE_BLOCK = 3072
MAX_THREADS = 16  # each holds a block of references and its scores, 70 MB for 3,072 numbers a row
DEPTH = 4096  # numbers that are summed at once; parts of longer rows are added, with smaller errors
GROUP = 32  # scores of which the best stands for all where the k-th best is estimated
CENTER_ROWS = 256
RANKED_PAIRS = 512  # that are compared at once
ROUNDING = 2.0**-24  # float32's
# Scores that float32 cannot hold make candidates, and float64 decides.
quietly = np.errstate(over="ignore", invalid="ignore")

Rows = Num[np.ndarray, "_n d"]
Comparison = Callable[..., np.ndarray]


class Neighbors(NamedTuple):
    """The nearest references of q queries, best first: their values and indices."""

    values: Float[np.ndarray, "q k"]
    indices: Int[np.ndarray, "q k"]


class Projected(NamedTuple):
    """Rows between which half the squared distance orders as the metric does."""

    rows: Float32[np.ndarray, "n d"]
    squares: Float32[np.ndarray, " n"]

    def largest(self) -> float:
        """The largest |row|^2."""
        return float(self.squares.max())


class Pairs(NamedTuple):
    """Pairs of a query and a reference; of the scores a larger one is nearer."""

    queries: Int[np.ndarray, " p"]
    references: Int[np.ndarray, " p"]
    scores: Float32[np.ndarray, " p"]


def search(queries: Rows, references: Rows, k: int, metric: str) -> Neighbors:
    """The k nearest references of each query, best first; ties are ordered by index."""
    center = _choose_center(references, metric)
    values = np.empty((len(queries), k), np.float32)
    indices = np.empty((len(queries), k), np.int32)
    num_threads = count_threads()
    # As many blocks for each thread.
    num_blocks = -(-len(references) // (REFERENCE_BLOCK * num_threads)) * num_threads
    size = -(-len(references) // num_blocks)
    firsts = range(0, len(references), size)
    one_thread = _find_blas().limit(limits=1, user_api="blas")
    with one_thread, ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(queries), QUERY_BLOCK):
            block = slice(start, start + QUERY_BLOCK)
            projected = _project(queries[block], metric, center)
            choose = functools.partial(
                _choose_from_block, projected, references, size, k, metric, center
            )
            pairs, largest = zip(*pool.map(choose, firsts), strict=True)
            error = _bound_error(projected, max(largest))
            candidates = _merge_pairs(pairs, error, k)
            ranked = _rank(pool, queries[block], references, candidates, k, metric)
            values[block], indices[block] = ranked
    return Neighbors(values, indices)


@functools.cache
def _find_blas() -> ThreadpoolController:
    """NumPy's BLAS; to look for it takes longer than a small search."""
    return ThreadpoolController()


def count_threads() -> int:
    """Threads that compare: as many as this process has cores, up to a limit."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, MAX_THREADS)


def _choose_center(references: Rows, metric: str) -> Float32[np.ndarray, "1 d"]:
    """A point among the references, from which their products lose fewer digits; 0 for cosines."""
    if metric == "cosine":
        return np.zeros((1, references.shape[1]), np.float32)
    some = references[:: -(-len(references) // CENTER_ROWS)]
    center = np.asarray(some.mean(axis=0, dtype=np.float64), np.float32)
    return center[None]


@quietly
def _project(rows: Rows, metric: str, center: Float32[np.ndarray, "1 d"]) -> Projected:
    if metric == "cosine":
        floats = rows.astype(np.float32, copy=False)
        lengths = np.sqrt(_sum_squares(floats))
        unit = floats / np.maximum(lengths, np.finfo(np.float32).tiny)[:, None]
        return Projected(unit, np.ones(len(rows), np.float32))
    centered = np.subtract(rows, center).astype(np.float32, copy=False)
    return Projected(centered, _sum_squares(centered))


def _parts(dimension: int) -> list[slice]:
    return [slice(start, start + DEPTH) for start in range(0, dimension, DEPTH)]


def _sum_squares(rows: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n"]:
    return _sum_products(rows, rows)


def _sum_products(
    a: Float[np.ndarray, "*#n d"], b: Float[np.ndarray, "*#n d"]
) -> Float[np.ndarray, "*#n"]:
    """Inner products of rows, by parts: of longer rows einsum's bits depend on their number."""
    first, *rest = _parts(a.shape[-1])
    sums = np.einsum("...d,...d->...", a[..., first], b[..., first])
    for part in rest:
        sums += np.einsum("...d,...d->...", a[..., part], b[..., part])
    return sums


def _scores(queries: Projected, references: Projected) -> Float32[np.ndarray, "q r"]:
    """q . r - |r|^2 / 2, which orders the references of a query as their distances do."""
    first, *rest = _parts(queries.rows.shape[1])
    scores = queries.rows[:, first] @ references.rows[:, first].T
    for part in rest:
        scores += queries.rows[:, part] @ references.rows[:, part].T
    scores -= references.squares[None] / 2
    return scores


@quietly
def _bound_error(queries: Projected, square: float) -> Float[np.ndarray, " q"]:
    """By how much each query's scores may differ from the exact ones, by whatever BLAS.

    A float32 sum of n products errs by at most n u / (1 - n u) times the sum of their sizes, here
    at most |q||r|, in every order of summation, with fused multiply-adds or without (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., equation 3.5; u = 2^-24). Eight more
    roundings stand for those of the rows and of the difference, and for the lengths' own.

    Parameters
    ----------
    queries
        The queries.
    square
        The largest |r|^2 of the references.
    """
    dimension = queries.rows.shape[1]
    roundings = (min(dimension, DEPTH) + len(_parts(dimension)) + 8) * ROUNDING
    squares = queries.squares.astype(np.float64)
    size = np.sqrt(squares * square) + square
    underflow = dimension * float(np.finfo(np.float32).tiny)
    return roundings / (1.0 - roundings) * size + underflow


def _lower(scores: Float32[np.ndarray, " q"], error: Float[np.ndarray, " q"]) -> np.ndarray:
    """The score below which a reference is farther than one of this score, whatever the errors."""
    return np.nextafter((scores - 2.0 * error).astype(np.float32), np.float32(-np.inf))


def _choose_from_block(
    queries: Projected,
    references: Rows,
    size: int,
    k: int,
    metric: str,
    center: Float32[np.ndarray, "1 d"],
    first: int,
) -> tuple[Pairs, float]:
    """Pairs of `size` references from the first on, and the largest |r|^2 of these."""
    rows = _project(references[first : first + size], metric, center)
    pairs = _choose_pairs(queries, rows, k)
    return pairs._replace(references=pairs.references + first), rows.largest()


@quietly
def _choose_pairs(queries: Projected, references: Projected, k: int) -> Pairs:
    """Pairs of these references that may be among the k nearest of a query."""
    scores = _scores(queries, references)
    limit = _lower(_reach(scores, k), _bound_error(queries, references.largest()))
    # What is not a number is chosen: float64 decides.
    chosen = np.flatnonzero(~(scores < limit[:, None]))
    rows, columns = np.divmod(chosen, scores.shape[1])
    return Pairs(rows, columns, scores.ravel()[chosen])


def _reach(scores: Float32[np.ndarray, "q r"], k: int) -> Float32[np.ndarray, " q"]:
    """For each query a score that at least k references reach: its k-th best, or little less."""
    num_references = scores.shape[1]
    if num_references < k:
        return np.full(len(scores), -np.inf, np.float32)
    num_groups = num_references // GROUP
    if num_groups >= 4 * k:  # of so many groups few have two of the k best
        groups = scores[:, : num_groups * GROUP].reshape(-1, GROUP, num_groups)
        scores = groups.max(axis=1)
    # Each of k groups has a reference that reaches the k-th best of their maxima.
    return np.partition(scores, -k, axis=1)[:, -k]


@quietly
def _merge_pairs(blocks: Sequence[Pairs], error: Float[np.ndarray, " q"], k: int) -> Pairs:
    """The candidates of all queries among the pairs of all blocks, by query."""
    queries, references, scores = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.lexsort((-scores, queries))  # by query, best first
    queries, references, scores = queries[order], references[order], scores[order]
    counts = np.bincount(queries, minlength=len(error))
    # A query's pairs begin at cumsum - counts, and are at least k: of every block the k best, or
    # all that it has.
    kth = scores[np.cumsum(counts) - counts + k - 1]
    is_candidate = ~(scores < _lower(kth, error)[queries])
    return Pairs(queries[is_candidate], references[is_candidate], scores[is_candidate])


def _rank(
    pool: Executor, queries: Rows, references: Rows, candidates: Pairs, k: int, metric: str
) -> Neighbors:
    """The best k of each query's candidates in float64."""
    compare, sign = COMPARISONS[metric]
    compare_pairs = functools.partial(_compare_pairs, compare, queries, references, candidates)
    firsts = range(0, len(candidates.queries), RANKED_PAIRS)
    exact = np.concatenate(list(pool.map(compare_pairs, firsts)))
    # The last key is the first to sort by; ties go to the lower index.
    order = np.lexsort((candidates.references, sign * exact, candidates.queries))
    counts = np.bincount(candidates.queries, minlength=len(queries))
    best = order[(np.cumsum(counts) - counts)[:, None] + np.arange(k)]
    return Neighbors(exact[best].astype(np.float32), candidates.references[best].astype(np.int32))


def _compare_pairs(
    compare: Comparison, queries: Rows, references: Rows, candidates: Pairs, first: int
) -> Float[np.ndarray, " p"]:
    """The exact values of RANKED_PAIRS candidates from the first on."""
    pairs = slice(first, first + RANKED_PAIRS)
    rows = queries[candidates.queries[pairs]].astype(np.float64)
    return compare(rows, references[candidates.references[pairs], None])[:, 0]


def distances(
    queries: Float[np.ndarray, "q d"], references: Num[np.ndarray, "q c d"]
) -> Float[np.ndarray, "q c"]:
    """Distances of each query to references of its own, in float64."""
    # uint8 references become float64 here, a few queries' candidates at a time.
    return np.sqrt(_sum_squares(queries[:, None] - references))


def cosines(
    queries: Float[np.ndarray, "q d"], references: Num[np.ndarray, "q c d"]
) -> Float[np.ndarray, "q c"]:
    """Cosine similarities of each query to references of its own, in float64."""
    r = references.astype(np.float64)
    length = np.sqrt(_sum_squares(queries))[:, None] * np.sqrt(_sum_squares(r))
    return _sum_products(queries[:, None], r) / np.maximum(length, 1e-30)


# By metric: the comparison in float64, and the sign with which the nearest sorts first.
COMPARISONS: dict[str, tuple[Comparison, float]] = {
    "euclidean": (distances, 1.0),
    "cosine": (cosines, -1.0),
}
