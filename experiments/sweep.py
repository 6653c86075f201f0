"""Run a study: train every cell, sample it, measure it, and draw the report.

  python -m experiments.sweep --config configs/quickstart.py
  python -m experiments.sweep --config configs/quickstart.py --config.train.steps=2000 \\
    --workdir runs/longer
  python -m experiments.sweep --config configs/paper_mnist.py --dry_run

The same command again resumes; --redo NAME makes a stage or a measure again. Several processes or
machines may run it at once on one workdir: each takes a cell that no other one works on, or the
cell of one that died. The tasks of a SLURM array begin at different cells. --shard 1/4, 2/4, ...
divides the cells beforehand, for machines that share no disk or only a bucket, which has no locks.
"""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from experiments import _cli

_cli.prepare_environment()

import jax
import numpy as np
from absl import flags
from etils import epath
from jax.experimental import multihost_utils
from rich.table import Column, Table

from jaxdiff import checkpoints, files, parallel, report, results, timing
from jaxdiff.analysis.claims import judge_study
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.verdicts import explain_few_test_images
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import DataPaths, count_test_images
from jaxdiff.progress import Progress
from jaxdiff.setting_fields import to_json
from jaxdiff.settings import SHARE_FORMS
from jaxdiff.stage import Redo, reserve_folder
from jaxdiff.study import grid, lock, pairwise, stages, stems
from jaxdiff.study.config import fixed_settings, read_settings
from jaxdiff.study.cost import Cost, estimate_cost
from jaxdiff.study.metrics_writer import DivergedError
from jaxdiff.study.planned import planned_settings
from jaxdiff.study.preflight import check_study
from jaxdiff.study.rules import tracker_names

# A study that ended, with a cell whose loss is not finite: the launch files do not run it again.
DIVERGED_STATUS = 3

_cli.define_config("The study, a file of configs/; --config.KEY=VALUE changes one setting.")
flags.DEFINE_string("workdir", None, "Output folder; by default runs/NAME.")
flags.DEFINE_string("cells", "*", "Only the cells whose name matches this glob, such as '2-*-s0'.")
flags.DEFINE_string("shard", "1/1", "i/n: only every n-th cell, from the i-th on.")
flags.DEFINE_bool(
    "dry_run",
    False,
    "Print cells, sizes, time and disk, and make the checks of a run.",
)
flags.DEFINE_bool("profile", False, "Profile a few train steps of the first cell.")
_cli.define_redo()
_cli.define_distributed()
FLAGS = flags.FLAGS


def print_plan(cells: Sequence[Cell], plan: Plan, tasks: int) -> None:
    """The table of --dry_run, and what is planned to be claimed."""
    table = Table(
        Column("cell", no_wrap=True),
        "parameters",
        "training images",
        "images seen",
        "time here",
        "disk",
        box=None,
    )
    costs: dict[str, Cost] = {}
    at_once: dict[str, int] = {}
    seconds = 0.0
    for cell in cells:
        if cell.model not in costs:
            at_once[cell.model] = _count_at_once(cell, cells, tasks)
            costs[cell.model] = estimate_cost(cell, on_one_device=at_once[cell.model] > 1)
        cost = costs[cell.model]
        seconds += cost.seconds / at_once[cell.model]
        table.add_row(
            cell.name,
            f"{cost.parameters:,}",
            " + ".join(f"{count:,}" for count in cell.counts.values()),
            f"{cost.images:,}",
            f"{cost.seconds / 60:,.1f} min",
            f"{cost.disk_bytes / 1e6:,.0f} MB",
        )
    _cli.console.print(table)
    gigabytes = sum(costs[cell.model].disk_bytes for cell in cells) / 1e9
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
    _cli.console.print(
        f"{len(cells)} cells: about {seconds / 3600:,.2f} hours on {devices}, {gigabytes:,.2f} GB"
    )
    shallow, deep = plan.primary
    if shallow != deep:
        plural = "s" if len(plan.seeds) > 1 else ""
        early = f", with one look after {plan.look}" if plan.look else ""
        missing = plan.explain_roles()
        note = f" No verdict: {missing}." if missing else ""
        _cli.console.print(
            f"primary claim: model {deep} against model {shallow} over {len(plan.seeds)} "
            f"seed{plural}{early}; what is added to the study later is in no claim.{note}"
        )


def _count_at_once(cell: Cell, cells: Sequence[Cell], tasks: int) -> int:
    """How many of the cells, which so many tasks share, train at once with this one."""
    setting = FLAGS.config.parallel.cells
    return grid.count_at_once(cell, cells, jax.device_count(), setting, tasks)


