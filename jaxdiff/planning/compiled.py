"""A study's train step and its sampling step, compiled for devices that need not be here, and what the compiler says of them.

Times are those of a roofline (Williams et al. 2009): the least that the chip's rates allow.
"""

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from jaxdiff import models, parallel, training
from jaxdiff.cells.cell import Cell
from jaxdiff.planning.chips import Chip
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling_programs import compile_step
from jaxdiff.study import train
from jaxdiff.unet import abstract, parameters

COLLECTIVE = re.compile(
    r"= (?P<shapes>.*?) (?P<op>all-reduce|all-gather|reduce-scatter)(-start)?\("
)
ARRAY = re.compile(r"[a-z]+(?P<bits>\d+)\[(?P<shape>[\d,]*)\]")
RESERVED = (
    2**28
)  # bytes of a chip's memory that libtpu keeps for itself: 15.75 GiB of a v5e's 16 are left
# libtpu's words, of what a program needs beside its arguments (newer ones, older ones), and of what there is.
FULL = re.compile(
    r"(?:\(|Used )([\d.]+)([KMGT]?)\)? (?:exceeds available HBM \(|of )([\d.]+)([KMGT]?)(?:\)| hbm)"
)
# Twice as fast; takes the same memory and FLOP within a hundredth, and counts a quarter fewer bytes (docs/scaling.md).
QUICKLY: Any = {"optimization_level": 9}  # O0
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step; the numbers of one device.

    memory: bytes that it takes while it runs, the state included; limit: bytes that there are. flops; moved: bytes read and
    written; traffic: bytes of the whole arrays that each kind of collective makes. These three are 0 where it does not fit and
    the compiler gives up.
    """

    batch: int
    memory: float | int
    limit: float | int
    flops: float = 0.0
    moved: float = 0.0
    traffic: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def fits(self) -> bool:
        return self.memory <= self.limit


@dataclasses.dataclass(frozen=True)
class Time:
    """Least seconds of a step: its arithmetic, its memory traffic, and what it sends, after one of these has ended."""

    compute: float
    memory: float
    sending: float

    @property
    def step(self) -> float:
        return max(self.compute, self.memory) + self.sending


class Devices:
    """The devices that are planned for, in so many slices, and their chip where it is known. quick: TPU programs are compiled
    QUICKLY."""

    def __init__(
        self, devices: Sequence[jax.Device], chip: Chip | None, slices: int = 1, quick: bool = True
    ):
        self.all, self.chip, self.slices, self.quick = devices, chip, slices, quick
        self.mesh = parallel.mesh_of(devices)

    @property
    def chips(self) -> int:
        return len(self.all) // (self.chip.devices if self.chip else 1)

    @property
    def limit(self) -> float | int:
        """Bytes of memory of one device: as the device says, if it is here; of a CPU, its part of the machine's."""
        one = self.all[0]
        stats = one.memory_stats() if one.platform != "cpu" and one in jax.local_devices() else None
        if stats and "bytes_limit" in stats:
            return stats["bytes_limit"]
        if self.chip:
            return self.chip.memory / self.chip.devices - RESERVED
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(self.all)

    def divided(self, batch: int, parts: int = 1) -> int:
        """The batch nearest to this one whose `parts` the devices divide."""
        unit = len(self.all) * parts
        return max(1, round(batch / unit)) * unit

    def time(self, program: Program) -> Time | None:
        """None where the chip is not known."""
        if self.chip is None:
            return None
        parts = self.chip.devices
        flops, moved = (
            program.flops * parts / self.chip.flops,
            program.moved * parts / self.chip.bandwidth,
        )
        return Time(
            flops,
            moved,
            sum((self._sending(op, size) for op, size in program.traffic.items()), 0.0),
        )

    def _sending(self, op: str, size: float) -> float:
        """Rings: within a slice each chip sends on all parts but one, twice where the sum goes back to all; then its own
        part of the sum to the other slices."""
        assert self.chip is not None
        chips, rounds = self.chips // self.slices, 2 if op == "all-reduce" else 1
        within = rounds * size * (chips - 1) / chips / self.chip.links
        return within + rounds * size / chips * (self.slices - 1) / self.slices / self.chip.network


def changed(cell: Cell, **settings: Any) -> Cell:
    """The cell with other settings of its training."""
    return dataclasses.replace(
        cell, settings=cell.settings | {"train": cell.settings["train"] | settings}
    )


