"""Run a study: train every cell, sample it, measure it, and draw the report.

  python -m experiments.sweep --config configs/quickstart.py
  python -m experiments.sweep --config configs/quickstart.py --config.train.steps=2000 --workdir runs/longer
  python -m experiments.sweep --config configs/paper_mnist.py --dry_run

Running the same command again resumes. Several processes or machines may run it at once on one workdir: each takes a cell that no
other works on, and the cell of one that died; the tasks of a SLURM array begin at different cells. --shard 1/4, 2/4, ... divides
the cells beforehand, for machines that share no disk.
"""

import os
import time

from experiments import _cli

_cli.prepare_environment()

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags
from rich.table import Column, Table

from jaxdiff import parallel, report, results
from jaxdiff.cells import cell as cells
from jaxdiff.cells import data
from jaxdiff.study import lock, stages
from jaxdiff.study.config import AXES, PLACES, explain
from jaxdiff.study.provenance import estimate

config_flags.DEFINE_config_file(
    "config", None, "The study, a file of configs/; --config.KEY=VALUE changes one setting."
)
flags.DEFINE_string("workdir", None, "Where everything is written; runs/NAME by default.")
flags.DEFINE_string("cells", "*", "Only the cells whose name matches this glob, as '2-*-s0'.")
flags.DEFINE_string(
    "shard",
    "1/1",
    "i/n: only every n-th cell, from the i-th on, for n machines that share a study.",
)
flags.DEFINE_bool(
    "dry_run", False, "Print cells, parameters, images, estimated time and disk; run nothing."
)
flags.DEFINE_bool(
    "profile", False, "Record a few training calls of the first cell under WORKDIR/profile."
)
_cli.define_distributed()
FLAGS = flags.FLAGS


def without_axes(study: dict) -> dict:
    """What must stay as it is in a study that has begun: it may gain cells."""
    fixed = {k: v for k, v in study["data"].items() if f"data.{k}" not in AXES + PLACES}
    return {k: v for k, v in stages.without_measures(study).items() if k not in AXES} | {
        "data": fixed
    }


def show_plan(chosen: list[cells.Cell]) -> None:
    """The table of --dry_run."""
    table = Table(
        Column("cell", no_wrap=True),
        "parameters",
        "training images",
        "images seen",
        "time here",
        "disk",
        box=None,
    )
    costs: dict = {}
    for cell in chosen:
        cost = costs.setdefault(cell.model, None) or estimate(cell)
        costs[cell.model] = cost
        table.add_row(cell.name, f"{cost['parameters']:,}", " + ".join(f"{n:,}" for n in cell.counts.values()), f"{cost['images']:,}",
                      f"{cost['seconds'] / 60:,.1f} min", f"{cost['bytes'] / 1e6:,.0f} MB")  # fmt: skip
    _cli.console.print(table)
    total = [sum(costs[cell.model][key] for cell in chosen) for key in ("seconds", "bytes")]
    _cli.console.print(
        f"{len(chosen)} cells: about {total[0] / 3600:,.2f} hours on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s), {total[1] / 1e9:,.2f} GB"
    )


def run(
    chosen: list[cells.Cell],
    workdir: epath.Path,
    places: data.Places,
    progress: _cli.Reporter,
    patient: bool,
) -> bool:
    """Every cell, by this process or by another one; whether all are done.

    Where all that is left is others' work this waits for it, or takes it over; unless `patient` it leaves to others what they are
    known to work on, and the report with it.
    """
    todo, told = list(chosen), ""
    while todo:
        left, others = [], []
        for cell in todo:
            progress.prefix = f"[{chosen.index(cell) + 1}/{len(chosen)}] {cell.name}"
            with lock.lock(workdir / "cells" / cell.name) as other:
                if other:
                    left.append(cell)
                    others.append(f"{cell.name} ({other})")
                else:
                    stages.run_cell(
                        cell, workdir, progress, FLAGS.profile and cell is chosen[0], places
                    )
        if len(left) == len(todo):
            if not patient and all(lock.is_alive(workdir / "cells" / cell.name) for cell in left):
                _cli.console.print(f"left to others: {', '.join(others)}")
                return False
            if told != (told := ", ".join(others)):
                _cli.console.print(f"waiting for others: {told}")
            time.sleep(lock.LOOK)
        todo = left
    return True


def main() -> None:
    config = FLAGS.config
    if config is None:
        raise ValueError(
            "--config is missing; say which study to run, as --config configs/quickstart.py"
        )
    _cli.start_distributed()
    chosen = cells.in_turn(cells.select(cells.expand(config), FLAGS.cells, FLAGS.shard), os.environ)
    if FLAGS.dry_run:
        return show_plan(chosen)
    data.check(chosen, config.data.dir)
    places = data.Places(config.data.dir, config.data.cache)
    workdir = epath.Path(FLAGS.workdir or f"runs/{config.name}")
    stages.claim(workdir / "study.json", cells.plain(config.to_dict()), fixed=without_axes)
    with _cli.Reporter() as progress:
        if not run(chosen, workdir, places, progress, patient=not cells.is_array(os.environ)):
            return
        progress.prefix = ""
        with lock.lock(workdir, stages.waiting("the report", progress)):
            finished = results.read_cells(workdir)
            stages.run_comparisons(
                finished, workdir, cells.plain(config.measures.to_dict()), progress
            )
            if parallel.is_leader():
                page = report.write(workdir)
    if not parallel.is_leader():
        return
    for done in finished:
        gate = done.estimates("quality")[0].value
        shares = (
            f"{s.name} {s.value:.3f} [{s.low:.3f}, {s.high:.3f}]"
            for s in done.estimates("share")
        )
        _cli.console.print(
            f"{done.name}: gate {gate:.2f}, minority share {', '.join(shares) or 'undefined'}"
        )
    _cli.console.print(f"report: {page}")


if __name__ == "__main__":
    _cli.run(main, f"{__doc__}\nEvery key of a config, with its default:\n{explain()}\n")
