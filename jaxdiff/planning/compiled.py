"""A study's train step and sampling step, compiled for devices that need not be here.

Times are those of a roofline (Williams et al. 2009): the least that the chip's rates allow.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff import cell_axis, models, parallel
from jaxdiff.cells import train_step as cell_steps
from jaxdiff.cells.cell import Cell
from jaxdiff.denoiser import abstract_network, get_params
from jaxdiff.ops.dispatch import tracing_for
from jaxdiff.planning import cuda
from jaxdiff.planning.chips import Chip
from jaxdiff.planning.kernels import Kernel, count_bytes, count_shape_bytes, list_kernels
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling_programs import compile_step
from jaxdiff.setting_fields import to_json
from jaxdiff.training_step import TrainState

# Of one in two lines, start and done, the second has the result's shapes alone.
COLLECTIVE = re.compile(r"= (?P<shapes>.*?) (?P<op>all-reduce|all-gather|reduce-scatter)(-done)?\(")
# Bytes of a chip's memory that libtpu keeps for itself: 15.75 GiB of a v5e's 16 are left.
RESERVED = 2**28
# JAX takes this part of a GPU's memory and leaves the rest to the driver and its libraries.
PREALLOCATED = 0.75
# libtpu's words for what a program needs beside its arguments and what there is (new, old form).
OUT_OF_MEMORY = re.compile(
    r"(?:\(|Used )([\d.]+)([KMGT]?)\)? (?:exceeds available HBM \(|of )([\d.]+)([KMGT]?)"
    r"(?:\)| hbm)"
)
# Twice as fast; takes the same memory and FLOP within a hundredth, and counts a quarter fewer
# bytes (docs/scaling.md).
QUICK_OPTIONS: Any = {"optimization_level": 9}  # O0
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step; the numbers are of one device.

    Parameters
    ----------
    batch
        Images of a step, over all devices.
    memory
        Bytes that it takes while it runs, the state included.
    limit
        Bytes that there are.
    flops, bytes_accessed
        Floating-point operations, and bytes read and written. For GPUs that are not here the
        operations are the model's, without the optimizer's and recomputed activations.
    traffic
        Bytes of the full arrays that each kind of collective makes.
    temporaries
        Bytes of the memory that hold neither arguments nor results.
    kernels
        For GPUs that are not here: the kernels that were counted.

    All after `limit` are 0 where the step does not fit and the compiler gives up.
    """

    batch: int
    memory: float | int
    limit: float | int
    flops: float = 0.0
    bytes_accessed: float = 0.0
    traffic: Mapping[str, float] = dataclasses.field(default_factory=dict)
    temporaries: float | int = 0
    kernels: Sequence[Kernel] = ()

    @property
    def fits(self) -> bool:
        """Whether the memory is enough."""
        return self.memory <= self.limit


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Least seconds of a step: of its arithmetic, its memory traffic, its communication."""

    compute: float
    memory: float
    communication: float

    @property
    def step(self) -> float:
        """Arithmetic and memory overlap; communication follows."""
        return max(self.compute, self.memory) + self.communication


class Devices:
    """The devices that are planned for.

    Parameters
    ----------
    devices
        All of them.
    chip
        What one chip can do, where that is known.
    slices
        Number of slices that they are in.
    quick
        Whether TPU programs are compiled with QUICK_OPTIONS.
    at_once
        Whether each device trains a cell of its own (`cell_axis`).

    Attributes
    ----------
    sharing
        Number of devices that share a batch.
    """

    def __init__(
        self,
        devices: Sequence[jax.Device],
        chip: Chip | None,
        slices: int = 1,
        quick: bool = True,
        at_once: bool = False,
    ):
        self.all = devices
        self.chip = chip
        self.slices = slices
        self.quick = quick
        self.sharing = 1 if at_once else len(devices)
        make_mesh = cell_axis.make_mesh if at_once else parallel.make_mesh
        self.mesh = make_mesh(devices)

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        return self.all[0].platform

    @property
    def chips(self) -> int:
        """Number of chips."""
        return len(self.all) // (self.chip.devices if self.chip else 1)

    @property
    def limit(self) -> float | int:
        """Bytes of memory of one device.

        As the device says, if it is here; of a CPU, its part of the machine's.
        """
        device = self.all[0]
        is_here = device.platform != "cpu" and device in jax.local_devices()
        stats = device.memory_stats() if is_here else None
        if stats and "bytes_limit" in stats:
            return stats["bytes_limit"]
        if self.chip and device.platform == "gpu":
            return PREALLOCATED * self.chip.memory
        if self.chip:
            return self.chip.memory / self.chip.devices - RESERVED
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(self.all)

    def nearest_batch(self, batch: int, accumulate: int = 1) -> int:
        """The batch nearest to this one whose parts the devices divide."""
        unit = self.sharing * accumulate
        return max(1, round(batch / unit)) * unit

    def time(self, program: Program) -> StepTime | None:
        """The roofline's time of a step; None where the chip is not known."""
        if self.chip is None:
            return None
        per_chip = self.chip.devices
        communication = [self._ring_time(op, size) for op, size in program.traffic.items()]
        return StepTime(
            program.flops * per_chip / self.chip.flops,
            program.bytes_accessed * per_chip / self.chip.bandwidth,
            sum(communication, 0.0),
        )

    def _ring_time(self, op: str, size: float) -> float:
        """Seconds of a collective on rings.

        Within a slice each chip sends all parts but one, twice where the sum goes back to all;
        then it sends its own part of the sum to the other slices.
        """
        assert self.chip is not None
        chips = self.chips // self.slices
        rounds = 2 if op == "all-reduce" else 1
        within = rounds * size * (chips - 1) / chips / self.chip.links
        part = rounds * size / chips
        between = part * (self.slices - 1) / self.slices / self.chip.network
        return within + between


