"""The probe of several models, from files to files; each level is kept when it is done."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, hub, models
from jaxdiff.denoiser import abstract_network, count_parameters
from jaxdiff.diffusion import Prediction, Schedule
from jaxdiff.probe.data import ProbeData
from jaxdiff.probe.options import (
    GridPoint,
    ProbeOptions,
    Weights,
    count_dimensions,
    noise_steps,
    probe_grid,
    select_ranks,
)
from jaxdiff.probe.readings import probe_level
from jaxdiff.probe.state import ProbeState, cached_states, check_has_levels
from jaxdiff.progress import Progress, no_progress
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, run_stage
from jaxdiff.unet import UNetConfig

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class ModelFolder:
    """A model on disk that is to be probed.

    Parameters
    ----------
    name
        Its name in probe.json and in the names of its parts.
    path
        A cell's folder, a diffusers folder or a repository id.
    config, schedule, prediction
        Its network, noise schedule and prediction type.
    size
        Height and width of its images; None where the folder does not say.
    """

    name: str
    path: epath.Path
    config: UNetConfig
    schedule: Schedule
    prediction: Prediction
    size: tuple[int, int] | None

    @classmethod
    def read(cls, name: str, path: epath.Path) -> "ModelFolder":
        """Read all but the weights; a ValueError where the path is no model."""
        config, schedule, prediction, settings = models.load_spec(path)
        size = settings["data"]["size"]
        if isinstance(size, int):
            size = (size, size)
        return cls(name, path, config, schedule, prediction, tuple(size) if size else None)


@dataclasses.dataclass(frozen=True)
class ProbeJob:
    """The probe of one model: what is measured, at which images.

    Parameters
    ----------
    model
        The model.
    data
        The images.
    ranks
        Ranks of the pull-back, the same for all models of a run.
    options
        What is measured.
    """

    model: ModelFolder
    data: ProbeData
    ranks: tuple[int, ...]
    options: ProbeOptions

    @functools.cached_property
    def grid(self) -> list[GridPoint]:
        """Everything that is probed, in order."""
        return probe_grid(self.model.config, self.model.schedule, self.options)

    def part_name(self, point: GridPoint) -> str:
        """The name of a part's file and of its record."""
        return f"{self.model.name}-{point.weights}-t{point.t}-level{point.level}"

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """What a part depends on beside its grid point."""
        # A part is the same whatever other levels and timesteps are probed.
        options = dataclasses.replace(self.options, levels=(), noise=(), random=True)
        return {
            "weights": models.weights_digest(self.model.path),
            "unet": dataclasses.asdict(self.model.config),
            "prediction": self.model.prediction,
            "alpha_bar": self.model.schedule.alpha_bar.tolist(),
            "points": self.data.digest(),
            "ranks": self.ranks,
            "options": dataclasses.asdict(options),
        }

    @functools.cached_property
    def get_state(self) -> Callable[[Weights, int], ProbeState]:
        """The state by weights and t; the model is loaded where a part has to be made."""
        return cached_states(models.load(self.model.path), self.data, self.options)


