"""The devices and processes of a run: one mesh axis, `data`, over which every batch is split.

Parameters, their moving average and the optimizer's state are replicated, or sharded over the
same axis (fully sharded data parallelism, FSDP). Every process runs the same program; only the
leader writes files.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from orbax.checkpoint import multihost

SHARED_SECONDS = 60.0  # until a new file is seen by the other hosts of a shared disk
DATA = PartitionSpec("data")
REPLICATED = PartitionSpec()
# Smaller arrays, in elements, are replicated: gathering them costs more than storing them.
MIN_SHARDED_SIZE = 4096
# The leader may work alone for hours, for example when it measures.
BARRIER_TIMEOUT_MS = 24 * 3600 * 1000


def start(coordinator: str = "", processes: int = 0, process_id: int = -1) -> None:
    """Join the other processes of this run; must come before any computation.

    Parameters
    ----------
    coordinator
        HOST:PORT of the first process.
    processes
        Number of processes.
    process_id
        Rank of this process, from 0.

        Values that are left out are found by JAX in the environment of SLURM, Cloud TPU
        or Open MPI.

    Raises
    ------
    ValueError
        Where the environment does not say, or the other processes do not come.
    """
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes or None,
            None if process_id < 0 else process_id,
            local_device_ids=slurm_local_device_ids(os.environ),
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the processes of this run cannot be joined ({reason}); give "
            "--coordinator=HOST:PORT, --processes and --process_id to each, or start them by "
            "SLURM or on a Cloud TPU"
        ) from None


def slurm_local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node, where SLURM started one process on each node.

    JAX would take one GPU a process there. None leaves the choice to JAX.
    """
    processes = environment.get("SLURM_NTASKS", "")
    nodes = environment.get("SLURM_STEP_NUM_NODES", "")
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    if processes != nodes or not gpus.isdigit() or int(gpus) == 0:
        return None
    return list(range(int(gpus)))


def is_leader() -> bool:
    """Whether this process writes files and prints; a single process does."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has reached the barrier of this name."""
    # Unlike a collective's, this time-out is ours to set.
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=BARRIER_TIMEOUT_MS)


def broadcast(value: PyTree) -> PyTree:
    """The leader's value on every process; a collective call.

    Parameters
    ----------
    value
        Numbers, or arrays that have the same shape in every process.
    """
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(value)


def on_leader(name: str, work: Callable[[], object]) -> None:
    """Call `work` in the leader alone; the other processes wait for it."""
    if is_leader():
        work()
    barrier(name)


def data_mesh(batch: int) -> Mesh:
    """A mesh over gcd(batch, devices) of this process's own devices: 2 of 4 for a batch of 6."""
    count = math.gcd(batch, jax.local_device_count())
    return make_mesh(jax.local_devices()[:count])


def global_mesh(batch: int) -> Mesh:
    """A mesh over the devices of all processes that divide the batch.

    Raises
    ------
    ValueError
        Where several processes run and their devices do not divide the batch, since then no
        process can be left out.
    """
    if jax.process_count() == 1:
        return data_mesh(batch)
    if batch % jax.device_count():
        raise ValueError(
            f"a batch of several processes must be a multiple of their {jax.device_count()} "
            f"devices, got {batch}; choose a multiple"
        )
    return make_mesh(jax.devices())


def make_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh over these devices in which neighbors in the network are adjacent."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or devices[0].platform != "tpu":
        return jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
    # Of several TPU slices, each slice's devices are adjacent too.
    grid = mesh_utils.create_hybrid_device_mesh((len(devices) // slices,), (slices,), devices)
    return Mesh(grid, ("data",), axis_types=(AxisType.Auto,))


def shard_map(
    function: Callable[..., Any], mesh: Mesh, in_specs: Any, out_specs: Any = DATA
) -> Callable[..., Any]:
    """`function` on every device, each with its own part of what is split by these specs.

    Nothing is communicated but what `function` says.
    """
    # With check_vma JAX would sum each parameter's gradient over the devices, an all-reduce each,
    # and the convolutions of `jaxdiff.ops` have no rule for it.
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, REPLICATED)


def fsdp_sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The sharding of a parameter under FSDP.

    Its largest axis that the devices divide is split over them. Small arrays, and arrays without
    such an axis, are replicated.
    """
    axes = [axis for axis, length in enumerate(shape) if length % mesh.size == 0]
    if not axes or math.prod(shape) < MIN_SHARDED_SIZE:
        return replicated(mesh)
    largest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * largest, "data"))


def tree_shardings(tree: PyTree, mesh: Mesh, shard: bool) -> PyTree:
    """A sharding for every array of a tree: FSDP's where `shard`, else replicated.

    On a mesh of cells each has one device, over which nothing is split.
    """
    splits = shard and "data" in mesh.axis_names

    def sharding(array: Any) -> NamedSharding:
        return fsdp_sharding(array.shape, mesh) if splits else replicated(mesh)

    return jax.tree.map(sharding, tree)


def to_global_array(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array, the same in every process, on the devices."""
    # jax.device_put would compare the array across the processes.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Host arrays, the same in every process, on every device of a mesh."""

    def place(array: Any) -> jax.Array:
        return to_global_array(np.asarray(array), replicated(mesh))

    return jax.tree.map(place, tree)


def to_host(array: jax.Array) -> np.ndarray:
    """The full array in every process; collective where shards lie with several."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