def change_training(cell: Cell, **settings: Any) -> Cell:
    """The cell with other settings of its training."""
    return dataclasses.replace(cell, train=dataclasses.replace(cell.train, **settings))


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """Bytes on one device of what stays from step to step."""

    weights: int
    optimizer: int
    images: int

    @property
    def total(self) -> int:
        """Of all three."""
        return self.weights + self.optimizer + self.images


def count_state_bytes(cell: Cell, devices: Devices) -> StateBytes:
    """Weights with their average, the optimizer's state, and resident training images."""
    state = abstract_state(cell, devices)
    image_bytes = cell.n * math.prod(cell.image_shape)
    is_resident = image_bytes <= cell.train.resident_mb * 1e6
    return StateBytes(
        _bytes_on_one_device((state.params, state.ema)),
        _bytes_on_one_device(state.opt_state),
        image_bytes if is_resident else 0,
    )


def _bytes_on_one_device(shapes: PyTree) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def abstract_state(cell: Cell, devices: Devices) -> TrainState:
    """Shapes of the train state, and where they lie."""
    return cell_steps.step_state_shapes(cell_steps.StepSettings.of(cell), devices.mesh)


def compile_train_step(cell: Cell, devices: Devices) -> Program:
    """One step in a call; calls of several take the memory of their batches besides."""
    state = abstract_state(cell, devices)
    settings = cell_steps.StepSettings.of(cell)
    with cuda.answer_for(devices.all[0]):
        lowered = cell_steps.lower_train_steps(settings, devices.mesh, state, 1)
    images = count_state_bytes(cell, devices)
    program = _compile(lowered, cell.train.batch, devices, images)
    if program.kernels:
        flops = cell_steps.train_step_flops(settings) / devices.sharing
        return dataclasses.replace(program, flops=flops)
    # XLA counts a loop once, and the parts of a batch are one loop. The optimizer's arithmetic,
    # counted with them, is little beside theirs.
    parts = 1 if devices.platform == "cpu" else cell.train.accumulate
    flops = program.flops * parts
    if devices.platform == "tpu" and program.flops:
        # The attention kernel does not say the arithmetic of its backward pass: the model's is the
        # least that there is.
        flops = max(flops, cell_steps.train_step_flops(settings) / devices.sharing)
    return dataclasses.replace(
        program,
        flops=flops,
        bytes_accessed=_add_parts(program.bytes_accessed, parts, images),
    )


def _add_parts(bytes_counted: float, parts: int, state: StateBytes) -> float:
    """Bytes of a step whose loop over the parts of a batch was counted once.

    The optimizer reads and writes its state, the weights and their average once a step.
    """
    once = min(2.0 * (state.weights + state.optimizer), bytes_counted)
    return parts * (bytes_counted - once) + once


