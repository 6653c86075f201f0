"""What a study takes on devices that need not be here: memory, time, the largest batch, and what should be changed."""

import dataclasses
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import jax

from jaxdiff.cells.cell import Cell
from jaxdiff.denoiser import count_parameters
from jaxdiff.planning import chips as hardware
from jaxdiff.planning.compiled import (
    Devices,
    Program,
    Time,
    changed,
    sampling_step,
    state_bytes,
    train_step,
)

T = TypeVar("T")
CLOSE = (
    0.1  # of a device's memory: nearer than this to its end a step is compiled, and not foretold
)


def remedy(cell: Cell, devices: Devices) -> tuple[dict[str, Any], Program] | None:
    """The first settings of training whose step fits, None where none does.

    They leave a study's result as it is: weights split over the devices, activations computed again, both, and then the batch
    in ever smaller parts.
    """
    s, n = cell.settings["train"], len(devices.all)
    both = {"shard_params": True, "remat": True} if n > 1 else {"remat": True}
    parts = [s["accumulate"] * 2**i for i in range(1, s["batch"].bit_length())]
    accumulated = [both | {"accumulate": p} for p in parts if s["batch"] % (n * p) == 0]
    tried = [s]
    for settings in (*({key: value} for key, value in both.items()), both, *accumulated):
        if s | settings not in tried:
            tried.append(s | settings)
            program = train_step(changed(cell, **settings), devices)
            if program.fits:
                return settings, program
    return None


def largest_batch(cell: Cell, devices: Devices, program: Program) -> int:
    """The largest batch of a power of two a device (and part) whose step fits; that of `program`, which fits, where it is larger.

    Memory grows in proportion to the batch where this is large: the two largest programs known foretell the next, which is
    compiled unless they leave no doubt (CLOSE) that it fits and twice as much does not.
    """
    unit, state = (
        len(devices.all) * cell.settings["train"]["accumulate"],
        sum(state_bytes(cell, devices).values()),
    )

    def power(batch):
        return unit * 2 ** math.floor(math.log2(max(1.0, batch / unit)))

    below: tuple[int, float | int] = (0, state)
    best, refused = (program.batch, program.memory), math.inf
    while True:
        slope = max(best[1] - below[1], 1.0) / (best[0] - below[0])
        batch = power(best[0] + (program.limit - best[1]) / slope)
        if not below[
            0
        ]:  # the slope is too steep: not all that the step takes beside the state grows
            batch = max(batch, 2 * power(best[0]))
        batch = min(batch, power(refused / 2)) if refused < math.inf else batch
        if batch <= best[0]:
            return best[0]
        foretold = [(best[1] + slope * (n - best[0])) / program.limit for n in (batch, 2 * batch)]
        if below[0] and foretold[0] < 1 - CLOSE and foretold[1] > 1 + CLOSE:
            return batch
        there = train_step(changed(cell, batch=batch), devices)
        if there.fits:
            below, best = best, (batch, there.memory)
        else:
            refused = batch


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of one model of a study, with the settings of training that `remedy` gives where those of the study do not fit.

    refused: the step that does not fit. state: bytes a device (`state_bytes`). times: of a train step and of a sampling step.
    hours: of all its cells' training and sampling, at these times; None where the chip is not known. largest: the largest
    batch that fits; None where it was not looked for.
    """

    model: str
    parameters: int
    cells: int
    state: dict[str, int]
    train: Program
    sample: Program
    times: tuple[Time, Time] | None
    hours: tuple[float, float] | None
    refused: Program | None
    remedy: dict[str, Any]
    largest: int | None


def plan(cells: Sequence[Cell], devices: Devices, search: bool = False) -> Plan:
    """The cells are those of one model. search: for the largest batch, which compiles a few train steps more."""
    cell = max(cells, key=lambda cell: cell.n)
    s = cell.settings["train"]
    cell = changed(cell, batch=devices.divided(s["batch"], s["accumulate"]))
    step, refused = train_step(cell, devices), None
    settings: dict[str, Any] = {}
    if not step.fits:
        refused, (settings, step) = step, remedy(cell, devices) or ({}, step)
        cell = changed(cell, **settings)
    sample = sampling_step(cell, devices)
    times = devices.time(step), devices.time(sample)
    known = None if times[0] is None or times[1] is None else (times[0], times[1])
    return Plan(
        cell.model, count_parameters(cell.unet), len(cells), state_bytes(cell, devices), step, sample, known,
        None if known is None or not (step.fits and sample.fits) else hours(cells, step.batch, sample.batch, known), refused, settings,
        largest_batch(cell, devices, step) if search and step.fits else None,
    )  # fmt: skip


def for_slices(cells: Sequence[Cell], topology: str, slices: int, search: bool = False) -> Plan:
    """`plan` for slices of TPUs, in a process of its own, since libtpu's compiler may end the one that it runs in.

    (It did for "6" on v4:2x2x2 at the quick level, not at its own: that is tried then.) Raises ValueError where neither ends well.
    """
    for quick in (True, False):
        made = in_own_process(_for_slices, cells, topology, slices, search, quick)
        if made is not None:
            return made
    raise ValueError(
        f"libtpu's compiler ended without a word on {cells[0].model} for {topology}; try another slice or another libtpu"
    )


def _for_slices(
    cells: Sequence[Cell], topology: str, slices: int, search: bool, quick: bool
) -> Plan:
    jax.config.update("jax_platforms", "cpu")  # what is here is not asked for
    there = hardware.topology(topology, slices)
    return plan(
        cells, Devices(there, hardware.CHIPS.get(there[0].device_kind), slices, quick), search
    )


def in_own_process(function: Callable[..., T], *arguments: Any) -> T | None:
    """What the function returns, or raises, there; None where the process died. What it prints to stderr is not shown."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_quiet) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            return None


