"""A study is a grid of cells: model x proportion x N x seed, each one trained network."""

import dataclasses
import fnmatch
import itertools
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxdiff import models
from jaxdiff.datasets.mixtures import exact_counts, group_counts
from jaxdiff.datasets.registry import default_channels
from jaxdiff.diffusion import Prediction, Schedule
from jaxdiff.study.config import PLACES, check
from jaxdiff.unet import TABLE_A, UNetConfig


@dataclasses.dataclass(frozen=True)
class Cell:
    """One trained model of a study.

    proportions: the classes' shares, majority first; counts: images of each class, or of each group (2 class + attribute)
    where `grouped`; settings: all that its result depends on beside the data, as JSON holds it.
    """

    name: str
    model: str
    unet: UNetConfig
    proportions: tuple[float, ...]
    n: int
    seed: int
    majority: int
    minority: int
    counts: dict[int, int]
    grouped: bool
    settings: dict[str, Any]


def unet_config(config: ml_collections.ConfigDict, model: str) -> UNetConfig:
    """The U-Net that config.models names `model`. Raises ValueError for an unknown row or field."""
    entry = config.models[model]
    changes = {"row": entry} if isinstance(entry, str) else dict(entry)
    row = changes.pop("row", None)
    init = models.load_spec(config.train.init) if config.train.init else None
    rows = TABLE_A | ({} if init is None else {"init": init[0]})
    if row not in rows:
        raise ValueError(
            f"model {row!r} is not known (config.models, {model!r}); choose one of {', '.join(rows)}"
        )
    fields = {field.name for field in dataclasses.fields(UNetConfig)}
    for unknown in set(changes) - fields:
        raise ValueError(
            f"config.models.{model} sets {unknown!r}; a UNetConfig has {', '.join(sorted(fields))}"
        )
    changes = {key: tuple(v) if isinstance(v, list | tuple) else v for key, v in changes.items()}
    own = {"in_channels": channels(config), "out_channels": channels(config)}
    unet = dataclasses.replace(rows[row].widened(config.width), **own | changes)
    if unet.has_classes:
        raise ValueError(
            f"model {row!r} takes class labels (config.models, {model!r}); a study's models take none"
        )
    if init is not None:
        check_init(config, model, unet, *init[:3])
    unet.check_image_size(config.data.size)
    return unet


def channels(config: ml_collections.ConfigDict) -> int:
    """Of the images, as set or as the source has them."""
    return config.data.channels or default_channels(config.data.source)


def check_init(
    config: ml_collections.ConfigDict, model: str, unet: UNetConfig, init: UNetConfig, schedule: Schedule,
    prediction: Prediction,
) -> None:  # fmt: skip
    """Raise ValueError, naming what differs, where the weights of config.train.init do not fit a model of the study."""
    for field in dataclasses.fields(UNetConfig):
        here, there = getattr(unet, field.name), getattr(init, field.name)
        if here != there and field.name not in ("sample_size", "dropout"):
            raise ValueError(
                f"config.models.{model} has {field.name} {here} and config.train.init {there}; "
                'give the model the row "init" to take its U-Net from there'
            )
    if prediction != config.diffusion.prediction:
        raise ValueError(
            f"config.diffusion.prediction is {config.diffusion.prediction} and config.train.init predicts {prediction}"
        )
    wanted = models.build_schedule(config.diffusion.to_dict()).alpha_bar
    if wanted.shape != schedule.alpha_bar.shape or abs(wanted - schedule.alpha_bar).max() > 1e-4:
        raise ValueError(
            f"config.diffusion.schedule is {config.diffusion.schedule} with {config.diffusion.steps} steps, which are not "
            "the noise levels of config.train.init"
        )


def expand(config: ml_collections.ConfigDict) -> list[Cell]:
    """All cells of a study, in order: seeds, then N, proportions and models within. Raises ValueError on bad values."""
    check(config)
    axes = (config.seeds, config.data.n, config.data.proportions, config.models)
    return [_cell(config, *place) for place in itertools.product(*axes)]


