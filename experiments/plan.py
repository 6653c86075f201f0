"""Estimate what a study needs on hardware that is not here: memory, time, cost, largest batch.

  python -m experiments.plan --config configs/paper_mnist.py --topology v5e:4x4 --price 1.2
  python -m experiments.plan --config configs/paper_mnist.py --topology h100:8
  python -m experiments.plan --config configs/quickstart.py --topology local

Each model's train step and sampling step are compiled: for a TPU slice by libtpu (pip install
'jaxdiff[plan]'), for a GPU machine by JAX's CUDA plug-in (pip install 'jaxdiff[compiled]'), or for
the devices here. Neither that hardware nor data are needed. Times are those of a roofline, the
least that the chip allows; docs/scaling.md says what is counted and how.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from experiments import _cli

_cli.prepare_environment()

import jax
from absl import flags
from rich.table import Column, Table

from jaxdiff import files
from jaxdiff.cells.cell import Cell
from jaxdiff.planning.chips import CHIPS, open_topology
from jaxdiff.planning.compiled import Devices
from jaxdiff.planning.plan import (
    Plan,
    group_by_program,
    list_warnings,
    plan_for_slices,
    plan_model,
)
from jaxdiff.report.tables import to_csv
from jaxdiff.study import grid
from jaxdiff.study.stems import drop_missing_stems

_cli.define_config("The study, a file of configs/; --config.KEY=VALUE changes one setting.")
flags.DEFINE_string(
    "topology",
    "local",
    "A TPU slice: v4:2x2x2, v5e:4x4, v5p:2x2x1, v6e:8x8, tpu7x:2x2x1; a GPU machine: h100:8, "
    "h200:8; or local, the devices here.",
)
flags.DEFINE_integer(
    "slices", 1, "Number of such slices or machines, joined by a network.", lower_bound=1
)
flags.DEFINE_float(
    "price", None, "Price of one chip for an hour, in any currency.", lower_bound=0.0
)
flags.DEFINE_string("cells", "*", "Only the cells whose name matches this glob, such as '6-*'.")
flags.DEFINE_bool("largest", False, "Look for the largest batch that fits, which takes longer.")
flags.DEFINE_string("out", None, "Also write the table as a CSV file, one row per model.")
FLAGS = flags.FLAGS


class Line(NamedTuple):
    """A line of the table: its title, its key in a row, and how the value is written."""

    title: str
    key: str
    scale: float = 1.0
    digits: int = 0


LINES = (
    Line("parameters", "parameters"),
    Line("batch of a cell", "batch"),
    Line("largest that fits", "largest_batch"),
    Line("MB a device: weights and their average", "weights", 1e6, 1),
    Line("    optimizer", "optimizer", 1e6, 1),
    Line("    training images", "images", 1e6, 1),
    Line("    activations, gradients and the rest", "working", 1e6, 1),
    Line("    in all", "memory", 1e6, 1),
    Line("    of a sampling step", "sampling_memory", 1e6, 1),
    Line("    of", "limit", 1e6),
    Line("    fits", "fits"),
    Line("a train step: GFLOP a device", "flops", 1e9, 2),
    Line("    MB read and written", "bytes_accessed", 1e6, 1),
    Line("    MB summed over devices (all-reduce)", "all-reduce", 1e6, 2),
    Line("    MB gathered (all-gather)", "all-gather", 1e6, 2),
    Line("    MB summed and split (reduce-scatter)", "reduce-scatter", 1e6, 2),
    Line("    arithmetic, ms", "compute_s", 1e-3, 3),
    Line("    memory, ms", "memory_s", 1e-3, 3),
    Line("    communication, ms", "communication_s", 1e-3, 3),
    Line("    in all, ms", "step_s", 1e-3, 3),
    Line("training images a second", "images_per_second"),
    Line("a sampling step, ms", "sampling_step_s", 1e-3, 3),
    Line("cells", "cells"),
    Line("    at once, a device each", "at_once"),
    Line("hours of training", "training_hours", 1.0, 2),
    Line("hours of sampling", "sampling_hours", 1.0, 2),
    Line("chip-hours", "chip_hours", 1.0, 2),
    Line("cost", "cost", 1.0, 2),
)


def to_row(plan: Plan, devices: Devices) -> dict[str, Any]:
    """All of a plan, in FLOP, bytes and seconds of one device."""
    step = plan.train
    row: dict[str, Any] = {
        "model": plan.model,
        "parameters": plan.parameters,
        "cells": plan.cells,
        "at_once": plan.at_once,
        "devices": len(devices.all),
        "batch": step.batch,
        **plan.changes,
        "weights": plan.state.weights,
        "optimizer": plan.state.optimizer,
        "images": plan.state.images,
        "working": step.memory - plan.state.total,
        "memory": step.memory,
        "limit": step.limit,
        "fits": step.fits and plan.sample.fits,
        "sampling_memory": plan.sample.memory,
        "largest_batch": plan.largest,
        "flops": step.flops,
        "bytes_accessed": step.bytes_accessed,
        **step.traffic,
    }
    if plan.times and plan.hours:
        time, sampling_time = plan.times
        chip_hours = sum(plan.hours) * devices.chips
        row |= {
            "compute_s": time.compute,
            "memory_s": time.memory,
            "communication_s": time.communication,
            "step_s": time.step,
            "images_per_second": plan.at_once * step.batch / time.step,
            "sampling_step_s": sampling_time.step,
            "training_hours": plan.hours[0],
            "sampling_hours": plan.hours[1],
            "chip_hours": chip_hours,
            "cost": None if FLAGS.price is None else FLAGS.price * chip_hours,
        }
    return row


def build_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One column per model; lines that no model has are left out."""
    models = [Column(str(row["model"]), justify="right", no_wrap=True) for row in rows]
    table = Table(Column("model", no_wrap=True), *models, box=None)
    for line in LINES:
        values = [row.get(line.key) for row in rows]
        if any(value is not None for value in values):
            table.add_row(line.title, *(format_value(line, value) for value in values))
    return table


