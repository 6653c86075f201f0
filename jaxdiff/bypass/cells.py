"""Trained cells with the mid-block bypassed by a fraction: what that does to their samples.

The samples of every fraction start from the same noises, and the measures of `SAMPLE_MEASURES` are
taken of them. Fraction 0 is the cell itself: one point for all forms.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import files, models, results
from jaxdiff.bypass.config import BypassSettings, check_forms
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.classifiers import FILES as CLASSIFIER_FILES
from jaxdiff.cells.classifiers import Classifiers
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.cells.measuring import available
from jaxdiff.cells.selections import match_unseen
from jaxdiff.datasets.images import to_uint8
from jaxdiff.denoiser import abstract_network, count_parameters
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Images
from jaxdiff.measures.effective_k import Memories, NoiseLevel, compute_effective_k
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.registry import MEASURES
from jaxdiff.models import Model
from jaxdiff.progress import Progress, no_progress
from jaxdiff.sampling import Sampler, sampling_code_digest
from jaxdiff.setting_fields import to_json
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, run_stage
from jaxdiff.unet_bypass import BypassedUNet

# Measures of the samples alone; those along training and at noise levels stay as they are.
SAMPLE_MEASURES = ("quality", "share", "lpips", "neighbors", "memorization", "fidelity")
MISSING_AT_A_POINT = ("denoised_confusion", "common_samples", "checkpoints", "random_sampler")


class Point(NamedTuple):
    """What is bypassed: nothing, or a fraction in one form."""

    form: str
    fraction: float

    @property
    def name(self) -> str:
        """Part of a file's name."""
        return f"{self.form}-{self.fraction:g}" if self.form else "0"


def list_points(settings: BypassSettings) -> list[Point]:
    """Nothing bypassed first, then the fractions of each form."""
    bypassed = [
        Point(form, fraction)
        for form in settings.forms
        for fraction in settings.fractions
        if fraction > 0
    ]
    return [Point("", 0.0), *bypassed]


