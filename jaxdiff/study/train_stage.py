"""The stage `train` of a cell, and of several cells at once."""

import contextlib
import functools
import time
from collections.abc import Sequence

from etils import epath

from jaxdiff import checkpoints, files, parallel, results
from jaxdiff.cells.context import CellContext, describe_cell
from jaxdiff.progress import Progress
from jaxdiff.records import check_records, remove_record
from jaxdiff.stage import Redo, Stage
from jaxdiff.study import tracking
from jaxdiff.study.metrics_writer import DivergedError
from jaxdiff.study.stems import start_from_stem
from jaxdiff.study.train import Training, train, train_at_once
from jaxdiff.trackers import ID_FILE

BOUND_TO = ("config", "data")  # the records of what a cell's folder is for


def _train_stage(context: CellContext, redo: Redo) -> Stage:
    """Bound to the settings and the data: an edit of the code alone trains nothing again."""
    folder = context.folder
    is_asked_for = redo.asks_for(folder, "train")
    if is_asked_for and parallel.is_leader() and (folder / "checkpoints").exists():
        # Nothing of the old weights is a result of the new ones: all later stages are made again.
        (folder / "result.json").unlink(missing_ok=True)
        for record in list((folder / "stages").iterdir()):
            if record.stem not in BOUND_TO:
                remove_record(folder, record.stem)
        (folder / "checkpoints").rmtree()  # or training would go on from the last one
        # Trackers would leave out the steps that they were shown of the old weights.
        for name in ("metrics.jsonl", ID_FILE):
            (folder / name).unlink(missing_ok=True)
        if (folder / "tensorboard").exists():
            (folder / "tensorboard").rmtree()
    elif not is_asked_for and (folder / "metrics.jsonl").exists():
        # A finished training is not run again, and what it logged cannot be had otherwise.
        check_records(folder, ["train"])
    outputs = (f"checkpoints/{context.cell.train.steps}", "metrics.jsonl")
    inputs = context.training_inputs()
    return Stage(folder, "train", inputs, outputs, is_measured=False, part="training", redo=redo)


def run_train(context: CellContext, redo: Redo, profile: bool) -> None:
    """Train a cell on all devices. Raises DivergedError at a loss that is not finite."""
    stage = _train_stage(context, redo)

    def make() -> None:
        _prepare(context)
        try:
            training = _open_training(context)
            train(training, context.progress, _profile_folder(context, profile))
        except DivergedError as error:
            _write_diverged(context, error)
            raise

    context.outputs["train"] = stage.run(make, all_processes=True)
    _check_steps(context)


def run_train_at_once(
    contexts: Sequence[CellContext], progress: Progress, redo: Redo, profile: bool
) -> dict[str, DivergedError]:
    """Train the cells that are not trained; the error of each that diverges, by its name."""
    stages = [_train_stage(context, redo) for context in contexts]
    trainings: dict[str, Training] = {}
    seconds = {}
    with contextlib.ExitStack() as clocks:
        for context, stage in zip(contexts, stages, strict=True):
            if not stage.is_done():
                name = context.cell.name
                seconds[name] = clocks.enter_context(stage.making())
                _prepare(context)
                trainings[name] = _open_training(context)
        if trainings:
            profile_folder = _profile_folder(contexts[0], profile)
            train_at_once(list(trainings.values()), progress, profile_folder)
    errors = {name: one.error for name, one in trainings.items() if one.error is not None}
    for context, stage in zip(contexts, stages, strict=True):
        name = context.cell.name
        if name in errors:
            _write_diverged(context, errors[name])
            continue
        if name in trainings:
            stage.finish(seconds[name])
        context.outputs["train"] = stage.checksums()
        _check_steps(context)
    return errors


def _open_training(context: CellContext) -> Training:
    open_trackers = functools.partial(tracking.open_for, context)
    return Training(context.cell, context.folder, context.train, open_trackers)


def _prepare(context: CellContext) -> None:
    parallel.on_leader("data", lambda: context.splits)  # prepared once, before all read it
    start_from_stem(context.cell, context.workdir)


def _profile_folder(context: CellContext, profile: bool) -> epath.Path | None:
    return context.workdir / "profile" if profile else None


def _write_diverged(context: CellContext, error: DivergedError) -> None:
    # Its seed is left out of the study's claims, and the other cells are worth having.
    if parallel.is_leader():
        content = {
            "cell": describe_cell(context),
            "reason": str(error),
            "written": time.time(),
        }
        files.write_json(context.folder / results.DIVERGED, content)


def _check_steps(context: CellContext) -> None:
    # A damaged last step was trained again; the others are for measures and for users.
    folder = context.folder / "checkpoints"
    parallel.on_leader("check steps", lambda: checkpoints.check_steps(folder))