def format_value(line: Line, value: object) -> str:
    """A number in the line's unit, or yes, no, or a dash."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value / line.scale:,.{line.digits}f}"
    return "-"


def compile_plans(groups: Sequence[Sequence[Cell]], devices: Devices) -> list[Plan]:
    """A plan for each group of cells that share their programs, several at a time."""

    def compile_plan(cells: Sequence[Cell]) -> Plan:
        setting = FLAGS.config.parallel.cells
        of_first = [cell for cell in cells if cell.model == cells[0].model]
        at_once = grid.count_at_once(cells[0], of_first, len(devices.all), setting)
        if FLAGS.topology == "local":
            return plan_model(cells, devices, FLAGS.largest, at_once)
        plugins = FLAGS.config.plugins
        return plan_for_slices(cells, FLAGS.topology, FLAGS.slices, FLAGS.largest, at_once, plugins)

    plans: list[Plan] = []
    workers = min(4, os.cpu_count() or 1)
    with _cli.Reporter() as progress, ThreadPoolExecutor(workers) as pool:
        progress("compiling", 0, len(groups), "networks")
        for plan in pool.map(compile_plan, groups):
            plans.append(plan)
            progress("compiling", len(plans), len(groups), "networks")
    return plans


def print_total(plans: Sequence[Plan], devices: Devices) -> None:
    """The last line: chip-hours and cost of the study."""
    if devices.chip is None:
        kind = devices.all[0].device_kind
        _cli.console.print(
            f"The rates of a {kind} are not known here: no times, no money; --dry_run of the "
            "sweep measures times."
        )
        return
    hours = sum(sum(plan.hours) for plan in plans if plan.hours) * devices.chips
    cost = ""
    if FLAGS.price is not None:
        cost = f", {FLAGS.price * hours:,.2f} at {FLAGS.price:g} a chip-hour"
    missing = ", ".join(plan.model for plan in plans if not plan.hours)
    without = f" without {missing}, which does not fit" if missing else ""
    _cli.console.print(f"the study{without}: {hours:,.2f} chip-hours at the least{cost}")


def main() -> None:
    if FLAGS.config is None:
        raise ValueError(
            "--config is missing; say which study to plan, as --config configs/paper_mnist.py"
        )
    is_local = FLAGS.topology == "local"
    if is_local and FLAGS.slices > 1:
        raise ValueError(f"--slices is {FLAGS.slices}; leave it out with the local devices")
    out = _cli.output_file("out", ".csv") if FLAGS.out else None
    cells = drop_missing_stems(grid.select(grid.expand(FLAGS.config), FLAGS.cells))
    if not is_local:
        jax.config.update("jax_platforms", "cpu")  # the accelerators here are not needed
    topology = open_topology(FLAGS.topology, FLAGS.slices)
    kind = topology[0].device_kind
    devices = Devices(topology, CHIPS.get(kind), FLAGS.slices)
    groups = group_by_program(cells)
    plans = compile_plans(groups, devices)
    rows = [to_row(plan, devices) for plan in plans]
    console = _cli.console
    console.print(
        f"{FLAGS.slices} x {FLAGS.topology}: {len(topology)} {kind} devices, {devices.chips} chips"
    )
    # Wide enough for all columns, whatever the terminal's width.
    width = 48 + sum(max(12, 3 + len(row["model"])) for row in rows)
    console.print(build_table(rows), width=max(console.width, width))
    for plan, group in zip(plans, groups, strict=True):
        for sentence in list_warnings(group, plan, devices):
            console.print(f"{plan.model}: {sentence}")
    print_total(plans, devices)
    if out:
        keys = dict.fromkeys(key for row in rows for key in row)
        files.write(out, to_csv([{k: row.get(k) for k in keys} for row in rows]))


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
