"""Exact nearest neighbors by brute force: matrix products a block at a time and a running top-k.

Memory is bounded by the block, never queries x references. The references of a block are shared out over the devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff import parallel

METRICS = ("euclidean", "cosine")
QUERY_BLOCK, REFERENCE_BLOCK = 1024, 4096
MARGIN = 8  # candidates beyond k that are kept until the exact values are known


def nearest(
    queries: Array | np.ndarray, references: Array | np.ndarray, k: int, metric: str = "euclidean"
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k nearest references of each query, best first: values [Q, k] float32 and indices [Q, k].

    queries, references: [N, ...] of any number type (uint8 images are not copied as floats), the same shape but for N.
    euclidean gives distances (not squared), cosine similarities. Candidates come from float32 products; the winners
    are evaluated again by direct difference in float64, and ties are ordered by index. Raises ValueError where k is
    larger than the number of references or the shapes differ.
    """
    queries, references = (np.asarray(x).reshape(len(x), -1) for x in (queries, references))
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not known; choose one of {', '.join(METRICS)}")
    if queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} numbers each and references {references.shape[1]}"
        )
    if not 1 <= k <= len(references):
        raise ValueError(
            f"k is {k}; with {len(references)} references it must be between 1 and {len(references)}"
        )
    centre = (
        _mean(references) if metric == "euclidean" else np.zeros(references.shape[1], np.float32)
    )
    mesh = parallel.data_mesh(REFERENCE_BLOCK)
    kept = min(k + MARGIN, len(references))
    found = [
        _exact(queries[first : first + QUERY_BLOCK], references, k, metric, indices)
        for first, indices in _candidates(queries, references, centre, kept, metric, mesh)
    ]
    return np.concatenate([values for values, _ in found]), np.concatenate(
        [indices for _, indices in found]
    )


def _mean(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(x, axis=0, dtype=np.float64), np.float32)


def _candidates(queries, references, centre, kept, metric, mesh):
    """For each block of queries, its start and the indices [block, kept] of the best by float32 products."""
    devices = mesh.size
    size = -(-min(REFERENCE_BLOCK, len(references)) // devices) * devices
    rows = min(QUERY_BLOCK, len(queries))
    blocks = range(0, len(references), size)
    for first in range(0, len(queries), QUERY_BLOCK):
        block = _fill(queries[first : first + QUERY_BLOCK], rows)
        best = (
            jnp.full((devices, rows, kept), -jnp.inf),
            jnp.full((devices, rows, kept), -1, jnp.int32),
        )
        for start in blocks:
            jax.block_until_ready(best)  # or blocks would pile up ahead of the device
            part = _fill(references[start : start + size], size)
            best = _merge(mesh, metric, kept, best, block, part, centre, start, len(references))
        values, indices = (np.asarray(x).swapaxes(0, 1).reshape(rows, -1) for x in best)
        order = np.argpartition(-values, kept - 1, axis=1)[:, :kept] if devices > 1 else np.s_[:]
        chosen = np.take_along_axis(indices, order, 1) if devices > 1 else indices
        yield first, chosen[: len(queries) - first]


def _fill(rows: np.ndarray, count: int) -> np.ndarray:
    return rows if len(rows) == count else np.pad(rows, ((0, count - len(rows)), (0, 0)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _merge(mesh, metric, kept, best, queries, references, centre, start, total):
    """The best of what was found and of one more block of references, a device a share of the block."""

    def local(values, indices, queries, references, centre, start):
        offset = start + jax.lax.axis_index("data") * len(references)
        index = offset + jnp.arange(len(references), dtype=jnp.int32)
        score = jnp.where(
            (index < total)[None], _scores(metric, queries, references, centre), -jnp.inf
        )
        top, place = jax.lax.top_k(score, min(kept, score.shape[1]))
        merged, which = jax.lax.top_k(jnp.concatenate([values[0], top], axis=1), kept)
        return merged[None], jnp.take_along_axis(
            jnp.concatenate([indices[0], index[place]], axis=1), which, 1
        )[None]

    specs = (
        parallel.DATA,
        parallel.DATA,
        parallel.REPLICATED,
        parallel.DATA,
        parallel.REPLICATED,
        parallel.REPLICATED,
    )
    run = jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=(parallel.DATA, parallel.DATA), check_vma=False
    )
    return run(*best, queries, references, centre, start)


def _scores(metric, queries, references, centre):
    """Larger is nearer: cosine similarity, or q . r - |r|^2 / 2 of centred rows, which orders as the distance does."""
    exact = jax.lax.Precision.HIGHEST
    q, r = (x.astype(jnp.float32) - centre[None] for x in (queries, references))
    if metric == "cosine":
        q, r = (
            x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=1, keepdims=True), 1e-30))
            for x in (q, r)
        )
        return jnp.matmul(q, r.T, precision=exact)
    return jnp.matmul(q, r.T, precision=exact) - 0.5 * jnp.sum(r * r, axis=1)[None]


def _exact(queries, references, k, metric, indices, rows: int = 64):
    """Values of the candidates by direct difference in float64, the best k of them in order."""
    values = np.empty(indices.shape)
    for first in range(0, len(queries), rows):
        q, r = (
            queries[first : first + rows].astype(np.float64),
            references[indices[first : first + rows]],
        )
        if metric == "euclidean":
            difference = q[:, None] - r
            values[first : first + rows] = -np.sqrt(
                np.einsum("qkd,qkd->qk", difference, difference)
            )
        else:
            r = r.astype(np.float64)
            length = np.sqrt(np.einsum("qd,qd->q", q, q))[:, None] * np.sqrt(
                np.einsum("qkd,qkd->qk", r, r)
            )
            values[first : first + rows] = np.einsum("qd,qkd->qk", q, r) / np.maximum(length, 1e-30)
    order = np.lexsort((indices, -values), axis=1)[:, :k]
    best = np.take_along_axis(values, order, 1)
    return (-best if metric == "euclidean" else best).astype(np.float32), np.take_along_axis(
        indices, order, 1
    )
