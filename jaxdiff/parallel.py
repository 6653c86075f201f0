"""The devices: one mesh axis, `data`, over which every batch is split; parameters are replicated."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = PartitionSpec("data")
REPLICATED = PartitionSpec()


def data_mesh(batch: int) -> Mesh:
    """A mesh over as many local devices as divide the batch (one device divides every batch)."""
    devices = jax.local_devices()
    return jax.make_mesh(
        (math.gcd(batch, len(devices)),), ("data",), axis_types=(AxisType.Auto,),
        devices=devices[: math.gcd(batch, len(devices))],
    )  # fmt: skip


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, REPLICATED)
