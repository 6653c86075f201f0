"""What a study would take on hardware that one does not have: memory, time, money, and the largest batch that fits.

  python -m experiments.plan --config configs/paper_mnist.py --topology v5e:4x4 --price 1.2 --largest
  python -m experiments.plan --config configs/paper_celeba.py --topology v4:2x2x2 --slices 2 --cells '6-*'
  python -m experiments.plan --config configs/quickstart.py --topology local

Each model's train step and sampling step are compiled for slices of TPUs by libtpu (pip install 'jaxdiff[plan]'; no TPU is
needed), or for the devices here, and the compiler's own figures are read. No data are needed. Times are those of a roofline,
the least that the chip's arithmetic, its memory and its links allow: a real run takes longer, and what is measured after
training (features, neighbors, curvature) is left out.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from experiments import _cli

_cli.prepare_environment()

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags
from rich.console import Console
from rich.table import Column, Table

from jaxdiff import files
from jaxdiff.cells import cell as cells
from jaxdiff.planning import chips as hardware
from jaxdiff.planning.compiled import Devices
from jaxdiff.planning.plan import Plan, for_slices, plan, warnings
from jaxdiff.report.tables import to_csv

config_flags.DEFINE_config_file(
    "config", None, "The study, a file of configs/; --config.KEY=VALUE changes one setting."
)
flags.DEFINE_string(
    "topology",
    "local",
    "A slice of TPUs: v4:2x2x2, v5e:4x4, v5p:2x2x1, v6e:8x8, tpu7x:2x2x1; or local.",
)
flags.DEFINE_integer(
    "slices", 1, "So many of these slices, joined by the data center's network.", lower_bound=1
)
flags.DEFINE_float("price", None, "Of one chip for an hour, in any currency.", lower_bound=0.0)
flags.DEFINE_string("cells", "*", "Only the cells whose name matches this glob, as '6-*'.")
flags.DEFINE_bool(
    "largest",
    False,
    "Look for the largest batch that fits, which compiles a few steps more a model.",
)
flags.DEFINE_string(
    "out", None, "Write the table as a CSV file too, a row a model, in bytes and seconds."
)
FLAGS = flags.FLAGS

Row = dict[str, object]


def as_row(made: Plan, devices: Devices) -> Row:
    """All of a plan, in FLOP, bytes and seconds of one device."""
    step, state = made.train, made.state
    row: Row = {
        "model": made.model, "parameters": made.parameters, "cells": made.cells, "devices": len(devices.all),
        "batch": step.batch, **made.remedy, "weights": state["weights"], "optimizer": state["optimizer"],
        "images": state["images"], "working": step.memory - sum(state.values()), "memory": step.memory,
        "limit": step.limit, "fits": step.fits and made.sample.fits, "sampling_memory": made.sample.memory, "largest_batch": made.largest, "flops": step.flops, "moved": step.moved,
        **step.traffic,
    }  # fmt: skip
    if made.times and made.hours:
        time, total = made.times[0], sum(made.hours) * devices.chips
        row |= {
            "compute_s": time.compute, "memory_s": time.memory, "sending_s": time.sending, "step_s": time.step,
            "images_per_second": step.batch / time.step, "sampling_step_s": made.times[1].step,
            "training_hours": made.hours[0], "sampling_hours": made.hours[1], "chip_hours": total,
            "cost": None if FLAGS.price is None else FLAGS.price * total,
        }  # fmt: skip
    return row


def number(scale: float, digits: int) -> Callable[[object], str]:
    return lambda value: f"{value / scale:,.{digits}f}" if isinstance(value, int | float) else "-"


LINES: tuple[tuple[str, str, Callable[[object], str]], ...] = (
    ("parameters", "parameters", number(1, 0)),
    ("batch, over all devices", "batch", number(1, 0)),
    ("largest that fits", "largest_batch", number(1, 0)),
    ("MB a device: weights and their average", "weights", number(1e6, 1)),
    ("    optimizer", "optimizer", number(1e6, 1)),
    ("    training images", "images", number(1e6, 1)),
    ("    activations, gradients and the rest", "working", number(1e6, 1)),
    ("    in all", "memory", number(1e6, 1)),
    ("    of a sampling step", "sampling_memory", number(1e6, 1)),
    ("    of", "limit", number(1e6, 0)),
    ("    fits", "fits", lambda fits: "yes" if fits else "no"),
    ("a train step: GFLOP a device", "flops", number(1e9, 2)),
    ("    MB read and written", "moved", number(1e6, 1)),
    ("    MB summed over devices (all-reduce)", "all-reduce", number(1e6, 2)),
    ("    MB gathered (all-gather)", "all-gather", number(1e6, 2)),
    ("    MB summed and split (reduce-scatter)", "reduce-scatter", number(1e6, 2)),
    ("    ms of arithmetic", "compute_s", number(1e-3, 3)),
    ("    ms of memory", "memory_s", number(1e-3, 3)),
    ("    ms of sending", "sending_s", number(1e-3, 3)),
    ("    ms in all", "step_s", number(1e-3, 3)),
    ("training images a second", "images_per_second", number(1, 0)),
    ("ms of a sampling step", "sampling_step_s", number(1e-3, 3)),
    ("cells", "cells", number(1, 0)),
    ("hours of training", "training_hours", number(1, 2)),
    ("hours of sampling", "sampling_hours", number(1, 2)),
    ("chip-hours", "chip_hours", number(1, 2)),
    ("cost", "cost", number(1, 2)),
)


def show(rows: list[Row]) -> Table:
    """A column a model; lines that nobody has are left out."""
    table = Table(
        Column("model", no_wrap=True),
        *(Column(str(r["model"]), justify="right", no_wrap=True) for r in rows),
        box=None,
    )
    for title, key, written in LINES:
        if any(row.get(key) is not None for row in rows):
            table.add_row(title, *(written(row.get(key)) for row in rows))
    return table


def main() -> None:
    if FLAGS.config is None:
        raise ValueError(
            "--config is missing; say which study to plan, as --config configs/paper_mnist.py"
        )
    if FLAGS.topology == "local" and FLAGS.slices > 1:
        raise ValueError(
            f"--slices is {FLAGS.slices}; the devices here are what they are, so leave it out with local"
        )
    chosen = cells.select(cells.expand(FLAGS.config), FLAGS.cells)
    if FLAGS.topology != "local":
        jax.config.update("jax_platforms", "cpu")  # what is here is not asked for
    there = hardware.topology(FLAGS.topology, FLAGS.slices)
    devices = Devices(there, hardware.CHIPS.get(there[0].device_kind), FLAGS.slices)
    by_model: dict[str, list[cells.Cell]] = {}
    for cell in chosen:
        by_model.setdefault(cell.model, []).append(cell)

    def of(own: list[cells.Cell]) -> Plan:
        if FLAGS.topology == "local":
            return plan(own, devices, FLAGS.largest)
        return for_slices(own, FLAGS.topology, FLAGS.slices, FLAGS.largest)

    plans = []
    with _cli.Reporter() as progress, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        progress("compiling", 0, len(by_model), "models")
        for made in pool.map(of, by_model.values()):
            plans.append(made)
            progress("compiling", len(plans), len(by_model), "models")
    rows = [as_row(made, devices) for made in plans]
    console = _cli.console
    console.print(
        f"{FLAGS.slices} x {FLAGS.topology}: {len(there)} {there[0].device_kind} devices, {devices.chips} chips"
    )
    Console(width=max(console.width, 42 + 12 * len(rows))).print(show(rows))
    for made, own in zip(plans, by_model.values(), strict=True):
        for sentence in warnings(own, made, devices):
            console.print(f"{made.model}: {sentence}")
    if devices.chip is None:
        console.print(
            f"The rates of a {there[0].device_kind} are not known here: no times, no money; --dry_run of the sweep takes times."
        )
    else:
        total = sum(sum(made.hours) for made in plans if made.hours) * devices.chips
        cost = (
            ""
            if FLAGS.price is None
            else f", {FLAGS.price * total:,.2f} at {FLAGS.price:g} a chip-hour"
        )
        missing = ", ".join(made.model for made in plans if not made.hours)
        without = f" without {missing}, which does not fit" if missing else ""
        console.print(f"the study{without}: {total:,.2f} chip-hours at the least{cost}")
    if FLAGS.out:
        keys = {key: None for row in rows for key in row}
        files.write(
            epath.Path(FLAGS.out), to_csv([{key: row.get(key) for key in keys} for row in rows])
        )


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
