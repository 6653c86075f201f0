"""The stages of a cell, in order: train, sample, classify, every measure, result."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxdiff import checkpoints, files, parallel, results, timing
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.classifiers import run_classifiers
from jaxdiff.cells.context import DENOISED_FROM, CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.cells.measuring import run_measures
from jaxdiff.datasets.images import to_uint8
from jaxdiff.denoiser import count_parameters
from jaxdiff.features import classifier
from jaxdiff.measures.registry import MEASURES
from jaxdiff.noise_bank import COMMON_SEED
from jaxdiff.progress import Progress
from jaxdiff.provenance import describe_environment
from jaxdiff.records import check_records, read_seconds
from jaxdiff.samplers import SAMPLERS
from jaxdiff.sampling import Sampler
from jaxdiff.settings import to_json
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, claim_folder, run_stage
from jaxdiff.study import inversion
from jaxdiff.study.config import SAMPLE_DEFAULTS
from jaxdiff.study.lock import lock
from jaxdiff.study.metrics_writer import DivergedError
from jaxdiff.study.train import train

CELL_STAGES = ("train", "sample", "classify", "denoise", "result")
SHARED_STAGES = ("classifiers", "inverted", "comparisons")


def stage_names() -> list[str]:
    """Names that --redo takes: the stages and the measures."""
    return [*CELL_STAGES, *SHARED_STAGES, *MEASURES]


def run_cell(
    cell: Cell,
    workdir: epath.Path,
    paths: DataPaths,
    progress: Progress,
    *,
    redo: Redo = NO_REDO,
    profile: bool = False,
) -> None:
    """Train, sample, classify and measure one cell under workdir/cells, skipping what is done.

    Raises
    ------
    ValueError
        Where the folder holds a cell of the same name with other settings or data, or a file that
        cannot be made again is damaged.
    """
    context = CellContext(cell, workdir, paths, progress)
    claim_folder(context.folder / "config.json", cell.to_json(), fixed=_without_measures)
    # Training goes on from a checkpoint, which must be of the same images and first weights.
    claim_folder(context.folder / "data.json", context.trained_on(), kind="data")
    parallel.on_leader("check data", context.check_prepared)
    with lock(workdir / "shared", waiting("the classifiers", progress)):
        _run_classifiers(context, redo)
        if cell.measures.inverted:
            _run_inverted_images(context, redo)
    _run_train(context, redo, profile)
    _run_sample(context, redo)
    _run_classify(context, redo)
    _run_denoise(context, redo)
    measured = run_measures(MEASURES.values(), context, redo)
    _write_run(context)  # before result.json, which says that the cell is finished
    inputs = {"measures": measured, "settings": cell.to_json(), "code": code_digest(describe_cell)}

    def make() -> None:
        context.write_result({"cell": describe_cell(context)}, list(measured))

    run_stage(context.folder, "result", inputs, ("result.json",), make, redo=redo)


def _write_run(context: CellContext) -> None:
    """Write run.json: on what the cell was made, and the seconds of its stages by part.

    They are read from the records, each of which holds what its stage took, in whichever process:
    what was skipped adds nothing now, and what was made again replaces what it took before.
    """
    folder = context.folder
    seconds = timing.add(*(read_seconds(folder, name) for name in context.outputs))
    by_part = {part: round(value, 2) for part, value in seconds.items()}

    def make() -> None:
        total = {"seconds": round(sum(by_part.values()), 2), "seconds_by_part": by_part}
        files.write_json(folder / "run.json", describe_environment() | total)

    run_stage(folder, "run", by_part, ("run.json",), make, is_measured=False)


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
        context.roles.classes,
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
    inputs = {"dataset": context.dataset.contents, "classes": classes, "images": count}

    def make() -> None:
        held_out = context.splits["held_out"]
        inversion.write_images(shared / inversion.IMAGES, held_out, classes, count)

    run_stage(shared, "inverted", inputs, (inversion.IMAGES,), make, redo=redo)


def _run_train(context: CellContext, redo: Redo, profile: bool) -> None:
    """Bound to the settings and the data: an edit of the code alone trains nothing again."""
    cell = context.cell
    folder = context.folder
    if redo.matches("train") and parallel.is_leader() and (folder / "checkpoints").exists():
        (folder / "checkpoints").rmtree()  # or training would go on from the last one
        # What was measured of the old weights is no result of a training that may diverge.
        (folder / "result.json").unlink(missing_ok=True)
    elif not redo.matches("train") and (folder / "metrics.jsonl").exists():
        # A finished training is not run again, and what it logged cannot be had otherwise.
        check_records(folder, ["train"])

    def make() -> None:
        parallel.on_leader("data", lambda: context.splits)  # prepared once, before all read it
        profile_folder = context.workdir / "profile" if profile else None
        try:
            train(cell, folder, context.train, context.progress, profile_folder)
        except DivergedError as error:
            # Its seed is left out of the study's claims, and the other cells are worth having.
            if parallel.is_leader():
                content = {"cell": describe_cell(context), "reason": str(error)}
                files.write_json(folder / results.DIVERGED, content)
            raise

    outputs = (f"checkpoints/{cell.train.steps}", "metrics.jsonl")
    context.outputs["train"] = run_stage(
        folder,
        "train",
        context.trained_from(),
        outputs,
        make,
        all_processes=True,
        is_measured=False,
        part="training",
        redo=redo,
    )
    # A damaged last step was trained again; the others are for measures and for users.
    parallel.on_leader("check steps", lambda: checkpoints.check_steps(folder / "checkpoints"))


def _run_sample(context: CellContext, redo: Redo) -> None:
    cell = context.cell
    inputs = {
        "trained": context.trained_from(),
        "sample": to_json(cell.sample),
        "code": code_digest(SAMPLERS[cell.sample.method], Sampler),
    }
    outputs = ("samples.npz", "common.npz") if cell.sample.common else ("samples.npz",)
    make = functools.partial(write_samples, context)
    context.outputs["sample"] = run_stage(
        context.folder,
        "sample",
        inputs,
        outputs,
        make,
        all_processes=True,
        is_measured=False,
        part="sampling",
        redo=redo,
    )


def write_samples(context: CellContext) -> None:
    """Write samples.npz of the seed's own noise bank and common.npz of the shared one."""
    sampler = context.sampler
    if jax.process_count() > 1:
        sampler = context.make_sampler(all_processes=True)
    settings = context.cell.sample
    banks = (
        ("samples", context.cell.seed, settings.num),
        ("common", COMMON_SEED, settings.common),
    )
    for name, seed, count in banks:
        if count:
            indices = np.arange(count)
            images = to_uint8(sampler.sample(indices, seed))
            if parallel.is_leader():
                results.write_samples(context.folder / f"{name}.npz", images, indices)


