"""What a study takes on devices that need not be here: memory, time, and what to change."""

import dataclasses
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import jax

from jaxdiff.cells.cell import Cell
from jaxdiff.denoiser import count_parameters
from jaxdiff.planning import chips
from jaxdiff.planning.compiled import (
    Devices,
    Program,
    StateBytes,
    StepTime,
    change_training,
    compile_sampling_step,
    compile_train_step,
    count_state_bytes,
)
from jaxdiff.plugins import import_plugins

T = TypeVar("T")


def fit_settings(cell: Cell, devices: Devices) -> tuple[dict[str, Any], Program] | None:
    """The first settings of training with which the step fits; None where none does.

    They leave a study's result as it is: weights split over the devices, activations computed
    again, both, and then the batch in ever smaller parts.
    """
    for changes in _candidate_settings(cell, devices.sharing):
        program = compile_train_step(change_training(cell, **changes), devices)
        if program.fits:
            return changes, program
    return None


def _candidate_settings(cell: Cell, num_devices: int) -> list[dict[str, Any]]:
    train = cell.train
    both: dict[str, Any] = {"remat": True}
    if num_devices > 1:
        both = {"shard_params": True, "remat": True}
    candidates = [{key: value} for key, value in both.items()]
    candidates.append(both)
    accumulate = 2 * train.accumulate
    while accumulate <= train.batch:
        if train.batch % (num_devices * accumulate) == 0:
            candidates.append(both | {"accumulate": accumulate})
        accumulate *= 2
    distinct: list[dict[str, Any]] = []
    seen = [train]
    for changes in candidates:
        settings = dataclasses.replace(train, **changes)
        if settings not in seen:
            seen.append(settings)
            distinct.append(changes)
    return distinct