class Outcome(NamedTuple):
    """Whether all cells are done, and the cells whose training diverged, with the reason."""

    is_finished: bool
    diverged: list[str]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The cells of a run, the number of tasks that share them, and what it runs them with."""

    cells: Sequence[Cell]
    tasks: int
    workdir: epath.Path
    paths: DataPaths
    progress: _cli.Reporter
    redo: Redo
    track: Sequence[str]

    def run(self) -> Outcome:
        """Run every cell, here or in another process.

        Where all that is left is locked by other processes this waits for them. A task of an array
        leaves to others what they are seen to work on, and the report with it. A cell whose loss is
        not finite does not keep the others from being trained.
        """
        patient = not grid.is_array_task(os.environ)
        waiting = list(self.cells)
        diverged: list[str] = []
        announced = ""
        while waiting:
            locked = self.run_round(waiting, diverged)
            # Nothing could be run in the whole round.
            if len(locked) == len(waiting):
                names = ", ".join(f"{name} ({owner})" for name, owner in locked.items())
                active = all(lock.is_active(self.workdir / "cells" / name) for name in locked)
                if active and not patient:
                    _cli.console.print(f"skipped, locked by others: {names}")
                    return Outcome(is_finished=False, diverged=diverged)
                if names != announced:
                    _cli.console.print(f"waiting for others: {names}")
                    announced = names
                time.sleep(lock.POLL_SECONDS)
            waiting = [cell for cell in waiting if cell.name in locked]
        return Outcome(is_finished=True, diverged=diverged)

    def run_round(self, waiting: Sequence[Cell], diverged: list[str]) -> dict[str, str]:
        """Run each cell, alone or with others, that is not locked; the owners of the locked ones.

        Returns
        -------
        dict
            The owners by the cells' names.
        """
        locked: dict[str, str] = {}
        left = list(waiting)
        while left := self.leave_out_diverged(left, diverged):
            group, owners = self.run_next(left, diverged)
            locked |= owners
            left = [cell for cell in left if cell not in group and cell.name not in owners]
        return locked

    def leave_out_diverged(self, cells: Sequence[Cell], diverged: list[str]) -> list[Cell]:
        """The cells but for those that another process has seen to diverge since this one began."""
        if not cells or files.is_in_bucket(self.workdir):  # there cells are divided beforehand
            return list(cells)
        folders = [self.workdir / "cells" / cell.name for cell in cells]
        # As the first process of a run sees the files.
        is_diverged = [
            parallel.is_leader() and results.has_diverged_since(folder, self.redo.begun)
            for folder in folders
        ]
        is_diverged = parallel.broadcast(np.array(is_diverged, bool)).tolist()
        pairs = list(zip(cells, is_diverged, strict=True))
        known = {line.partition(":")[0] for line in diverged}
        names = [cell.name for cell, is_left_out in pairs if is_left_out]
        diverged += [f"{name}: its loss was not finite" for name in names if name not in known]
        return [cell for cell, is_left_out in pairs if not is_left_out]

    def run_next(
        self, left: Sequence[Cell], diverged: list[str]
    ) -> tuple[list[Cell], dict[str, str]]:
        """Run the first cell, with others at once where they share its program.

        Returns
        -------
        tuple
            The cells that were run, and the owners of those that other processes hold, by name.
        """
        at_once = _count_at_once(left[0], self.cells, self.tasks)
        group: list[Cell] = []
        owners: dict[str, str] = {}
        with contextlib.ExitStack() as locks:
            for cell in left:
                if len(group) < at_once and grid.share_program(left[0], cell):
                    # A cell whose stem is being trained elsewhere counts as locked.
                    owner = stems.find_owner(cell, self.workdir) or locks.enter_context(
                        lock.lock(self.workdir / "cells" / cell.name)
                    )
                    if owner:
                        owners[cell.name] = owner
                    else:
                        group.append(cell)
            if group:
                diverged += self.run_group(group, at_once > 1)
        return group, owners

    def run_group(self, group: Sequence[Cell], at_once: bool) -> list[str]:
        """Run cells that this process has locked; a sentence for each that diverged."""
        profile = FLAGS.profile and group[0] is self.cells[0]
        contexts = [
            stages.open_cell(
                cell, self.workdir, self.paths, self.progress_of([cell]), self.redo, self.track
            )
            for cell in group
        ]
        errors: dict[str, DivergedError] = {}
        if at_once:
            progress = self.progress_of(group)
            errors = stages.run_at_once(contexts, progress, redo=self.redo, profile=profile)
        else:
            try:
                stages.run_cell(contexts[0], redo=self.redo, profile=profile)
            except DivergedError as error:
                errors[group[0].name] = error
        for name, why in errors.items():
            _cli.console.print(f"{name} is left out of the claims: {why}")
        return [f"{name}: {why}" for name, why in errors.items()]

    def progress_of(self, group: Sequence[Cell]) -> Progress:
        """Reports progress under the names of cells."""
        numbers = "+".join(str(self.cells.index(cell) + 1) for cell in group)
        more = f" and {len(group) - 1} more" if len(group) > 1 else ""
        prefix = f"[{numbers}/{len(self.cells)}] {group[0].name}{more}"

        def report(task: str, done: int, total: int, note: str = "") -> None:
            self.progress.prefix = prefix
            self.progress(task, done, total, note)

        return report


def print_results(cells: Sequence[results.CellResult]) -> None:
    """One line per cell: its gate and the three forms of the minority's share."""
    for cell in cells:
        gate = cell.find("quality", "gate")
        assert gate is not None
        named = [(form, cell.find("share", form)) for form in SHARE_FORMS]
        forms = [f"{form} {share}" for form, share in named if share is not None]
        _cli.console.print(
            f"{cell.name}: gate {float(gate):.2f}, minority share {', '.join(forms)}"
        )


