"""A study is a grid of cells: model x proportion x N x seed, each one trained network.

Widths, lengths of training and learning rates are models of their own (`study.variants`).
"""

import dataclasses
import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiff import models
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.train_step import StepSettings
from jaxdiff.datasets.registry import default_channels
from jaxdiff.denoiser import MODELS
from jaxdiff.setting_fields import Config, to_json
from jaxdiff.settings import StudySettings
from jaxdiff.study.config import read_settings
from jaxdiff.study.stems import link_stems
from jaxdiff.study.variants import OF_TRAINING, model_width, train_settings
from jaxdiff.typed_values import check_fields
from jaxdiff.unet import TABLE_A, UNetConfig

# Environment variables of a scheduler's array of tasks: this task's index, their number, and the
# index of the first, which is 0 where it is not set.
ARRAY_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    # Set by launch/gke_gpu.yaml, for Kubernetes.
    ("JAXDIFF_SHARD_INDEX", "JAXDIFF_SHARD_COUNT", "JAXDIFF_SHARD_MIN"),
)


def expand(config: Config) -> list[Cell]:
    """All cells of a study: seeds, then N, proportions and models within.

    Cells that start from another one's training come after all others (`study.stems`).

    Raises
    ------
    ValueError
        For the first setting that cannot be used.
    """
    study = read_settings(config)
    data = study.data
    grid = itertools.product(study.seeds, data.n, data.proportions, study.models)
    cells = [
        _make_cell(study, seed, n, shares, model)
        for seed, n, shares, model in grid
        if seed in study.model_seeds.get(model, study.seeds)
    ]
    _check_names(cells)
    return link_stems(cells)


def _check_names(cells: Sequence[Cell]) -> None:
    """Raise ValueError where two cells would be written to one folder."""
    names: set[str] = set()
    for cell in cells:
        # Disks of macOS and Windows do not tell A from a.
        name = cell.name.casefold()
        if name in names:
            raise ValueError(
                f"every cell needs a folder of its own, and two are named {cell.name}; remove "
                "what config.seeds, data.n, data.proportions or models hold twice"
            )
        names.add(name)


def _make_cell(study: StudySettings, seed: int, n: int, shares: Any, model: str) -> Cell:
    shares = tuple(map(float, shares))
    classes = study.data.classes
    if study.data.alternate and seed % 2:
        # In both roles, so that what belongs to a class cancels (docs/method.md, Contrast).
        classes = classes[::-1]
    percentages = "_".join(f"{100 * share:g}" for share in shares)
    data = dataclasses.replace(
        study.data,
        proportions=(shares,),
        n=(n,),
        channels=image_channels(study),
        # No result depends on the paths, and cells that differ in them are the same.
        dir="",
        cache="",
    )
    cell = Cell(
        name=f"{model}-{percentages}-n{n}-s{seed}",
        model=model,
        network=build_network_config(study, model),
        shares=shares,
        n=n,
        seed=seed,
        majority=classes[0],
        minority=classes[1],
        data=data,
        diffusion=study.diffusion,
        train=train_settings(study, model),
        sample=study.sample,
        classifier=study.classifier,
        measures=study.measures,
    )
    # Raises ValueError where n cannot be split at these shares.
    assert sum(cell.counts.values()) == n
    if cell.proportions[0] < cell.proportions[1]:
        raise ValueError(f"config.data.proportions holds {shares}; write the majority first")
    largest_k = max(study.measures.k)
    if largest_k > n:
        raise ValueError(
            f"config.measures.k holds {largest_k}; there are only {n} training images (data.n)"
        )
    return cell


def image_channels(study: StudySettings) -> int:
    """Channels of the images, as set or as the dataset has them."""
    return study.data.channels or default_channels(study.data.source)