def _cell(config: ml_collections.ConfigDict, seed: int, n: int, shares: tuple, model: str) -> Cell:
    shares = tuple(shares) if isinstance(shares, list | tuple) else (shares,)
    classes = tuple(config.data.classes)
    if config.data.alternate and seed % 2:
        classes = classes[::-1]
    counts = _counts(n, shares, classes)
    grouped = len(shares) == 4
    each = list(counts.values())
    proportions = (sum(each[:2]) / n, sum(each[2:]) / n) if grouped else shares
    if proportions[0] < proportions[1]:
        raise ValueError(f"config.data.proportions holds {shares}; write the majority first")
    if max(config.measures.k) > n:
        raise ValueError(
            f"config.measures.k holds {max(config.measures.k)}; there are only {n} training images (data.n)"
        )
    unet = unet_config(config, model)
    own = {
        "model": model,
        "unet": dataclasses.asdict(unet),
        "proportions": list(shares),
        "n": n,
        "seed": seed,
    }
    common = config.to_dict()
    left_out = ("proportions", "n", *(key.partition(".")[2] for key in PLACES))
    data = {k: v for k, v in common["data"].items() if k not in left_out} | {
        "channels": channels(config)
    }
    sections = {k: common[k] for k in ("diffusion", "train", "sample", "classifier", "measures")}
    settings = plain(
        own | sections | {"data": data, "majority": classes[0], "minority": classes[1]}
    )
    return Cell(
        name=f"{model}-{'_'.join(f'{100 * p:g}' for p in shares)}-n{n}-s{seed}", model=model, unet=unet,
        proportions=proportions, n=n, seed=seed, majority=classes[0], minority=classes[1], counts=counts, grouped=grouped,
        settings=settings,
    )  # fmt: skip


def _counts(n: int, shares: tuple[float, ...], classes: tuple[int, ...]) -> dict[int, int]:
    """Images of each class, majority first; or of the four groups, to the nearest whole image."""
    if len(shares) == 4:
        groups = [2 * label + i for label in classes for i in (0, 1)]
        return dict(zip(groups, group_counts(n, shares), strict=True))
    if len(shares) != 2:
        raise ValueError(
            f"config.data.proportions holds {shares}; one share for each of the two classes, or of the four groups, is expected"
        )
    return dict(zip(classes, exact_counts(n, shares), strict=True))


def of_settings(name: str, settings: dict[str, Any]) -> Cell:
    """The cell whose config.json this is."""
    shares, classes = tuple(settings["proportions"]), (settings["majority"], settings["minority"])
    counts, grouped = _counts(settings["n"], shares, classes), len(shares) == 4
    each = list(counts.values())
    proportions = (sum(each[:2]) / sum(each), sum(each[2:]) / sum(each)) if grouped else shares
    return Cell(
        name, settings["model"], models.build_unet_config(settings["unet"]), proportions, settings["n"], settings["seed"], *classes,
        counts, grouped, settings,
    )  # fmt: skip


def plain(value: Any) -> Any:
    """Tuples become lists, as they do in JSON."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("JAXDIFF_SHARD_INDEX", "JAXDIFF_SHARD_COUNT"),
)


def is_array(environment: Mapping[str, str]) -> bool:
    """Whether this process is a task of an array, whose scheduler starts a dead one again."""
    return any(names[0] in environment for names in ARRAYS)


def in_turn(cells: list[Cell], environment: Mapping[str, str]) -> list[Cell]:
    """The cells in an order of this task's own, every n-th first, so that the n tasks of an array begin at different ones."""
    for names in ARRAYS:
        task, count = (environment.get(name, "") for name in names)
        if task.isdigit() and count.isdigit() and int(count) > 0:
            return [
                cell
                for i in range(int(count))
                for cell in cells[(int(task) + i) % int(count) :: int(count)]
            ]
    return cells


def select(cells: list[Cell], pattern: str = "*", shard: str = "1/1") -> list[Cell]:
    """The cells whose name matches a glob, then every n-th from the i-th on ("i/n"). Raises ValueError on an empty choice."""
    try:
        i, n = (int(part) for part in shard.split("/"))
    except ValueError:
        i, n = 0, 0
    if not 1 <= i <= n:
        raise ValueError(f"--shard is {shard!r}; write i/n with 1 <= i <= n, as 2/4")
    matching = [cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)]
    if not matching:
        raise ValueError(
            f"--cells {pattern!r} matches no cell; the cells are {', '.join(cell.name for cell in cells)}"
        )
    return matching[i - 1 :: n]