class BypassedCell(CellContext):
    """The artifacts of a trained cell at one point: its samples with the mid-block bypassed.

    Parameters
    ----------
    cell, folder, paths, progress
        Those of the trained cell; its study's classifiers stand beside it.
    settings
        What is bypassed and how it is measured.
    """

    def __init__(
        self,
        cell: Cell,
        folder: epath.Path,
        settings: BypassSettings,
        paths: DataPaths,
        progress: Progress = no_progress,
    ):
        super().__init__(cell, folder.resolve().parent.parent, paths, progress)
        self.folder = folder
        self.bypass = settings
        self._samplers: dict[str, Sampler] = {}  # by form: each is compiled once
        self._samples: Images | None = None
        self._sampler: Sampler | None = None

    @property
    def samples(self) -> Images:
        assert self._samples is not None
        return self._samples

    @functools.cached_property
    def predictions(self) -> Predictions:
        return self.classifiers.predict(self.samples)

    @property
    def sampler(self) -> Sampler:
        assert self._sampler is not None
        return self._sampler

    @property
    def denoised_confusion(self) -> None:
        """Not measured at a point."""

    @property
    def common_samples(self) -> None:
        """Not drawn at a point."""

    @property
    def checkpoints(self) -> None:
        """The last checkpoint alone is bypassed."""

    @property
    def random_sampler(self) -> None:
        """The trained weights alone are bypassed."""

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        """Nothing: what measures write beside their estimates is the trained cell's own."""

    def write_json(self, name: str, value: object) -> None:
        """Nothing, as `write_npz`."""

    def has(self, name: str) -> bool:
        """Whether an artifact exists at a point."""
        return name not in MISSING_AT_A_POINT and super().has(name)

    def at(self, point: Point) -> "BypassedCell":
        """The artifacts with this much bypassed; its samples are drawn."""
        context = copy.copy(self)
        # Cached ones would be those of another point's samples.
        context.__dict__.pop("predictions", None)
        context._sampler = self._make_sampler(point)
        count = self.bypass.num or self.cell.sample.num
        context._samples = to_uint8(context.sampler.sample(np.arange(count), self.cell.seed))
        return context

    def _make_sampler(self, point: Point) -> Sampler:
        model = models.load(self.folder)
        network: Any = model.unet
        if point.form:
            network = self._bypassed(model, point)
        if point.form not in self._samplers:
            self._samplers[point.form] = Sampler(
                dataclasses.replace(model, unet=network),
                self.sampler_spec,
                batch=self.cell.sample.batch,
                dtype=self.cell.sample.dtype,
            )
        sampler = self._samplers[point.form]
        sampler.set_params(network)
        return sampler

    def _bypassed(self, model: Model, point: Point) -> BypassedUNet:
        return BypassedUNet(
            model.unet,
            point.fraction,
            model.schedule.steps,
            form=point.form,  # type: ignore[arg-type]
            window=self.bypass.window,
            ramp=self.bypass.ramp,
        )

    def point_digest(self) -> dict[str, Any]:
        """What every point depends on, besides the point."""
        settings = to_json(self.bypass)
        keys = ("window", "ramp", "num", "queries", "noise")
        measures = [MEASURES[name].compute for name in SAMPLE_MEASURES]
        classifier_files = files.checksums(self.classifiers.folder, CLASSIFIER_FILES)
        inception = self.settings.inception
        return {
            "weights": models.weights_digest(self.folder),
            "classifiers": classifier_files,
            "data": self.data_digest(),
            "settings": {key: settings[key] for key in keys},
            "measures": to_json(self.settings),
            "inception": files.sha256(inception) if inception else "",
            "code": code_digest(BypassedCell, *measures, match_unseen, Classifiers),
            "sampling": sampling_code_digest(self.sampler_spec),
        }

    def measure(self) -> dict[str, list[Estimate]]:
        """Every measure of the samples, and the effective k at one noise level, by section."""
        measures = (MEASURES[name] for name in SAMPLE_MEASURES)
        sections = {m.name: m.compute(self) for m in available(measures, self)}
        if self.bypass.queries:
            sections["effective_k"] = self._effective_k()
        return sections

    def _effective_k(self) -> list[Estimate]:
        """On the samples' own path; undefined where nothing is bypassed at that noise level."""
        sampler = self.sampler
        schedule = sampler.model.schedule
        level = round(self.bypass.noise * (schedule.steps - 1))
        indices = np.arange(self.bypass.queries)
        path = sampler.trajectory(indices, self.cell.seed, [level])
        t, xt = next(iter(path.items()))
        network = sampler.model.unet
        is_outside = (
            isinstance(network, BypassedUNet) and not network.fraction_at(jnp.array([t]))[0]
        )
        if is_outside:
            why = f"nothing is bypassed at t = {t}, outside the window"
            return [Estimate.undefined("k_eff", len(xt), why=why, t=int(t))]
        if self.matched is None:
            why = "no unseen images are of the classes of the training images"
            return [Estimate.undefined("k_eff", len(xt), why=why, t=int(t))]
        x0_hat = sampler.predict(xt, np.full(len(xt), t))[0]
        memories = Memories.build(self.train.images, self.matched)
        estimates = compute_effective_k(xt, x0_hat, memories, NoiseLevel.at(schedule, t))
        return [estimate.labeled(t=int(t)) for estimate in estimates]


def open_cells(
    paths: Mapping[str, epath.Path],
    settings: BypassSettings,
    data_paths: DataPaths,
    progress: Progress = no_progress,
) -> dict[str, BypassedCell]:
    """Trained cells by name.

    Raises
    ------
    ValueError
        Where a folder is no trained cell, is given twice, has no mid-block, was trained on other
        data than are at hand, or has no classifiers of its study beside it.
    """
    opened = {name: open_cell(path, settings, data_paths, progress) for name, path in paths.items()}
    names: dict[tuple[str, int], str] = {}
    for name, context in opened.items():
        first = names.setdefault((kin_digest(context.cell), context.cell.seed), name)
        if first != name:
            raise ValueError(
                f"{name} and {first} are the same model of the same seed; give each cell once"
            )
    return opened


