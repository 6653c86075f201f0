"""What a cell was made on, and what it would cost here."""

import importlib.metadata
import platform
import socket
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff import parallel
from jaxdiff.cells.cell import Cell
from jaxdiff.denoiser import abstract_network, as_function, get_params
from jaxdiff.unet import UNet


def environment() -> dict[str, Any]:
    """What may differ between equal runs: the time, the host, the devices, the versions."""
    packages = ("jaxdiff", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "host": socket.gethostname(), "python": platform.python_version(), "versions": versions,
        "device": jax.devices()[0].device_kind, "devices": jax.device_count(), "processes": jax.process_count(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def estimate(cell: Cell) -> dict[str, float]:
    """A rough cost of a cell here: its forward pass is compiled and timed; a training step costs about four of them."""
    s, size, channels = cell.settings, cell.settings["data"]["size"], cell.unet.in_channels
    apply, mesh = as_function(abstract_network(cell.unet)), parallel.data_mesh(s["train"]["batch"])
    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
    forward = jax.jit(
        jax.shard_map(apply, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False)
    )
    params, batch = get_params(UNet(cell.unet, rngs=nnx.Rngs(0))), s["train"]["batch"]
    inputs = jnp.zeros((batch, size, size, channels)), jnp.zeros((batch,), jnp.int32)
    jax.block_until_ready(forward(params, *inputs))
    then = time.perf_counter()
    for _ in range(3):
        jax.block_until_ready(forward(params, *inputs))
    an_image = (time.perf_counter() - then) / 3 / batch
    count = sum(p.size for p in params.values())
    passes = 4 * s["train"]["steps"] * batch + s["sample"]["num"] * s["sample"]["steps"]
    disk = (
        2 * 16 * count + s["sample"]["num"] * size * size * channels
    )  # two checkpoints of four float32 copies
    return {
        "parameters": count,
        "images": s["train"]["steps"] * batch,
        "seconds": passes * an_image + 30,
        "bytes": disk,
    }
