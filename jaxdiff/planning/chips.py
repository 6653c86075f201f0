"""Chips by their makers' data sheets, and the devices of machines that need not be here."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

GIB = 2**30


class Chip(NamedTuple):
    """What a chip can do at most: FLOP/s in bfloat16 with float32 sums, dense; bytes of memory, and bytes a second to and
    from it; bytes a second that it sends to the chips of its slice or node, and that it sends out of these. devices: how
    many of JAX's devices it is."""

    flops: float
    memory: float
    bandwidth: float
    links: float
    network: float
    devices: int = 1


# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read in 2026. Links are half of the bidirectional bandwidth given
# there; v4's are those of Jouppi et al. 2023 (six links of 50 GB/s), v4's network that of jax-ml.github.io/scaling-book.
# GPUs: NVIDIA's data sheets; links are NVLink's in one direction (PCIe's for L4), the network one 400 Gb/s port a GPU
# (A100: 200, L4: 25).
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
# So that libtpu compiles where no TPU is: it asks no metadata server which it is and complains of nothing, and several
# processes may use it at once.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
TPUS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}  # axes of a slice


def chip() -> Chip | None:
    """That of this machine, where it is known (a CPU's depends on its clock)."""
    return CHIPS.get(jax.devices()[0].device_kind)


def peak_flops() -> float:
    """FLOP/s of one device here, 0 where it is not known."""
    known = chip()
    return known.flops / known.devices if known else 0.0


def topology(name: str, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of so many slices of TPUs, as "v5e:4x4", which programs can be compiled for; or "local", those here.

    Raises ValueError where the name is of no TPU slice, or where libtpu is not installed.
    """
    if name == "local":
        return jax.devices()
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    kind, shape = match.groups() if match else (name, "")
    axes = [int(length) for length in shape.split("x") if length]
    if kind not in TPUS or len(axes) != TPUS[kind] or not all(axes):
        known = ", ".join(f"{k}:{'x'.join(['4'] * n)}" for k, n in TPUS.items())
        raise ValueError(
            f"topology {name!r} is not known; give a slice of TPUs, as {known}, or local. Programs for a GPU are compiled "
            "by its driver's libraries where it is: run this there with local"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"{name} is compiled for by libtpu, which is not installed; pip install 'jaxdiff[plan]'"
        )
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    options = (
        {"chip_config_name": "megacore"} if kind == "v4" else {}
    )  # as Cloud TPU has it: one device a chip
    try:
        return topologies.get_topology_desc(name, "tpu", num_slices=slices, **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"libtpu knows no {slices} x {name} ({reason}); choose a shape that Cloud TPU has"
        ) from None
