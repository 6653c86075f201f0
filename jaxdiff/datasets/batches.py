"""Which images a step sees, as a pure function of (seed, step), and how they come to the devices.

Small datasets lie on every device and are indexed there; larger ones are read by grain as training
goes, each process its own part of every batch. Both give the same images.
"""

import functools
from collections.abc import Callable, Iterator

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, UInt8

from jaxdiff.parallel import DATA, to_global_array
from jaxdiff.programs import share_programs

# From a step on, the images of every K steps: uint8 [K, batch, height, width, channel].
Calls = Callable[[int], Iterator[jax.Array]]
STEPS = PartitionSpec(None, *DATA)


@functools.lru_cache(maxsize=64)  # of cells that train at once, two epochs each
def _epoch_order(seed: int, epoch: int, n: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


def _image_at(seed: int, position: int, n: int) -> int:
    """Entry `position` of the endless sequence of shuffled epochs over n images."""
    # each epoch shuffles anew; a batch may span two epochs
    epoch, index = divmod(position, n)
    return int(_epoch_order(seed, epoch, n)[index])


def batch_indices(seed: int, step: int, batch: int, n: int) -> Int[np.ndarray, " batch"]:
    """Indices of a step's images, int32: the next `batch` entries of the shuffled epochs."""
    positions = range(step * batch, (step + 1) * batch)
    return np.array([_image_at(seed, position, n) for position in positions], np.int32)


def resident(
    images: UInt8[np.ndarray, "n height width channel"],
    mesh: Mesh,
    *,
    seed: int,
    steps: int,
    batch: int,
    k: int,
) -> Calls:
    """Batches of images that lie on every device.

    Parameters
    ----------
    images
        The training set.
    mesh
        Devices over which each batch is split.
    seed
        Seed of the epochs' shuffles.
    steps
        Training steps, a multiple of `k`.
    batch
        Images of a step, over all devices.
    k
        Steps of a call.

    Returns
    -------
    Calls
        Function of the first step; yields uint8 [k, batch, height, width, channel].
    """
    # `to_global_array`, since jax.device_put compares the array across processes
    device_images = to_global_array(images, NamedSharding(mesh, PartitionSpec()))
    batch_sharding = NamedSharding(mesh, STEPS)
    gather = _compile_gather(batch_sharding)

    def calls(start: int) -> Iterator[jax.Array]:
        for first in range(start, steps, k):
            indices = [batch_indices(seed, first + i, batch, len(images)) for i in range(k)]
            yield gather(device_images, to_global_array(np.stack(indices), batch_sharding))

    return calls


@share_programs
def _compile_gather(sharding: NamedSharding) -> jax.stages.Wrapped:
    return jax.jit(lambda images, indices: images[indices], out_shardings=sharding)


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
    """The batches of `resident`, read ahead from a source of images by `threads` threads."""
    batch_sharding = NamedSharding(mesh, STEPS)
    # Any number of processes sees the same global batches: each reads the rows of its own devices,
    # which follow each other on a CPU, and need not on a slice of TPUs.
    parts = batch_sharding.addressable_devices_indices_map((k, batch)).values()
    rows = np.unique([np.arange(batch)[part[1]] for part in parts if part is not None])

    def calls(start: int) -> Iterator[jax.Array]:
        epochs = _ShuffledEpochs(source, seed, steps * batch)
        images = grain.MapDataset.source(_OwnRows(epochs, rows, batch))
        own_batches = images.batch(len(rows))[start:]
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        groups = own_batches.batch(k, drop_remainder=True).to_iter_dataset(options)
        for group in groups:
            yield jax.make_array_from_process_local_data(batch_sharding, group)

    return calls


class _OwnRows:
    """Some rows of every batch of a sequence of images."""

    def __init__(self, images: "_ShuffledEpochs", rows: Int[np.ndarray, " r"], batch: int):
        self.images = images
        self.rows = rows
        self.batch = batch

    def __len__(self) -> int:
        return len(self.images) // self.batch * len(self.rows)

    def __getitem__(self, position: int) -> np.ndarray:
        step, row = divmod(position, len(self.rows))
        return self.images[step * self.batch + int(self.rows[row])]


class _ShuffledEpochs:
    """The sequence of shuffled epochs over a source, as far as training goes."""

    def __init__(self, source: grain.sources.RandomAccessDataSource, seed: int, length: int):
        self.source = source
        self.seed = seed
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> np.ndarray:
        return self.source[_image_at(self.seed, position, len(self.source))]
