"""Chips by their makers' data sheets, and the devices of machines that need not be here."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from jaxdiff.planning import cuda

GIB = 2**30


class Chip(NamedTuple):
    """What a chip can do at most.

    Parameters
    ----------
    flops
        FLOP/s in bfloat16 with float32 sums, dense.
    memory
        Bytes of memory.
    bandwidth
        Bytes a second to and from the memory.
    links
        Bytes a second that it sends to the chips of its slice or node.
    network
        Bytes a second that it sends out of the slice or node.
    devices
        Number of JAX devices that it is.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float
    network: float
    devices: int = 1


# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read in 2026. Links are half of the
# bidirectional bandwidth given there; v4's are those of Jouppi et al. 2023 (six links of 50 GB/s),
# v4's network that of jax-ml.github.io/scaling-book. GPUs: NVIDIA's data sheets; links are
# NVLink's in one direction (PCIe's for L4), the network one 400 Gb/s port a GPU (A100: 200,
# L4: 25).
CHIPS = {
    #                              FLOP/s   memory      bytes/s  links   network
    "TPU v4":                Chip(275e12,   32 * GIB,  1.200e12, 300e9,  6.25e9),
    "TPU v5 lite":           Chip(197e12,   16 * GIB,  0.819e12, 200e9,  3.125e9),
    "TPU v5":                Chip(459e12,   95 * GIB,  2.765e12, 600e9,  6.25e9),
    "TPU v6 lite":           Chip(918e12,   32 * GIB,  1.638e12, 400e9, 12.5e9),
    "TPU7x":                Chip(2307e12,  192 * GIB,  7.380e12, 600e9, 12.5e9, devices=2),
    "NVIDIA A100-SXM4-40GB": Chip(312e12,   40e9,      1.555e12, 300e9, 25e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12,   80e9,      2.039e12, 300e9, 25e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12,   80e9,      3.350e12, 450e9, 50e9),
    "NVIDIA H200":           Chip(989e12,  141e9,      4.800e12, 450e9, 50e9),
    "NVIDIA L4":             Chip(121e12,   24e9,      0.300e12,  32e9,  3.125e9),
}  # fmt: skip
# With these libtpu compiles where no TPU is: it asks no metadata server which one it is,
# complains of nothing, and several processes may use it at once.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
SLICE_AXES = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}


def local_chip() -> Chip | None:
    """This machine's chip; None where it is not known (a CPU's rate depends on its clock)."""
    return CHIPS.get(jax.devices()[0].device_kind)


def peak_flops() -> float:
    """FLOP/s of one device here, 0 where it is not known."""
    chip = local_chip()
    return 0.0 if chip is None else chip.flops / chip.devices


def open_topology(name: str, slices: int = 1) -> Sequence[jax.Device]:
    """Devices that programs can be compiled for, of machines that need not be here; or those here.

    Parameters
    ----------
    name
        A slice of TPUs, as "v5e:4x4"; a machine with GPUs, as "h100:8"; or "local".
    slices
        Number of such slices or machines.

    Raises
    ------
    ValueError
        Where the name is of none of them, or their compiler is not installed.
    """
    if name == "local":
        return jax.devices()
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind, shape = match.groups() if match else (name, "")
    lengths = [int(length) for length in shape.split("x") if length]
    axes = {**SLICE_AXES, **dict.fromkeys(cuda.KINDS, 1)}
    if kind not in axes or len(lengths) != axes[kind] or not all(lengths):
        examples = ", ".join(f"{kind}:{'x'.join(['4'] * n)}" for kind, n in axes.items())
        raise ValueError(
            f"topology {name!r} is not known; give a slice of TPUs or a machine with GPUs, as "
            f"{examples}, or local"
        )
    if kind in cuda.KINDS:
        return cuda.open_nodes(kind, slices, lengths[0])
    return _open_slices(name, slices)


def _open_slices(name: str, slices: int) -> Sequence[jax.Device]:
    """The devices of TPU slices."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"{name} is compiled for by libtpu, which is not installed; pip install 'jaxdiff[plan]'"
        )
    for variable, value in LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # One device a chip, as Cloud TPU has it.
    options = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    try:
        return topologies.get_topology_desc(name, "tpu", num_slices=slices, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"libtpu knows no {slices} x {name} ({reason}); choose a shape that Cloud TPU has"
        ) from None