def run(
    paths: Mapping[str, epath.Path],
    data: ProbeData,
    options: ProbeOptions,
    workdir: epath.Path,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> None:
    """Write probe.json: every reading of every model, and of the same networks at random.

    Parts that are done are kept, so running again resumes.

    Parameters
    ----------
    paths
        The models' folders by name.
    data
        The images, the same for all models.
    options
        What is measured.
    workdir
        Where everything is written.
    progress
        Called with the number of parts that are done.
    redo
        Parts that are made again.

    Raises
    ------
    ValueError
        Where a path is no model, a model takes other images, has no such level or noise level,
        models have different noise levels, or `redo` matches no part.
    """
    jobs = _make_jobs(paths, data, options)
    redo.check_all_matched([job.part_name(point) for job in jobs for point in job.grid])
    total = sum(len(job.grid) for job in jobs)
    done = 0
    results = {}
    for job in jobs:
        report = functools.partial(_report, progress, done, total)
        rows = run_job(job, workdir, report, redo)
        done += len(job.grid)
        results[job.model.name] = _describe_model(job, rows)
    summary = {
        "schema": SCHEMA,
        "settings": dataclasses.asdict(options),
        "ranks": jobs[0].ranks,
        "points": data.num_probe,
        "memory": len(data.memory),
        "models": results,
    }
    files.write_json(workdir / "probe.json", summary)


def _make_jobs(
    paths: Mapping[str, epath.Path], data: ProbeData, options: ProbeOptions
) -> list[ProbeJob]:
    """A job for each model, all of which can be probed with these images and options."""
    folders = [ModelFolder.read(name, path) for name, path in paths.items()]
    for model in folders:
        check_model(model, data, options)
    check_noise_levels({model.name: model.schedule for model in folders}, options)
    # The smallest rank sets the norm of a pulled-back Hessian, so all models have the same ranks.
    dimensions = [count_dimensions(model.config, data.image_shape) for model in folders]
    ranks = select_ranks(dimensions, options)
    return [ProbeJob(model, data, ranks, options) for model in folders]


def _describe_model(job: ProbeJob, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The model's entry in probe.json."""
    config = job.model.config
    return {
        "depth": config.depth,
        "parameters": count_parameters(config),
        "bottleneck": config.bottleneck(job.data.image_shape[0]),
        "rows": rows,
        **hub.describe(job.model.path),
    }


def run_job(
    job: ProbeJob,
    workdir: epath.Path,
    report: Callable[[int, str], None],
    redo: Redo = NO_REDO,
) -> list[dict[str, Any]]:
    """The rows of one model: a stage for each grid point.

    Parameters
    ----------
    job
        The model, the images and the options.
    workdir
        Parts are written into its folder ``parts``.
    report
        Called with the number of parts that are done and what is measured next.
    redo
        Parts that are made again.
    """
    rows = []
    for i, point in enumerate(job.grid):
        rows += run_part(job, point, workdir, functools.partial(report, i), redo)
    report(len(job.grid), "")
    return rows


def run_part(
    job: ProbeJob,
    point: GridPoint,
    workdir: epath.Path,
    report: Callable[[str], None],
    redo: Redo = NO_REDO,
) -> list[dict[str, Any]]:
    """The rows of one grid point; they are measured unless the part is done."""
    part = job.part_name(point)
    path = f"parts/{part}.json"
    note = f"{job.model.name}, {point.weights} weights, t = {point.t}, level {point.level}"
    report(note)

    def on_reading(name: str) -> None:
        report(f"{note}: {name}")

    def make() -> None:
        state = job.get_state(point.weights, point.t)
        readings = probe_level(state, job.data, point.level, job.ranks, job.options, on_reading)
        files.write_json(workdir / path, {"rows": [reading.to_json() for reading in readings]})

    inputs = {"job": job.inputs, **point._asdict(), "code": code_digest(probe_level)}
    run_stage(workdir, part, inputs, (path,), make, redo=redo)
    return [point._asdict() | row for row in files.read_json(workdir / path)["rows"]]


def check_model(model: ModelFolder, data: ProbeData, options: ProbeOptions) -> None:
    """Raise a ValueError where a model cannot be probed with these images and options."""
    check_has_levels(abstract_network(model.config))
    image_shape = data.image_shape
    size = model.size or image_shape[:2]
    expected = (*size, model.config.in_channels)
    if expected != image_shape:
        raise ValueError(
            f"{model.name} takes images of {_format_shape(expected)} (height x width x channels), "
            f"got images of {_format_shape(image_shape)}; give --reference with images of that "
            "size, and models of one size in a call"
        )
    # These three are called for their errors alone.
    model.config.check_image_size(image_shape[0])
    probe_grid(model.config, model.schedule, options)
    count_dimensions(model.config, image_shape)


def check_noise_levels(schedules: Mapping[str, Schedule], options: ProbeOptions) -> None:
    """Raise a ValueError unless all models have the same noise levels: they share the same x_t."""
    (first_name, first), *rest = schedules.items()
    expected = first.alpha_bar[noise_steps(first, options)]
    for name, schedule in rest:
        actual = schedule.alpha_bar[noise_steps(schedule, options)]
        same_length = len(first.alpha_bar) == len(schedule.alpha_bar)
        if not same_length or not np.allclose(expected, actual, atol=1e-5):
            raise ValueError(
                f"all models must have the same noise levels, got alpha_bar "
                f"{actual.round(4).tolist()} of {len(schedule.alpha_bar)} steps in {name} and "
                f"{expected.round(4).tolist()} of {len(first.alpha_bar)} steps in {first_name}; "
                "probe them in separate calls"
            )


def _report(progress: Progress, done_before: int, total: int, done: int, note: str) -> None:
    progress("probe", done_before + done, total, note)


def _format_shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
