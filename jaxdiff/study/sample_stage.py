"""The stage `sample` of a cell, and of several cells at once."""

import contextlib
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxdiff import models, parallel, results
from jaxdiff.cell_sampling import CellSampler
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.context import CellContext
from jaxdiff.datasets.images import to_uint8
from jaxdiff.noise_bank import COMMON_SEED
from jaxdiff.progress import Progress
from jaxdiff.source_code import code_digest
from jaxdiff.stage import Redo, Stage


def _sample_stage(context: CellContext, redo: Redo) -> Stage:
    has_common = context.cell.sample.common > 0
    outputs = ("samples.npz", "common.npz") if has_common else ("samples.npz",)
    return Stage(
        context.folder,
        "sample",
        {"sampler": context.digest("sampler"), "code": code_digest(write_samples)},
        outputs,
        is_measured=False,
        part="sampling",
        redo=redo,
    )


def run_sample(context: CellContext, redo: Redo) -> None:
    """Sample a cell on all devices."""
    make = functools.partial(write_samples, context)
    context.outputs["sample"] = _sample_stage(context, redo).run(make, all_processes=True)


def run_sample_at_once(contexts: Sequence[CellContext], progress: Progress, redo: Redo) -> None:
    """Sample the cells that are not sampled, one device per cell."""
    stages = {context.cell.name: _sample_stage(context, redo) for context in contexts}
    waiting = [context for context in contexts if not stages[context.cell.name].is_done()]
    if waiting:
        with contextlib.ExitStack() as clocks:
            seconds = [
                clocks.enter_context(stages[context.cell.name].making()) for context in waiting
            ]
            write_samples_at_once(waiting, progress)
        for context, spent in zip(waiting, seconds, strict=True):
            stages[context.cell.name].finish(spent)
    for context in contexts:
        context.outputs["sample"] = stages[context.cell.name].checksums()


def write_samples(context: CellContext) -> None:
    """Write samples.npz of the seed's own noise bank and common.npz of the shared one."""
    sampler = context.sampler
    # `context.sampler` is one process's, as measures need it; here all of them draw.
    if jax.process_count() > 1:
        sampler = context.make_sampler(all_processes=True)
    for bank in sample_banks(context.cell):
        _write_bank(context, bank, sampler.sample(np.arange(bank.size), bank.seed))


def write_samples_at_once(contexts: Sequence[CellContext], progress: Progress) -> None:
    """The same of cells of one program, one device per cell."""
    settings = contexts[0].cell.sample
    sampler = CellSampler(
        [models.load(context.folder) for context in contexts],
        contexts[0].sampler_spec,
        batch=settings.batch,
        progress=progress,
        dtype=settings.dtype,
    )
    for banks in zip(*(sample_banks(context.cell) for context in contexts), strict=True):
        images = sampler.sample(np.arange(banks[0].size), [bank.seed for bank in banks])
        for context, bank, samples in zip(contexts, banks, images, strict=True):
            _write_bank(context, bank, samples)


class Bank(NamedTuple):
    """The file of samples from a noise bank, the bank's seed, and their number."""

    file: str
    seed: int
    size: int


def sample_banks(cell: Cell) -> list[Bank]:
    """The cell's own noise bank and, where it is asked for, that of all cells."""
    settings = cell.sample
    banks = [
        Bank("samples.npz", cell.seed, settings.num),
        Bank("common.npz", COMMON_SEED, settings.common),
    ]
    return [bank for bank in banks if bank.size]


def _write_bank(context: CellContext, bank: Bank, images: Float[np.ndarray, "n h w c"]) -> None:
    if parallel.is_leader():
        indices = np.arange(bank.size)
        results.write_samples(context.folder / bank.file, to_uint8(images), indices)
