"""A rough estimate of what a cell costs on the devices here, for --dry_run."""

import dataclasses
import os
import time

import jax
import jax.numpy as jnp

from jaxdiff import parallel
from jaxdiff.cells.cell import Cell
from jaxdiff.denoiser import (
    abstract_network,
    as_function,
    count_parameters,
    get_params,
)
from jaxdiff.study.rules import kept_steps

TIMED_CALLS = 3
TRAINING_COST = 4  # of a train step, in forward passes
OVERHEAD_SECONDS = 30  # compilation and measures


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a cell takes: parameters, images of its own training, seconds, and bytes on disk.

    Steps that a cell shares with its stem, the longer training that it branches from, are the
    stem's.
    """

    parameters: int
    images: int
    seconds: float
    disk_bytes: int


def estimate_cost(cell: Cell, on_one_device: bool = False) -> Cost:
    """Compile and time the cell's forward pass; the rest follows from its number of passes.

    Parameters
    ----------
    cell
        The cell.
    on_one_device
        Whether it runs on one device, as cells do that run at once; by default on all of them.

    Raises
    ------
    ValueError
        Where the weights alone do not fit the memory here.
    """
    num_params = count_parameters(cell.network)
    _check_memory(cell.model, num_params)
    seconds_per_image = _time_forward(cell, on_one_device)
    height, width, channels = cell.image_shape
    train = cell.train
    sample = cell.sample
    images = (train.steps - cell.first_step) * train.batch
    num_checkpoints = len(kept_steps(train))
    # Every checkpoint but the last is sampled for the measures along training.
    num_early = cell.measures.checkpoints * (num_checkpoints - 1)
    num_samples = sample.num + sample.common
    passes = TRAINING_COST * images + (num_samples + num_early) * sample.steps
    # Each checkpoint has four float32 copies: weights, average, two moments.
    checkpoints = num_checkpoints * 4 * 4 * num_params
    samples = num_samples * height * width * channels
    return Cost(
        num_params,
        images,
        passes * seconds_per_image + OVERHEAD_SECONDS,
        checkpoints + samples,
    )


def _check_memory(model: str, num_params: int) -> None:
    """Check that a model's weights fit the memory here, before any is asked for."""
    needed = 3 * 4 * num_params  # in float32, with their gradients and their average
    available = _find_memory()
    if needed > available:
        raise ValueError(
            f"config.models.{model} must fit the {available / 1e9:,.0f} GB of memory here, and its "
            f"{num_params:,} parameters, gradients and averages take {needed / 1e9:,.0f} GB; take "
            "a smaller width, or ask experiments.plan what it would need"
        )


def _find_memory() -> int:
    """Bytes of all devices, or of the machine where its CPU is the device."""
    stats = [device.memory_stats() for device in jax.devices()]
    limits = [entry["bytes_limit"] for entry in stats if entry and "bytes_limit" in entry]
    return sum(limits) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _time_forward(cell: Cell, on_one_device: bool) -> float:
    """Seconds an image of the forward pass at the training batch."""
    batch = cell.train.batch
    mesh = parallel.data_mesh(1 if on_one_device else batch)
    network = abstract_network(cell.network)
    function = as_function(network)
    # The time does not depend on the weights, and random ones take seconds to draw.
    params = {name: jnp.zeros(p.shape, p.dtype) for name, p in get_params(network).items()}
    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
    forward = jax.jit(parallel.shard_map(function, mesh, specs))
    xt = jnp.zeros((batch, *cell.image_shape))
    t = jnp.zeros((batch,), jnp.int32)
    jax.block_until_ready(forward(params, xt, t))  # compiles
    start = time.perf_counter()
    for _ in range(TIMED_CALLS):
        jax.block_until_ready(forward(params, xt, t))
    return (time.perf_counter() - start) / TIMED_CALLS / batch