def _run_classify(context: CellContext, redo: Redo) -> None:
    inputs = {
        "samples": context.digest("samples"),
        "classifiers": context.digest("predict"),
        "code": code_digest(classifier.classify),
    }
    context.outputs["classify"] = run_stage(
        context.folder, "classify", inputs, ("classes.npz",), context.write_classes, redo=redo
    )


def _run_denoise(context: CellContext, redo: Redo) -> None:
    inputs = {
        "sampler": context.digest("sampler"),
        "classifiers": context.digest("predict"),
        "level": DENOISED_FROM,
        "code": code_digest(classifier.classify, Sampler),
    }
    context.outputs["denoise"] = run_stage(
        context.folder, "denoise", inputs, ("denoised.json",), context.write_denoised, redo=redo
    )


def describe_cell(context: CellContext) -> dict[str, Any]:
    """What result.json says of the cell itself."""
    cell = context.cell
    network = cell.network
    has_levels = hasattr(network, "time_blind")
    return {
        "name": cell.name,
        "model": cell.model,
        "depth": getattr(network, "depth", 0),
        "proportions": list(cell.proportions),
        "data": context.dataset.source.about,
        "n": cell.n,
        "seed": cell.seed,
        "majority": cell.majority,
        "minority": cell.minority,
        "parameters": count_parameters(network),
        "prediction": cell.diffusion.prediction,
        "bottleneck": network.bottleneck(cell.data.size) if has_levels else None,
        "time_blind": list(network.time_blind) if has_levels else [],
    }
