"""Which images a step sees, as a pure function of (seed, step), and how they come to the devices.

Small datasets lie whole on every device and are indexed there; larger ones are read by grain as training goes, each
process its own part of every batch. Both give the same images.
"""

import functools
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt8

from jaxdiff.parallel import DATA, to_global_array

Calls = Callable[
    [int], Iterator[jax.Array]
]  # from a step on, images uint8 [K, batch, height, width, channel]
STEPS = PartitionSpec(None, *DATA)


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


def batch_indices(seed: int, step: int, batch: int, n: int) -> np.ndarray:
    """int32 [batch]: entries step * batch ... of the endless row of shuffled epochs over n images."""
    position = step * batch + np.arange(batch)
    return np.array([_epoch(seed, int(p) // n, n)[p % n] for p in position], np.int32)


def resident(
    images: UInt8[np.ndarray, "n height width channel"],
    mesh: Mesh,
    *,
    seed: int,
    steps: int,
    batch: int,
    k: int,
) -> Calls:
    """The calls of K steps from images that lie whole on every device. steps must be a multiple of k."""
    whole = to_global_array(images, NamedSharding(mesh, PartitionSpec()))
    pick = jax.jit(
        lambda images, indices: images[indices], out_shardings=NamedSharding(mesh, STEPS)
    )

    def calls(start: int) -> Iterator[jax.Array]:
        for step in range(start, steps, k):
            indices = np.stack(
                [batch_indices(seed, step + i, batch, len(images)) for i in range(k)]
            )
            yield pick(whole, to_global_array(indices, NamedSharding(mesh, STEPS)))

    return calls


def streamed(
    source: grain.sources.RandomAccessDataSource,
    mesh: Mesh,
    *,
    seed: int,
    steps: int,
    batch: int,
    k: int,
    threads: int = 16,
) -> Calls:
    """The same calls from a source of uint8 images [height, width, channel], read ahead by so many threads."""
    processes, own = jax.process_count(), jax.process_index()
    local = batch // processes

    def calls(start: int) -> Iterator[jax.Array]:
        rows = grain.MapDataset.source(_Ordered(source, seed, steps * batch)).batch(
            local, drop_remainder=True
        )
        mine = rows[start * processes + own :: processes].batch(k, drop_remainder=True)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        for images in mine.to_iter_dataset(options):
            yield jax.make_array_from_process_local_data(NamedSharding(mesh, STEPS), images)

    return calls


class _Ordered:
    """The endless row of shuffled epochs over a source, as far as training goes."""

    def __init__(self, source: grain.sources.RandomAccessDataSource, seed: int, length: int):
        self.source, self.seed, self.length = source, seed, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> np.ndarray:
        n = len(self.source)
        return self.source[int(_epoch(self.seed, position // n, n)[position % n])]