def open_cell(
    path: epath.Path,
    settings: BypassSettings,
    data_paths: DataPaths,
    progress: Progress = no_progress,
) -> BypassedCell:
    """One trained cell. Raises ValueError as `open_cells`."""
    spec = models.load_spec(path)
    if "proportions" not in spec.settings:
        raise ValueError(
            f"{path} names no training data; give a trained cell, as runs/STUDY/cells/NAME"
        )
    unet = abstract_network(spec.config)
    check_forms(unet, spec.schedule.steps, settings)
    cell = Cell.from_json(path.name, spec.settings)
    context = BypassedCell(cell, path, settings, data_paths, progress)
    context.check_training_data(path)
    if not context.classifiers.exist():
        raise ValueError(
            f"{path} has no {context.classifiers.folder}, where its study's classifiers are; keep "
            "the folders of a study together"
        )
    return context


def kin_digest(cell: Cell) -> str:
    """The same for cells that differ in their seed alone."""
    # Odd seeds may exchange the roles; how a model is measured does not make it another one.
    of_seed = ("seed", "majority", "minority", "measures")
    settings = cell.to_json()
    return files.fingerprint({key: settings[key] for key in settings if key not in of_seed})


def run(
    opened: Mapping[str, BypassedCell],
    settings: BypassSettings,
    workdir: epath.Path,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> dict[str, dict[str, Any]]:
    """Measure every cell at every point; what is done is kept.

    Returns
    -------
    models
        What bypass.json has of each cell, by name. Samples are written to workdir/samples.
    """
    points = list_points(settings)
    total = len(opened) * len(points)
    content: dict[str, dict[str, Any]] = {}
    for name, context in opened.items():
        digest = context.point_digest()
        rows: list[dict[str, Any]] = []
        for point in points:
            part = f"{name}-{point.name}"
            outputs = (f"parts/{part}.json", f"samples/{part}.npz")
            make = functools.partial(_write_point, context, name, point, workdir)
            inputs = digest | {"form": point.form, "p": point.fraction}
            run_stage(workdir, part, inputs, outputs, make, redo=redo)
            labels = {"form": point.form, "p": point.fraction}
            # The point's labels stand, whatever a measure calls its own.
            rows += [row | labels for row in files.read_json(workdir / outputs[0])["rows"]]
            done = len(content) * len(points) + points.index(point) + 1
            progress("bypass", done, total, f"{name} {point.form} {point.fraction:g}")
        content[name] = describe(context.cell) | {"rows": rows}
    return content


def describe(cell: Cell) -> dict[str, Any]:
    """What bypass.json says of a cell itself."""
    return {
        "kind": "cell",
        "model": cell.model,
        "depth": cell.network.depth,
        "seed": cell.seed,
        "n": cell.n,
        "proportions": list(cell.proportions),
        "parameters": count_parameters(cell.network),
        "source": cell.data.source,
        "size": cell.data.size,
        "prediction": cell.diffusion.prediction,
        "kin": kin_digest(cell),
        "bottleneck": cell.network.bottleneck(cell.data.size),
    }


def _write_point(context: BypassedCell, name: str, point: Point, workdir: epath.Path) -> None:
    bypassed = context.at(point)
    samples = bypassed.samples
    plain = samples
    if point.form:
        plain = results.read_npz(workdir / "samples" / f"{name}-0.npz")["arr_0"]
    sections = bypassed.measure() | {"moved": [sample_change(samples, plain)]}
    rows = [
        estimate.to_json() | {"measure": section}
        for section, estimates in sections.items()
        for estimate in estimates
    ]
    part = f"{name}-{point.name}"
    results.write_samples(workdir / "samples" / f"{part}.npz", samples, np.arange(len(samples)))
    files.write_json(workdir / "parts" / f"{part}.json", {"rows": rows})


def sample_change(samples: Images, plain: Images) -> Estimate:
    """RMS difference a pixel, in [0, 1], from the samples of the same noise without bypassing."""
    difference = (samples.astype(float) - plain) / 255.0
    rms = np.square(difference).mean(axis=(1, 2, 3)) ** 0.5
    return Estimate.mean(rms.tolist(), "samples", "rms")
