"""Runs of several lengths from one: shorter trainings begin where a longer one has been.

With the schedule "wsd" the learning rate is constant until the last steps, its cooldown. Until
then runs of different lengths are the same, bit for bit. So the longest one is the stem: it keeps
a checkpoint where the cooldown of each shorter one begins, and the shorter one starts from a copy.

References
----------
Hägele et al. (2024), Scaling laws and compute-optimal training beyond fixed training durations.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import checkpoints, files, parallel
from jaxdiff.cells.cell import Cell
from jaxdiff.study import lock
from jaxdiff.study.metrics_writer import LineFile


def link_stems(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with their stems named, those that start from a stem behind all others.

    Cells that differ in the length of training alone share the stem of the longest.
    """
    families: dict[Any, list[Cell]] = {}
    for cell in cells:
        families.setdefault(_family(cell), []).append(cell)
    stems: dict[str, str] = {}
    branches: dict[str, tuple[int, ...]] = {}
    for family in families.values():
        longest = max(family, key=lambda cell: cell.train.steps)
        if longest.train.cooldown_steps and len(family) > 1:
            others = [cell for cell in family if cell is not longest]
            stems |= {cell.name: longest.name for cell in others}
            branches[longest.name] = tuple(sorted(c.train.stem_steps for c in others))
    linked = [
        dataclasses.replace(
            cell, stem=stems.get(cell.name, ""), branch_steps=branches.get(cell.name, ())
        )
        for cell in cells
    ]
    return sorted(linked, key=lambda cell: cell.stem != "")


def drop_missing_stems(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, of which those whose stem is not among them are trained from their first step."""
    names = {cell.name for cell in cells}
    return [cell if cell.stem in names else dataclasses.replace(cell, stem="") for cell in cells]


def _family(cell: Cell) -> tuple[Any, ...]:
    """All that two cells of one stem have in common."""
    train = dataclasses.replace(cell.train, steps=0)
    return (cell.network, cell.shares, cell.n, cell.seed, cell.data, cell.diffusion, train)


def find_owner(cell: Cell, workdir: epath.Path) -> str:
    """The process that is training a cell's stem, for which the cell waits; "" for none."""
    if not cell.stem:
        return ""
    folder = workdir / "cells" / cell.stem
    # The leader alone looks, since all processes have to ask for the lock or none.
    may_wait = parallel.is_leader() and folder.exists() and not _has_start(cell, workdir)
    if not parallel.broadcast(np.bool_(may_wait)):
        return ""
    with lock.lock(folder) as owner:
        return owner


def start_from_stem(cell: Cell, workdir: epath.Path) -> None:
    """Copy the stem's checkpoint and metrics to a cell that has none; where it has one, nothing.

    A stem that is not there, or not that far, leaves the cell to be trained from its first step,
    which has the same result.
    """
    if cell.stem:
        parallel.on_leader(f"start {cell.name}", lambda: _copy_start(cell, workdir))


def _has_start(cell: Cell, workdir: epath.Path) -> bool:
    step = cell.train.stem_steps
    folders = [workdir / "cells" / name / "checkpoints" for name in (cell.name, cell.stem)]
    own, of_stem = (checkpoints.list_steps(folder) for folder in folders)
    return bool(own) or step in of_stem


def _copy_start(cell: Cell, workdir: epath.Path) -> None:
    step = cell.train.stem_steps
    folder = workdir / "cells" / cell.name
    stem = workdir / "cells" / cell.stem
    if checkpoints.list_steps(folder / "checkpoints"):
        return
    if checkpoints.find_corruption(stem / "checkpoints", step) is not None:
        return
    checkpoints.copy_step(stem / "checkpoints", step, folder / "checkpoints")
    files.write(folder / "metrics.jsonl", (stem / "metrics.jsonl").read_bytes())
    # Cut off at the step: trackers take the last line for what they have been shown already.
    LineFile(folder / "metrics.jsonl", step)