def state_bytes(cell: Cell, devices: Devices) -> dict[str, int]:
    """Bytes on one device of what stays from step to step."""
    kept, data = state(cell, devices), cell.settings["data"]
    images = cell.n * data["size"] ** 2 * data["channels"]
    resident = images <= cell.settings["train"]["resident_mb"] * 1e6
    return {
        "weights": _on_one((kept.params, kept.ema)),
        "optimizer": _on_one(kept.opt_state),
        "images": images * resident,
    }


def _on_one(shapes: PyTree) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def state(cell: Cell, devices: Devices) -> training.TrainState:
    """The shapes of its state, and where they lie."""
    s, shapes = cell.settings["train"], parameters(abstract(cell.unet))
    return training.state_shapes(shapes, train.optimizer(s), devices.mesh, s["shard_params"])


def train_step(cell: Cell, devices: Devices) -> Program:
    """Of one step in a call; calls of several take the memory of their batches, bytes an image, besides."""
    s = cell.settings["train"]
    lowered = train.lower(cell, train.optimizer(s), devices.mesh, state(cell, devices), 1)
    program = _compiled(lowered, s["batch"], devices, state_bytes(cell, devices))
    # XLA counts a loop once, and the parts of a batch are one; the optimizer, counted with them, is little beside them.
    parts = 1 if devices.all[0].platform == "cpu" else s["accumulate"]
    return dataclasses.replace(program, flops=program.flops * parts, moved=program.moved * parts)


def sampling_step(cell: Cell, devices: Devices) -> Program:
    """Of one step of the sampler."""
    s, data, mesh = cell.settings["sample"], cell.settings["data"], devices.mesh
    batch = devices.divided(s["batch"])
    whole, over = parallel.replicated(mesh), NamedSharding(mesh, parallel.DATA)

    def shape(shape, dtype, where):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    diffusion = cell.settings["diffusion"]
    method = SamplerSpec.from_settings(s).build(diffusion["prediction"])
    schedule = models.schedule(diffusion)
    step = compile_step(abstract(cell.unet), schedule, method, mesh)
    params = {
        name: shape(p.shape, p.dtype, whole) for name, p in parameters(abstract(cell.unet)).items()
    }
    images = shape((batch, data["size"], data["size"], data["channels"]), jnp.float32, over)
    carry = jax.tree.map(
        lambda x: shape(x.shape, x.dtype, over), jax.eval_shape(method.init, images)
    )
    steps = jax.tree.map(
        lambda column: shape((1, *column.shape[1:]), column.dtype, whole),
        method.chain(schedule, s["steps"]),
    )
    keys = shape((batch,), jax.random.key(0).dtype, over)
    return _compiled(step.lower(params, carry, steps, keys, None), batch, devices, {})


def _compiled(
    lowered: jax.stages.Lowered, batch: int, devices: Devices, held: dict[str, int]
) -> Program:
    """held: bytes that lie on the device, of which the images are no argument of the step."""
    platform = devices.all[0].platform
    try:
        program = lowered.compile(QUICKLY if platform == "tpu" and devices.quick else None)
    except jax.errors.JaxRuntimeError as error:
        full = FULL.search(str(error))
        if full is None:
            raise ValueError(
                f"a step at batch {batch} cannot be compiled: {str(error).splitlines()[0]}"
            ) from None
        used, limit = (float(full[i]) * UNITS[full[i + 1]] for i in (1, 3))
        return Program(batch, used + sum(held.values()), limit)
    memory: Any = program.memory_analysis()
    costs: Any = program.cost_analysis()
    taken = (
        memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    )  # fmt: skip
    return Program(
        batch, taken + held.get("images", 0), devices.limit, costs.get("flops", 0.0), costs.get("bytes accessed", 0.0),
        traffic(program.as_text() or "", len(devices.all)),
    )  # fmt: skip


def traffic(text: str, devices: int) -> dict[str, float]:
    """Bytes of the whole arrays of each kind of collective in a compiled program's text: reduce-scatter gives a part of it."""
    total: dict[str, float] = {}
    for found in COLLECTIVE.finditer(text):
        for array in ARRAY.finditer(found["shapes"]):
            size = (
                int(array["bits"]) / 8 * math.prod(int(n) for n in array["shape"].split(",") if n)
            )
            size *= devices if found["op"] == "reduce-scatter" else 1
            total[found["op"]] = total.get(found["op"], 0.0) + size
    return total