def build_network_config(study: StudySettings, model: str) -> Any:
    """The configuration of the network that config.models names `model`.

    Raises
    ------
    ValueError
        For an unknown row, family or field, and where the images or the weights of
        config.train.init do not fit.
    """
    entry = study.models[model]
    fields = {"row": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ValueError(
            f"config.models.{model} must be a row, as '2', or a dict of fields, got {entry!r}"
        )
    fields = {key: value for key, value in fields.items() if key not in OF_TRAINING}
    if "type" in fields:
        return _build_family_config(study, model, fields)
    return _build_unet_config(study, model, fields)


def _build_family_config(study: StudySettings, model: str, fields: Mapping[str, Any]) -> Any:
    """Of a registered family: the fields given, and the images' channels and size."""
    changes = dict(fields)
    name = changes.pop("type")
    if not isinstance(name, str) or name not in MODELS:
        families = ", ".join(MODELS)
        raise ValueError(f"config.models.{model} is of type {name!r}; choose one of {families}")
    if study.train.init:
        raise ValueError(
            f"config.train.init gives the weights of a U-Net, and config.models.{model} is of "
            f"type {name!r}; leave one of them out"
        )
    config_class = MODELS[name].config_class
    changes = check_fields(config_class, changes, f"config.models.{model}")
    names = {field.name for field in dataclasses.fields(config_class)}
    derived = {"in_channels": image_channels(study), "image_size": study.data.size}
    try:
        return config_class(**{k: v for k, v in derived.items() if k in names} | changes)
    except TypeError as error:
        raise ValueError(
            f"config.models.{model} lacks a field of its type {name!r}: {error}"
        ) from None


def _build_unet_config(study: StudySettings, model: str, fields: Mapping[str, Any]) -> UNetConfig:
    """A row of TABLE_A, widened, with fields changed."""
    changes = dict(fields)
    row = changes.pop("row", None)
    changes.pop("width", None)
    init = models.load_spec(study.train.init) if study.train.init else None
    rows = TABLE_A if init is None else TABLE_A | {"init": init.config}
    if not isinstance(row, str) or row not in rows:
        names = ", ".join(rows)
        raise ValueError(
            f"model {row!r} is not known (config.models, {model!r}); choose one of {names}"
        )
    changes = check_fields(UNetConfig, changes, f"config.models.{model}")
    channels = image_channels(study)
    widened = rows[row].widened(model_width(study, model))
    changes = {"in_channels": channels, "out_channels": channels} | changes
    try:
        unet = dataclasses.replace(widened, **changes)
    except ValueError as error:
        raise ValueError(f"config.models.{model}: {error}") from None
    if (unet.in_channels, unet.out_channels) != (channels, channels):
        raise ValueError(
            f"config.models.{model} takes {unet.in_channels} channels and returns "
            f"{unet.out_channels}, and the images have {channels}; leave in_channels and "
            "out_channels out, and set config.data.channels"
        )
    if unet.has_classes:
        raise ValueError(
            f"model {row!r} takes class labels (config.models, {model!r}); a study's models "
            "take none"
        )
    _check_time_embedding(study, model, unet)
    if init is not None:
        _check_init(study, model, unet, init)
    unet.check_image_size(study.data.size)
    return unet


def _check_time_embedding(study: StudySettings, model: str, unet: UNetConfig) -> None:
    if unet.time_embedding_type == "fourier":
        raise ValueError(
            f"config.models.{model} has time_embedding_type fourier, which takes continuous noise "
            "levels; a study's are integer steps, so choose positional or learned"
        )
    steps = study.diffusion.steps
    if unet.time_embedding_type == "learned" and (unet.num_train_timesteps or 0) < steps:
        raise ValueError(
            f"config.models.{model} has num_train_timesteps {unet.num_train_timesteps} and "
            f"config.diffusion.steps is {steps}; a learned time embedding needs at least as many"
        )


def _check_init(study: StudySettings, model: str, unet: UNetConfig, init: models.ModelSpec) -> None:
    """Raise ValueError, naming what differs, where config.train.init does not fit a model."""
    for field in dataclasses.fields(UNetConfig):
        ours = getattr(unet, field.name)
        theirs = getattr(init.config, field.name)
        # These two do not change what given weights compute, outside of training.
        if ours != theirs and field.name not in ("sample_size", "dropout"):
            raise ValueError(
                f"config.models.{model} has {field.name} {ours} and config.train.init {theirs}; "
                'give the model the row "init" to take its U-Net from there'
            )
    diffusion = study.diffusion
    if init.prediction != diffusion.prediction:
        raise ValueError(
            f"config.diffusion.prediction is {diffusion.prediction} and config.train.init "
            f"predicts {init.prediction}"
        )
    alpha_bar = models.build_schedule(to_json(diffusion)).alpha_bar
    init_alpha_bar = init.schedule.alpha_bar
    # A diffusers folder may hold betas alone, from which alpha_bar is made again up to rounding.
    same_length = alpha_bar.shape == init_alpha_bar.shape
    if not same_length or abs(alpha_bar - init_alpha_bar).max() > 1e-4:
        raise ValueError(
            f"config.diffusion.schedule is {diffusion.schedule} with {diffusion.steps} steps, "
            "which are not the noise levels of config.train.init"
        )


def share_program(cell: Cell, other: Cell) -> bool:
    """Whether two cells are trained and sampled by the same programs."""
    same_step = StepSettings.of(cell) == StepSettings.of(other)
    return same_step and cell.sample == other.sample


def count_at_once(
    cell: Cell, cells: Sequence[Cell], devices: int, setting: int = 0, tasks: int = 1
) -> int:
    """How many cells train at once with this one, a device each; 1 trains it on all devices.

    Parameters
    ----------
    cell
        The cell.
    cells
        All cells that are to be run.
    devices
        Number of devices.
    setting
        config.parallel.cells; 0 takes as many as there are devices, where so many cells share a
        program for each task.
    tasks
        Number of tasks of an array that share the cells.

    Raises
    ------
    ValueError
        Where the setting is more than the devices.
    """
    if setting > devices:
        raise ValueError(
            f"config.parallel.cells is {setting}; cells at once need a device each, and there are "
            f"{devices}, so choose at most {devices}"
        )
    if setting:
        return setting
    alike = sum(share_program(cell, other) for other in cells)
    return devices if alike >= devices * tasks and not cell.train.shard_params else 1


def is_array_task(environment: Mapping[str, str]) -> bool:
    """Whether this process is a task of an array, whose scheduler restarts dead tasks."""
    return any(index in environment for index, *_ in ARRAY_VARIABLES)


def count_array_tasks(environment: Mapping[str, str]) -> int:
    """Number of tasks of the array that this process is one of; 1 where it is none."""
    return _read_array_task(environment)[1]


def _read_array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """This process's index in an array of tasks, from 0, and their number."""
    for index_name, count_name, first_name in ARRAY_VARIABLES:
        index = environment.get(index_name, "")
        count = environment.get(count_name, "")
        first = environment.get(first_name, "0")
        if index.isdigit() and count.isdigit() and first.isdigit() and int(count) > 0:
            return int(index) - int(first), int(count)
    return 0, 1


def order_for_array_task(
    cells: Sequence[Cell], environment: Mapping[str, str], has_locks: bool = True
) -> list[Cell]:
    """The cells in this task's own order, so that the tasks of an array begin at different ones.

    Task i of n takes every n-th cell from the i-th on, and then those that other tasks have left.
    Without locks, which buckets do not have, two tasks could work on one cell: there it takes its
    own cells alone, which are none where there are more tasks than cells.

    Raises
    ------
    ValueError
        Without locks, where the tasks' numbers leave gaps: whose cells would be whose is not known.
    """
    index, tasks = _read_array_task(environment)
    if not has_locks:
        if not 0 <= index < tasks:
            raise ValueError(
                "the tasks of an array must be numbered without gaps where the workdir is in a "
                f"bucket, and this one's number is {index} above the first, of {tasks} tasks; use "
                f"--array=1-{tasks}"
            )
        return _deal(cells, index, tasks)
    starts = [(index + i) % tasks for i in range(tasks)]
    ordered = [cell for start in starts for cell in cells[start::tasks]]
    # Cells that start from another one's checkpoint come last, whoever trains that one.
    return sorted(ordered, key=lambda cell: cell.stem != "")


def _deal(cells: Sequence[Cell], index: int, count: int) -> list[Cell]:
    """The part of the cells with this index, of so many; a cell is in the part of its stem."""
    families = list(dict.fromkeys(cell.stem or cell.name for cell in cells))
    chosen = set(families[index::count])
    return [cell for cell in cells if (cell.stem or cell.name) in chosen]


def select(cells: Sequence[Cell], pattern: str = "*", shard: str = "1/1") -> list[Cell]:
    """The cells whose name matches a glob; of these every n-th from the i-th on ("i/n").

    A cell that starts from the checkpoint of another one is in that one's part.

    Raises
    ------
    ValueError
        Where nothing is selected or the shard is malformed.
    """
    index, _, count = shard.partition("/")
    is_shard = index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)
    if not is_shard:
        raise ValueError(f"--shard is {shard!r}; write i/n with 1 <= i <= n, such as 2/4")
    matching = [cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)]
    if not matching:
        names = ", ".join(cell.name for cell in cells)
        raise ValueError(f"--cells {pattern!r} matches no cell; the cells are {names}")
    return _deal(matching, int(index) - 1, int(count))