def compile_sampling_step(cell: Cell, devices: Devices) -> Program:
    """One step of the sampler."""
    batch = devices.nearest_batch(cell.sample.batch)
    with cuda.answer_for(devices.all[0]):
        lowered = _trace_sampling_step(cell, batch, devices.mesh).lower()
    program = _compile(lowered, batch, devices, StateBytes(0, 0, 0))
    if program.kernels:
        flops = batch / devices.sharing * count_sampling_flops(cell)
        return dataclasses.replace(program, flops=flops)
    return program


def _trace_sampling_step(cell: Cell, batch: int, mesh: Mesh) -> jax.stages.Traced:
    at_once = cell_axis.has_cells(mesh)
    network = abstract_network(cell.network)
    schedule = models.build_schedule(to_json(cell.diffusion))
    spec = SamplerSpec.from_settings(to_json(cell.sample))
    method = spec.build(cell.diffusion.prediction)  # type: ignore[arg-type]

    def place(shapes: PyTree, spec: PartitionSpec) -> PyTree:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    def split(shapes: PyTree) -> PyTree:
        return cell_axis.stack_shapes(shapes, mesh) if at_once else place(shapes, parallel.DATA)

    params = get_params(network)
    x_T = jax.ShapeDtypeStruct((batch, *cell.image_shape), jnp.float32)
    first_step = jax.tree.map(lambda column: column[:1], method.chain(schedule, spec.steps))
    keys = jax.ShapeDtypeStruct((batch,), jax.random.key(0).dtype)
    return compile_step(network, schedule, method, mesh, cell.sample.dtype).trace(
        split(params) if at_once else place(params, parallel.REPLICATED),
        split(jax.eval_shape(method.init, x_T)),
        place(first_step, parallel.REPLICATED),
        split(keys),
        None,
    )


def count_sampling_flops(cell: Cell) -> float:
    """Floating-point operations of a sampling step of one image, by XLA's cost analysis."""
    mesh = parallel.make_mesh(jax.local_devices(backend="cpu")[:1])
    # Of one image and by the definitions, as `image_flops`.
    with tracing_for("tpu"):
        lowered = _trace_sampling_step(cell, 1, mesh).lower()
    costs: Any = lowered.cost_analysis() or {}
    return float(costs.get("flops", 0.0))


def _compile(
    lowered: jax.stages.Lowered, batch: int, devices: Devices, state: StateBytes
) -> Program:
    """What the compiler says of a program; the resident images are no argument of it."""
    is_quick = devices.platform == "tpu" and devices.quick
    try:
        program = lowered.compile(QUICK_OPTIONS if is_quick else None)
    except jax.errors.JaxRuntimeError as error:
        return _read_refusal(str(error), batch, state)
    memory: Any = program.memory_analysis()
    costs: Any = program.cost_analysis() or {}
    text = program.as_text() or ""
    # Without the card XLA counts nothing.
    kernels = list_kernels(text) if cuda.is_absent(devices.all[0]) else []
    # What is donated is an argument and an output in one place, and counts once.
    taken = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Program(
        batch,
        taken + state.images,
        devices.limit,
        costs.get("flops", 0.0),
        float(count_bytes(kernels)) if kernels else costs.get("bytes accessed", 0.0),
        count_traffic(text, len(devices.all)),
        memory.temp_size_in_bytes,
        kernels,
    )


def _read_refusal(message: str, batch: int, state: StateBytes) -> Program:
    """The memory that libtpu says a program would need. Raises ValueError for other errors."""
    match = OUT_OF_MEMORY.search(message)
    if match is None:
        reason = message.splitlines()[0]
        raise ValueError(f"a step at batch {batch} cannot be compiled: {reason}") from None
    used = float(match[1]) * UNITS[match[2]]
    limit = float(match[3]) * UNITS[match[4]]
    return Program(batch, used + state.total, limit)


def count_traffic(text: str, devices: int) -> dict[str, float]:
    """Bytes of the full arrays of each kind of collective in a compiled program's text.

    A reduce-scatter's result is one device's part of the array.
    """
    total: dict[str, float] = {}
    for collective in COLLECTIVE.finditer(text):
        op = collective["op"]
        parts = devices if op == "reduce-scatter" else 1
        size = count_shape_bytes(collective["shapes"])
        total[op] = total.get(op, 0.0) + size * parts
    return total