def largest_batch(cell: Cell, devices: Devices, program: Program) -> int:
    """The largest batch of a power of two a device (and part) whose step fits.

    Memory is about linear in the batch where that is large, so the first guess comes from two
    programs; from there the batch is halved or doubled until it fits and twice as much does not.

    Parameters
    ----------
    cell
        With its batch.
    devices
        The devices.
    program
        Its compiled step, which fits.
    """
    unit = devices.sharing * cell.train.accumulate

    def compile_at(batch: int) -> Program:
        return compile_train_step(change_training(cell, batch=batch), devices)

    def power_of_two(batch: float | int) -> int:
        return unit * 2 ** math.floor(math.log2(max(1.0, batch / unit)))

    best = compile_at(2 * power_of_two(program.batch))
    if not best.fits:
        return program.batch
    slope = max((best.memory - program.memory) / (best.batch - program.batch), 1.0)
    batch = power_of_two(best.batch + (best.limit - best.memory) / slope)
    refused = 2**62  # no batch is as large
    while 2 * best.batch < refused:
        # Above the largest batch that fits, and below the smallest that does not.
        batch = max(2 * best.batch, min(batch, refused // 2))
        candidate = compile_at(batch)
        if candidate.fits:
            best = candidate
            batch = 2 * batch
        else:
            refused = batch
            batch = batch // 2
    return best.batch


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the models of a study take that share their programs.

    Parameters
    ----------
    model
        The name of the first, and how many others there are.
    parameters, cells
        The parameters of each, and the cells of all.
    state
        Bytes on a device that stay from step to step.
    train, sample
        The compiled steps, with the settings that `changes` gives.
    times
        Times of a train step and of a sampling step; None where the chip is not known.
    hours
        Chip-hours of all its cells' training and sampling, at these times.
    refused
        The train step with the study's own settings, where it does not fit.
    changes
        Settings of training with which it does.
    largest
        The largest batch that fits; None where it was not looked for.
    at_once
        Cells that train at once, a device each; 1 where each has all devices.
    is_split
        Whether each has all devices since at once they do not fit.
    """

    model: str
    parameters: int
    cells: int
    state: StateBytes
    train: Program
    sample: Program
    times: tuple[StepTime, StepTime] | None
    hours: tuple[float, float] | None
    refused: Program | None
    changes: Mapping[str, Any]
    largest: int | None
    at_once: int = 1
    is_split: bool = False


def plan_model(
    cells: Sequence[Cell], devices: Devices, search: bool = False, at_once: int = 1
) -> Plan:
    """Plan the cells of models that share their programs (`group_by_program`).

    Parameters
    ----------
    cells
        Cells of one model, or of several that differ in length or rate of training alone.
    devices
        The devices.
    search
        Whether to look for the largest batch, which compiles a few train steps more.
    at_once
        Cells that train at once, a device each; 1 gives each all devices.
    """
    all_devices = devices
    if at_once > 1:
        used = devices.all[:at_once]
        devices = Devices(used, devices.chip, devices.slices, devices.quick, at_once=True)
    # Of the training sets that stay on the devices the largest takes the most memory.
    distinct = {cell.n: cell for cell in cells}.values()
    cell = max(distinct, key=lambda cell: (count_state_bytes(cell, devices).images, cell.n))
    batch = devices.nearest_batch(cell.train.batch, cell.train.accumulate)
    cell = change_training(cell, batch=batch)
    train = compile_train_step(cell, devices)
    refused = None
    changes: dict[str, Any] = {}
    if not train.fits:
        refused = train
        fitting = fit_settings(cell, devices)
        if fitting is None and at_once > 1:
            alone = plan_model(cells, all_devices, search)
            if alone.train.fits:
                return dataclasses.replace(alone, refused=refused, is_split=True)
        if fitting is not None:
            changes, train = fitting
            cell = change_training(cell, **changes)
    sample = compile_sampling_step(cell, devices)
    times = _step_times(devices, train, sample)
    fits = train.fits and sample.fits
    return Plan(
        model=_name_models(cells),
        parameters=count_parameters(cell.network),
        cells=len(cells),
        state=count_state_bytes(cell, devices),
        train=train,
        sample=sample,
        times=times,
        hours=(
            count_hours(cells, train.batch, sample.batch, times, at_once)
            if times and fits
            else None
        ),
        refused=refused,
        changes=changes,
        largest=largest_batch(cell, devices, train) if search and train.fits else None,
        at_once=at_once,
    )


def _step_times(
    devices: Devices, train: Program, sample: Program
) -> tuple[StepTime, StepTime] | None:
    train_time = devices.time(train)
    sample_time = devices.time(sample)
    if train_time is None or sample_time is None:
        return None
    return train_time, sample_time


def plan_for_slices(
    cells: Sequence[Cell],
    topology: str,
    slices: int,
    search: bool = False,
    at_once: int = 1,
    plugins: Sequence[str] = (),
) -> Plan:
    """`plan_model` for slices of TPUs or machines with GPUs, in a process of its own.

    It imports the plugins, whose networks and samplers the cells may have.

    libtpu's compiler may end the process that it runs in: it did for "6" on v4:2x2x2 at the
    quick level, not at its own, which is tried then.

    Raises
    ------
    ValueError
        Where neither level ends well.
    """
    for quick in (True, False):
        plan = run_in_process(
            _plan_for_slices, cells, topology, slices, search, at_once, tuple(plugins), quick
        )
        if plan is not None:
            return plan
    raise ValueError(
        f"the compiler crashed compiling {cells[0].model} for {topology}; try another topology or "
        "another version of its plug-in"
    )


def _plan_for_slices(
    cells: Sequence[Cell],
    topology: str,
    slices: int,
    search: bool,
    at_once: int,
    plugins: Sequence[str],
    quick: bool,
) -> Plan:
    import_plugins(plugins)
    jax.config.update("jax_platforms", "cpu")  # the accelerators here are not needed
    devices = chips.open_topology(topology, slices)
    chip = chips.CHIPS.get(devices[0].device_kind)
    return plan_model(cells, Devices(devices, chip, slices, quick), search, at_once)


def run_in_process(function: Callable[..., T], *arguments: Any) -> T | None:
    """What a function returns, or raises, in another process; None where that process dies.

    What it prints to stderr is not shown.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_silence_stderr) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


def _silence_stderr() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def group_by_program(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells whose steps are the same programs, apart from the length and the rate of training.

    A scaling study has a model for each length; each network is compiled once.
    """
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        train = dataclasses.replace(cell.train, steps=0, learning_rate=0.0)
        key = (cell.network, train, cell.diffusion, cell.sample, cell.image_shape)
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def _group_by_model(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    by_model: dict[str, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.model, []).append(cell)
    return by_model


def _name_models(cells: Sequence[Cell]) -> str:
    first, *others = _group_by_model(cells)
    return f"{first} and {len(others)} more" if others else first


def count_hours(
    cells: Sequence[Cell],
    train_batch: int,
    sample_batch: int,
    times: tuple[StepTime, StepTime],
    at_once: int = 1,
) -> tuple[float, float]:
    """Hours of training and of sampling; another batch than the study's sees as many images."""
    train_steps = 0.0
    sampling_steps = 0
    # Cells at once are of one model, and take the time of one of them.
    timed = [cell for group in _group_by_model(cells).values() for cell in group[::at_once]]
    for cell in timed:
        own_steps = cell.train.steps - cell.first_step
        train_steps += own_steps * cell.train.batch / train_batch
        batches = math.ceil(cell.sample.num / sample_batch)
        batches += math.ceil(cell.sample.common / sample_batch)
        sampling_steps += cell.sample.steps * batches
    return train_steps * times[0].step / 3600, sampling_steps * times[1].step / 3600


def list_warnings(cells: Sequence[Cell], plan: Plan, devices: Devices) -> Iterator[str]:
    """What to know before such a machine is asked for."""
    sharing = 1 if plan.at_once > 1 else len(devices.all)
    yield from _batch_warnings(cells[0], plan, sharing)
    yield from _memory_warnings(plan)
    if plan.times is not None and plan.train.fits:
        yield from _time_warnings(cells[0], plan, sharing)


def _batch_warnings(cell: Cell, plan: Plan, num_devices: int) -> Iterator[str]:
    batch = cell.train.batch
    parts = cell.train.accumulate
    if batch % (num_devices * parts):
        in_parts = f" in {parts} parts" if parts > 1 else ""
        yield (
            f"train.batch {batch}{in_parts} cannot be divided by {num_devices} devices; "
            f"--config.train.batch={plan.train.batch} can, and is planned here"
        )
    if cell.sample.batch % num_devices:
        yield (
            f"sample.batch {cell.sample.batch} cannot be divided by {num_devices} devices; "
            f"--config.sample.batch={plan.sample.batch} can, and is planned here"
        )


def _memory_warnings(plan: Plan) -> Iterator[str]:
    if plan.refused is not None:
        sentence = f"a train step does not fit: {_format_memory(plan.refused)}"
        settings = [f"--config.train.{key}={value}" for key, value in plan.changes.items()]
        flags = " ".join(["--config.parallel.cells=1"] * plan.is_split + settings)
        if flags:
            yield f"{sentence}; with {flags} it does, and is planned here"
        else:
            yield f"{sentence}, whatever is changed; take more devices"
    if not plan.sample.fits:
        yield (
            f"a sampling step does not fit: {_format_memory(plan.sample)}; choose a smaller "
            "--config.sample.batch"
        )


def _time_warnings(cell: Cell, plan: Plan, num_devices: int) -> Iterator[str]:
    assert plan.times is not None
    time = plan.times[0]
    if time.memory > time.compute:
        hint = ""
        if cell.train.dtype != "bfloat16":
            hint = "; --config.train.dtype=bfloat16 needs less of it"
        yield (
            f"a train step is bound by memory: {1e3 * time.memory:.2f} ms of it for "
            f"{1e3 * time.compute:.2f} ms of arithmetic{hint}"
        )
    working = max(time.compute, time.memory)
    if time.communication > working:
        useful = max(1, round(num_devices * working / time.communication))
        yield (
            f"a train step communicates for {1e3 * time.communication:.2f} ms and works for "
            f"{1e3 * working:.2f} ms: at batch {plan.train.batch} more than about {useful} "
            "devices do not pay"
        )


def _format_memory(program: Program) -> str:
    return f"{program.memory / 1e9:,.1f} GB a device of {program.limit / 1e9:,.1f}"
