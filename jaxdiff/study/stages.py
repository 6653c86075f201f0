"""The stages of a cell, in order: train, sample, classify, every measure, result."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxdiff import files, hub, parallel, timing
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.classifiers import run_classifiers
from jaxdiff.cells.context import CellContext, describe_cell
from jaxdiff.cells.data import DataPaths
from jaxdiff.cells.denoising import denoised_confusion
from jaxdiff.cells.measuring import run_measures
from jaxdiff.flops import forward_flops
from jaxdiff.measures.registry import MEASURES
from jaxdiff.progress import Progress
from jaxdiff.provenance import describe_environment
from jaxdiff.records import read_seconds
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, Stage, reserve_folder, run_stage
from jaxdiff.study import inversion, tracking
from jaxdiff.study.config import SAMPLE_DEFAULTS
from jaxdiff.study.lock import lock
from jaxdiff.study.metrics_writer import DivergedError
from jaxdiff.study.sample_stage import run_sample, run_sample_at_once
from jaxdiff.study.train_stage import run_train, run_train_at_once

CELL_STAGES = ("train", "sample", "classify", "denoise", "result")
SHARED_STAGES = ("classifiers", "inverted", "comparisons")


def stage_names() -> list[str]:
    """Names that --redo takes: the stages and the measures."""
    return [*CELL_STAGES, *SHARED_STAGES, *MEASURES]


def open_cell(
    cell: Cell,
    workdir: epath.Path,
    paths: DataPaths,
    progress: Progress,
    redo: Redo = NO_REDO,
    track: Sequence[str] = (),
) -> CellContext:
    """Claim a cell's folder under workdir/cells, and prepare what the cells share.

    Raises
    ------
    ValueError
        Where the folder holds a cell of the same name with other settings or data, or a file that
        cannot be made again is damaged.
    """
    context = CellContext(cell, workdir, paths, progress, track)
    reserve_folder(context.folder / "config.json", cell.to_json(), fixed=_without_measures)
    _reserve_data(context)
    parallel.on_leader("check data", context.check_prepared)
    with lock(workdir / "shared", waiting("the classifiers", progress)):
        _run_classifiers(context, redo)
        if cell.measures.inverted:
            _run_inverted_images(context, redo)
    return context


def _reserve_data(context: CellContext) -> None:
    """Training goes on from a checkpoint, which must be of the same images and first weights."""
    path = context.folder / "data.json"
    training_data = context.training_data()
    # A cell that was trained before its training images were recorded is taken as it is.
    is_older = path.exists() and "training_set" not in path.read_text()

    def fixed(content: Mapping[str, Any]) -> dict[str, Any]:
        return {key: content[key] for key in content if not (is_older and key == "training_set")}

    reserve_folder(path, training_data, fixed, kind="data")


def run_at_once(
    contexts: Sequence[CellContext],
    progress: Progress,
    *,
    redo: Redo = NO_REDO,
    profile: bool = False,
) -> dict[str, DivergedError]:
    """Train and sample cells at once, one device per cell, then measure one after the other.

    Parameters
    ----------
    contexts
        Cells that share programs (`grid.share_program`), at most one a device.
    progress
        Is told how far training and sampling are.
    redo
        The stages that are made again.
    profile
        Whether a few calls of training are recorded.

    Returns
    -------
    errors
        Errors of the cells whose training diverged, by name.
    """
    errors = run_train_at_once(contexts, progress, redo, profile)
    trained = [context for context in contexts if context.cell.name not in errors]
    run_sample_at_once(trained, progress, redo)
    for context in trained:
        run_cell(context, redo=redo)
    return errors


def run_cell(
    context: CellContext,
    *,
    redo: Redo = NO_REDO,
    profile: bool = False,
) -> None:
    """Train, sample, classify and measure one cell on all devices, skipping what is done.

    Parameters
    ----------
    context
        The cell.
    redo
        The stages that are made again.
    profile
        Whether a few calls of training are recorded.

    Raises
    ------
    DivergedError
        Where the training comes to a loss that is not finite.
    """
    if "train" not in context.outputs:
        run_train(context, redo, profile)
    if "sample" not in context.outputs:
        run_sample(context, redo)
    _run_classify(context, redo)
    _run_denoise(context, redo)
    measured = run_measures(MEASURES.values(), context, redo)
    _write_run(context)  # before result.json, which says that the cell is finished
    inputs = {
        "measures": measured,
        "settings": context.cell.to_json(),
        "code": code_digest(describe_cell, forward_flops),
    }

    def make() -> None:
        context.write_result({"cell": describe_cell(context)}, list(measured))

    run_stage(context.folder, "result", inputs, ("result.json",), make, redo=redo)
    tracking.track_result(context, redo)


def _write_run(context: CellContext) -> None:
    """Write run.json: on what the cell was made, and the seconds of its stages by part.

    They are read from the records, each of which holds what its stage took, in whichever process:
    what was skipped adds nothing now, and what was made again replaces what it took before. Of
    cells at once each has the whole time that they trained and were sampled.
    """
    folder = context.folder
    seconds = timing.add(*(read_seconds(folder, name) for name in context.outputs))
    by_part = {part: round(value, 2) for part, value in seconds.items()}

    def make() -> None:
        total = {"seconds": round(sum(by_part.values()), 2), "seconds_by_part": by_part}
        init = hub.describe(context.cell.train.init)
        content = describe_environment() | total | ({"init": init} if init else {})
        files.write_json(folder / "run.json", content)

    # The seconds are its inputs: where no stage was made again, run.json stays as it is.
    Stage(folder, "run", by_part, ("run.json",), is_measured=False).run(make)


def _without_measures(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a trained cell is bound to: how it is measured may change."""
    fixed = {key: value for key, value in settings.items() if key != "measures"}
    return fixed | {"sample": SAMPLE_DEFAULTS | settings["sample"]}