def print_claims(study: results.StudyResults) -> None:
    """A line for the primary claim."""
    for claim in judge_study(study):
        if claim.rank == "primary":
            why = f" ({claim.why})" if claim.why else ""
            value = f"{claim.quantity} {claim.estimate}"
            _cli.console.print(f"{claim.claim}: {claim.verdict}{why}; {value}")


def print_seconds(seconds: timing.Seconds) -> None:
    """Where the time of this process went."""
    table = Table(Column("time spent", no_wrap=True), Column("seconds", justify="right"), box=None)
    for part in timing.PARTS:
        if part in seconds:
            table.add_row(part, f"{seconds[part]:,.1f}")
    table.add_row("total", f"{sum(seconds.values()):,.1f}")
    _cli.console.print(table)


def main() -> None:
    with timing.clock(timing.OTHER) as clock:
        run_study(clock)


def run_study(clock: timing.Clock) -> None:
    config = FLAGS.config
    if config is None:
        raise ValueError(
            "--config is missing; say which study to run, as --config configs/quickstart.py"
        )
    _cli.start_devices()
    all_cells = grid.expand(config)
    redo = Redo(FLAGS.redo)
    redo.check_all_matched(stages.stage_names())
    workdir = epath.Path(FLAGS.workdir or f"runs/{config.name}")
    checkpoints.check_folder(workdir)
    has_locks = not files.is_in_bucket(workdir)
    cells = grid.select(all_cells, FLAGS.cells, FLAGS.shard)
    cells = grid.order_for_array_task(cells, os.environ, has_locks)
    tasks = grid.count_array_tasks(os.environ) if has_locks else 1
    if not cells:
        _cli.console.print("no cell is left for this task; fewer tasks would do")
        return
    study_file = workdir / "study.json"
    settings = planned_settings(to_json(config.to_dict()), all_cells, study_file)
    if FLAGS.dry_run:
        print_plan(cells, Plan.from_study(settings), tasks)
    check_study(cells, settings, study_file, config.data.dir)
    if FLAGS.dry_run:
        few = explain_few_test_images(count_test_images(cells[0], config.data.dir))
        if few:
            _cli.console.print(f"no claim can have a verdict: {few}")
        return
    paths = DataPaths(config.data.dir, config.data.cache)
    track = tracker_names(read_settings(config))
    reserve_folder(study_file, settings, fixed=fixed_settings)
    _check_shared(study_file)
    with _cli.Reporter() as progress:
        outcome = Sweep(cells, tasks, workdir, paths, progress, redo, track).run()
        if not outcome.is_finished:
            return
        folders = [workdir / "cells" / cell.name for cell in all_cells]
        if not any((folder / "result.json").exists() for folder in folders):
            _fail_diverged(outcome.diverged)
        progress.prefix = ""
        with lock.lock(workdir, stages.waiting("the report", progress)):
            finished = results.read_cells(workdir)
            pairwise.run_comparisons(finished, workdir, cells[0].measures, progress, redo)
            if parallel.is_leader():
                study = results.read_study(workdir)
                with timing.clock("report"):
                    page = report.draw(study, workdir)
    if parallel.is_leader():
        print_results(study.cells)
        print_claims(study)
        _cli.console.print(f"report: {page}")
        print_seconds(clock.seconds())
    if outcome.diverged:
        _fail_diverged(outcome.diverged)


def _fail_diverged(diverged: Sequence[str]) -> None:
    """Report the cells that diverged, and exit with DIVERGED_STATUS.

    A task of an array exits with 0, since other tasks may still be at work.
    """
    sentence = "; ".join(diverged)
    if grid.is_array_task(os.environ):
        _cli.console.print(sentence)
        sys.exit(0)
    _cli.fail(sentence, DIVERGED_STATUS)


def _check_shared(study_file: epath.Path) -> None:
    """Check that every process of a run sees what the first one has written.

    Raises
    ------
    ValueError
        In all of them, where one does not.
    """
    if jax.process_count() == 1:
        return
    parallel.barrier("study.json is written")
    deadline = time.monotonic() + parallel.SHARED_SECONDS
    while not study_file.exists() and time.monotonic() < deadline:
        time.sleep(1)
    sees = multihost_utils.process_allgather(np.bool_(study_file.exists()))
    if not np.all(sees):
        raise ValueError(
            f"--workdir must be a folder that all {len(sees)} processes of a run share, and some "
            f"do not see {study_file}; choose one on a shared disk or in a bucket"
        )


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