def _quiet() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def hours(
    cells: Sequence[Cell], batch: int, chunk: int, times: tuple[Time, Time]
) -> tuple[float, float]:
    """Of training, and of sampling in chunks. A batch that had to be another than the study's sees as many images."""
    training = sum(
        cell.settings["train"]["steps"] * cell.settings["train"]["batch"] / batch for cell in cells
    )
    s = [cell.settings["sample"] for cell in cells]
    sampling = sum(
        x["steps"] * (math.ceil(x["num"] / chunk) + math.ceil(x["common"] / chunk)) for x in s
    )
    return training * times[0].step / 3600, sampling * times[1].step / 3600


def warnings(cells: Sequence[Cell], made: Plan, devices: Devices) -> Iterator[str]:
    """What should be known before such a machine is asked for."""
    s, n = cells[0].settings, len(devices.all)
    wanted, parts = s["train"]["batch"], s["train"]["accumulate"]
    if wanted % (n * parts):
        each = f" in {parts} parts" if parts > 1 else ""
        yield f"train.batch {wanted}{each} cannot be divided by {n} devices; --config.train.batch={made.train.batch} can, and is planned here"
    if s["sample"]["batch"] % n:
        yield (
            f"sample.batch {s['sample']['batch']} cannot be divided by {n} devices; --config.sample.batch={made.sample.batch} can, "
            "and is planned here"
        )
    if made.refused is not None:
        needed = f"a train step does not fit: {_gigabytes(made.refused)}"
        flags = " ".join(f"--config.train.{key}={value}" for key, value in made.remedy.items())
        yield (
            f"{needed}; with {flags} it does, and is planned here"
            if flags
            else f"{needed}, whatever is changed; take more devices"
        )
    if not made.sample.fits:
        yield f"a sampling step does not fit: {_gigabytes(made.sample)}; choose a smaller --config.sample.batch"
    if made.times is None or not made.train.fits:
        return
    time = made.times[0]
    if time.memory > time.compute:
        half = (
            ""
            if cells[0].settings["train"]["dtype"] == "bfloat16"
            else "; --config.train.dtype=bfloat16 needs less of it"
        )
        yield f"a train step is bound by memory: {1e3 * time.memory:.2f} ms of it for {1e3 * time.compute:.2f} ms of arithmetic{half}"
    working = max(time.compute, time.memory)
    if time.sending > working:
        yield (
            f"a train step sends for {1e3 * time.sending:.2f} ms and works for {1e3 * working:.2f} ms: at batch {made.train.batch} "
            f"more than about {max(1, round(n * working / time.sending))} devices do not pay"
        )


def _gigabytes(program: Program) -> str:
    return f"{program.memory / 1e9:,.1f} GB a device of {program.limit / 1e9:,.1f}"
