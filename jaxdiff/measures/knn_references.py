"""The references of a search for neighbors, in blocks over the devices.

On accelerators they stay there where they fit, so that they are sent once for all queries.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Num, UInt8

from jaxdiff import parallel

REFERENCE_BLOCK = 4096
EXACT_BLOCK = 64  # queries whose candidates are compared at once
RESIDENT_SHARE = 0.25  # of a device's memory that references may take
MAX_DIFFERENCE = 255  # of two uint8 numbers

Vectors = Num[np.ndarray, "_n d"]
Candidates = Int[np.ndarray, "q c"]


class References:
    """References in blocks of one size, the last one padded, of which each device has a part.

    Parameters
    ----------
    rows
        All references.

    Attributes
    ----------
    rows
        All references, on the host.
    mesh
        The devices.
    block_size
        Rows of a block.
    resident
        All blocks on the devices, [block, row, number]; None where they are sent one by one, again
        for each block of queries.
    """

    def __init__(self, rows: Vectors):
        self.rows = rows
        self.mesh = parallel.data_mesh(REFERENCE_BLOCK)
        size = self.mesh.size
        # A multiple of the devices, over which the rows of a block are split.
        self.block_size = -(-min(REFERENCE_BLOCK, len(rows)) // size) * size
        self.resident: Array | None = None
        if fits_devices(rows, list(self.mesh.devices.flat)):
            num_blocks = -(-len(rows) // self.block_size)
            padded = pad_rows(rows, num_blocks * self.block_size)
            sharding = NamedSharding(self.mesh, PartitionSpec(None, *parallel.DATA))
            self.resident = jax.device_put(
                padded.reshape(num_blocks, self.block_size, -1), sharding
            )

    def blocks(self) -> Iterator[tuple[int, Array | np.ndarray]]:
        """Each block and the index of its first row."""
        for first in range(0, len(self.rows), self.block_size):
            if self.resident is None:
                yield first, pad_rows(self.rows[first : first + self.block_size], self.block_size)
            else:
                yield first, _take_block(self.resident, first // self.block_size)

    def has_exact_distances(self, queries: Vectors, candidates: Candidates) -> bool:
        """Whether the devices' squared distances from these queries are exact: whole numbers."""
        is_uint8 = queries.dtype == self.rows.dtype == np.uint8
        largest = queries.shape[1] * MAX_DIFFERENCE**2
        # Of images that are repeated often all references may be candidates, too many for a device.
        is_small = candidates.shape[1] <= EXACT_BLOCK and largest <= np.iinfo(np.int32).max
        return self.resident is not None and is_uint8 and is_small

    def exact_distances(self, queries: Vectors, candidates: Candidates) -> Float[np.ndarray, "q c"]:
        """Distances as `_distances` computes them on the host, where `has_exact_distances`."""
        squares = [
            _squared_distances(
                self.resident,
                pad_rows(queries[start : start + EXACT_BLOCK], EXACT_BLOCK),
                pad_rows(candidates[start : start + EXACT_BLOCK], EXACT_BLOCK),
            )
            for start in range(0, len(queries), EXACT_BLOCK)
        ]
        rows = np.concatenate([np.asarray(block, np.float64) for block in squares])
        return np.sqrt(rows[: len(queries)])


def fits_devices(rows: Vectors, devices: Sequence[Any]) -> bool:
    """Whether references may stay on the devices: accelerators with memory to spare."""
    if devices[0].platform == "cpu":  # its memory is the host's, which has them
        return False
    num_bytes = rows.size * min(rows.itemsize, 4)  # JAX's numbers have 32 bits
    limit = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    return num_bytes / len(devices) <= RESIDENT_SHARE * limit


@jax.jit
def _take_block(blocks: Array, i: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(blocks, i, keepdims=False)


@jax.jit
def _squared_distances(
    blocks: UInt8[Array, "block row d"], queries: UInt8[Array, "q d"], candidates: Int[Array, "q c"]
) -> Int[Array, "q c"]:
    """Exact squared distances of uint8 rows: all sums are whole numbers of 32 bits."""
    rows = blocks[candidates // blocks.shape[1], candidates % blocks.shape[1]]
    difference = queries.astype(jnp.int32)[:, None] - rows.astype(jnp.int32)
    return jnp.sum(difference * difference, axis=2, dtype=jnp.int32)


def pad_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows, and zeros up to a count."""
    return rows if len(rows) == count else np.pad(rows, ((0, count - len(rows)), (0, 0)))