def waiting(task: str, progress: Progress) -> Callable[[str], object]:
    """Tells `progress` for whom a lock waits, and that it has come."""

    def report(owner: str) -> None:
        progress(f"waiting for {task}", 0 if owner else 1, 1, owner)

    return report


def _run_classifiers(context: CellContext, redo: Redo) -> None:
    context.outputs["classifiers"] = run_classifiers(
        context.classifiers.folder,
        context.cell.classifier,
        context.dataset.contents,
        context.roles.trained_classes,
        len(context.dataset.classes),
        lambda: context.splits,
        progress=context.progress,
        redo=redo,
    )


def _run_inverted_images(context: CellContext, redo: Redo) -> None:
    """The held-out images that Eqs. 4 and 5 are evaluated on, the same for all cells."""
    shared = context.classifiers.folder
    classes = sorted(context.roles.classes)
    count = context.cell.measures.inverted
    inputs = {
        "dataset": context.dataset.contents,
        "classes": classes,
        "images": count,
        "code": code_digest(inversion.write_images),
    }

    def make() -> None:
        held_out = context.splits["held_out"]
        inversion.write_images(shared / inversion.IMAGES, held_out, classes, count)

    run_stage(shared, "inverted", inputs, (inversion.IMAGES,), make, redo=redo)


def _run_classify(context: CellContext, redo: Redo) -> None:
    inputs = {
        "samples": context.digest("samples"),
        "classifiers": context.digest("predict"),
    }
    context.outputs["classify"] = run_stage(
        context.folder, "classify", inputs, ("classes.npz",), context.write_classes, redo=redo
    )


def _run_denoise(context: CellContext, redo: Redo) -> None:
    inputs = {
        "sampler": context.digest("sampler"),
        "classifiers": context.digest("predict"),
        "images": context.digest("held_out_of_classes"),
        "code": code_digest(denoised_confusion),
    }
    context.outputs["denoise"] = run_stage(
        context.folder, "denoise", inputs, ("denoised.json",), context.write_denoised, redo=redo
    )
