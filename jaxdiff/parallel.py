"""The devices: one mesh axis, `data`, over which every batch is split; and the processes that share a run.

Parameters, their average and the optimizer's state are replicated, or split over the same axis (fully sharded data
parallelism). Every process runs the same program; what is written to disk, the leader writes.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from orbax.checkpoint import multihost

DATA = PartitionSpec("data")
REPLICATED = PartitionSpec()
SMALLEST = 4096  # elements: an array with fewer is replicated, since gathering it costs more than keeping it
PATIENCE_MS = 24 * 3600 * 1000  # how long a process waits while the leader works alone


def start(coordinator: str = "", processes: int = 0, process_id: int = -1) -> None:
    """Join the other processes of this run; must come before any computation.

    Without arguments JAX asks the environment: SLURM, Cloud TPU, Kubernetes or Open MPI. Raises ValueError where that
    does not tell, or where the others do not come.
    """
    given = coordinator or None, processes or None, None if process_id < 0 else process_id
    try:
        jax.distributed.initialize(*given, local_device_ids=slurms_gpus(os.environ))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the processes of this run cannot be joined ({str(error).splitlines()[0]}); give --coordinator=HOST:PORT, "
            "--processes and --process_id to each, or start them by SLURM, Kubernetes or on a Cloud TPU"
        ) from None


def slurms_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node, where SLURM started one process on each; left alone JAX takes one a process there."""
    processes, nodes, gpus = (
        environment.get(f"SLURM_{name}", "")
        for name in ("NTASKS", "STEP_NUM_NODES", "GPUS_ON_NODE")
    )
    return list(range(int(gpus))) if processes == nodes and gpus.isdigit() and int(gpus) else None


def is_leader() -> bool:
    """Whether this process writes files and speaks; a run of one process is led by it."""
    return jax.process_index() == 0


def wait(name: str) -> None:
    """Until every process is here. Unlike a collective it may take as long as the leader's work does."""
    multihost.get_barrier_sync_fn()(key=name, timeout_ms=PATIENCE_MS)


def leaders(value: PyTree) -> PyTree:
    """The leader's value (numbers, or arrays of one shape everywhere) on every process; a collective call."""
    return multihost_utils.broadcast_one_to_all(value) if jax.process_count() > 1 else value


def data_mesh(batch: int) -> Mesh:
    """A mesh over as many of this process's own devices as divide the batch (one device divides every batch)."""
    return mesh_of(jax.local_devices()[: math.gcd(batch, jax.local_device_count())])


def global_mesh(batch: int) -> Mesh:
    """The same over the devices of all processes.

    Raises ValueError where several processes run and their devices do not divide the batch: none can stand aside.
    """
    if jax.process_count() == 1:
        return data_mesh(batch)
    if batch % jax.device_count():
        raise ValueError(
            f"a batch of {batch} cannot be divided by {jax.device_count()} devices; choose a multiple of them"
        )
    return mesh_of(jax.devices())


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """A mesh over these devices, neighbors beside each other; those of one TPU slice, where there are several, as well."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 or devices[0].platform != "tpu":
        return jax.make_mesh(
            (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
        )
    placed = mesh_utils.create_hybrid_device_mesh((len(devices) // slices,), (slices,), devices)
    return Mesh(placed, ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, REPLICATED)


def split(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The largest axis that the devices divide is split over them; small arrays, and those without one, are replicated."""
    axes = [axis for axis, length in enumerate(shape) if length % mesh.size == 0]
    if not axes or math.prod(shape) < SMALLEST:
        return replicated(mesh)
    widest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * widest, "data"))


def shardings(tree: PyTree, mesh: Mesh, shard: bool) -> PyTree:
    """A sharding for every array of the tree (or of its shapes): split where `shard`, else replicated."""
    return jax.tree.map(lambda x: split(x.shape, mesh) if shard else replicated(mesh), tree)


def place(array: np.ndarray, where: NamedSharding) -> jax.Array:
    """A host array, the same in every process, on the devices. (device_put would compare it across the processes.)"""
    return jax.make_array_from_callback(array.shape, where, lambda part: array[part])


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on the host of every process; a collective call where its parts lie with several."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def by_leader(name: str, work: Callable[[], object]) -> None:
    """`work` in the leader alone; the others wait for it."""
    if is_leader():
        work()
    wait(name)
