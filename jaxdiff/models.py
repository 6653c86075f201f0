"""Trained models: the folder of a study's cell, or a diffusers folder from anywhere."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath
from flax import nnx

from jaxdiff import (
    checkpoints,
    diffusers_io,
    diffusers_scheduler,
    files,
    hub,
    torch_weights,
    weights,
)
from jaxdiff.denoiser import (
    abstract_network,
    bind_params,
    config_from_json,
    config_to_json,
    get_params,
)
from jaxdiff.diffusers_config import check_unconditional, read_config
from jaxdiff.diffusion import SCHEDULES, Prediction, Schedule
from jaxdiff.unet import UNet, UNetConfig
from jaxdiff.unet_bypass import BypassedUNet

log = logging.getLogger(__name__)
Form = Literal["cell", "diffusers"]
Shape = tuple[int, int, int]  # height, width and channels
DEFAULT_BATCH = 16  # samples of a model from elsewhere that are computed at once
# How a model is sampled whose settings do not say: as studies sample by default.
DEFAULT_SAMPLER: dict[str, Any] = {
    "method": "ddim",
    "steps": 50,
    "eta": 0.0,
    "clip": True,
    "batch": DEFAULT_BATCH,
}
SAVED_STEP = 0  # the checkpoint's step, of a model that no study trained


@dataclasses.dataclass(frozen=True)
class Model:
    """A network, its noise schedule and what its output stands for.

    Parameters
    ----------
    unet
        A UNet, a BypassedUNet, or any other network that is called in the same way. A cell's
        has its EMA weights.
    schedule
        Noise schedule.
    prediction
        What the network's output stands for: eps, v or x0.
    config
        The cell's settings; of a diffusers folder, the sections that it has (unet, scheduler,
        sample, data); empty for a model that was made in a notebook.
    image_shape
        Height, width and channels of its images; by default those of `config` or the network.
    """

    unet: Any
    schedule: Schedule
    prediction: Prediction
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_shape: Shape | None = None

    @property
    def shape(self) -> Shape:
        """Height, width and channels of its images.

        Raises
        ------
        ValueError
            Where neither `image_shape`, `config` nor the network says.
        """
        # A U-Net takes images of many sizes: those that it was trained on are in the settings.
        trained_size = self.config.get("data", {}).get("size")
        shape = self.image_shape or _to_shape(trained_size, self.unet) or _input_shape(self.unet)
        if shape is None:
            raise ValueError(
                "a model must know the size of its images, and this one has no sample_size; write "
                "it into its config.json, or give image_shape=(height, width, channels) to Model"
            )
        return shape


class ModelSpec(NamedTuple):
    """All of a saved model but its weights.

    Attributes
    ----------
    config
        The network's config, of a family in `jaxdiff.denoiser.MODELS`.
    schedule
        Noise schedule.
    prediction
        What the network's output stands for.
    settings
        What becomes `Model.config`.
    """

    config: Any
    schedule: Schedule
    prediction: Prediction
    settings: dict[str, Any]


def _to_shape(size: int | Sequence[int] | None, network: Any) -> Shape | None:
    """The shape of images of one size, or of [height, width]; None without size or channels."""
    channels = getattr(getattr(network, "config", None), "in_channels", None)
    if not size or not channels:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, channels


def _input_shape(network: Any) -> Shape | None:
    """The shape that the network itself says, None where it does not."""
    try:
        if hasattr(network, "input_shape"):
            return tuple(network.input_shape)
    except ValueError:  # it has no image size
        return None
    size = getattr(getattr(network, "config", None), "sample_size", None)
    return _to_shape(size, network)


def load(path: epath.PathLike, step: int | None = None) -> Model:
    """A trained model.

    Parameters
    ----------
    path
        Folder of a cell, a diffusers folder, or a repository id (see `jaxdiff.hub`).
    step
        Checkpoint of the cell; by default the latest that was finished.

    Raises
    ------
    ValueError
        Where the path is none of them, or the weights are missing or damaged. An older checkpoint
        is never taken in place of a damaged one, since it is another model.
    """
    spec = load_spec(path)
    folder = hub.find_folder(path)
    # A cell's weights are its EMA; what a diffusers folder holds is for its author to say.
    if diffusers_io.is_diffusers_folder(folder):
        if step is not None:
            raise ValueError(
                f"{path} is a diffusers folder, which has no steps; leave the step out"
            )
        if diffusers_scheduler.find_folder(folder) is None:
            log.warning(
                "%s has no scheduler_config.json, nor has the folder above it: DDPM's linear "
                "schedule and a network that predicts eps are assumed; put the file of its "
                "training there",
                folder,
            )
        unet_folder = diffusers_io.find_unet_folder(folder)
        if unet_folder.name == "unet_ema" and (folder / "unet").exists():
            log.info("%s is read; for the weights before averaging give unet/", unet_folder)
        hub.fetch_weights(path, unet_folder, diffusers_io.WEIGHTS)
        unet = diffusers_io.load_unet(folder)
        return Model(unet, spec.schedule, spec.prediction, spec.settings)
    steps = checkpoints.list_steps(folder / "checkpoints")
    if not steps:
        raise ValueError(f"{path} has no checkpoint yet; run its study to the end first")
    if step is None:
        step = steps[-1]
    ema = checkpoints.restore_part(folder / "checkpoints", step, "ema")
    arrays = {name: np.asarray(value) for name, value in ema.items()}
    weights.check_finite(arrays, folder / "checkpoints" / str(step))
    unet = bind_params(abstract_network(spec.config), ema)
    return Model(unet, spec.schedule, spec.prediction, spec.settings)


def load_spec(path: epath.PathLike) -> ModelSpec:
    """All of a model but its weights.

    Parameters
    ----------
    path
        As in `load`.

    Raises
    ------
    ValueError
        Where the path is no model.
    """
    folder = hub.find_folder(path)
    diffusers_io.check_form(folder)
    if diffusers_io.is_diffusers_folder(folder):
        return _load_diffusers_spec(folder)
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{path} is no model: it has no config.json; give a cell's folder, as "
            "runs/STUDY/cells/NAME, or a diffusers folder"
        )
    settings = files.read_json(folder / "config.json")
    if "unet" not in settings or not {"diffusion", "scheduler"} & settings.keys():
        raise ValueError(
            f"{path} is no model: its config.json is neither a cell's nor a UNet2DModel's"
        )
    schedule, prediction = _read_diffusion(settings)
    return ModelSpec(config_from_json(settings["unet"]), schedule, prediction, settings)


def _read_diffusion(settings: Mapping[str, Any]) -> tuple[Schedule, Prediction]:
    """Schedule and prediction of a cell's settings, or of those of a diffusers folder."""
    if "scheduler" in settings:
        scheduler = settings["scheduler"]
        schedule = diffusers_scheduler.build_schedule(scheduler)
        return schedule, diffusers_scheduler.get_prediction(scheduler)
    diffusion = settings["diffusion"]
    return build_schedule(diffusion), diffusion["prediction"]


def _load_diffusers_spec(folder: epath.Path) -> ModelSpec:
    path = diffusers_io.find_unet_folder(folder) / "config.json"
    config = read_config(files.read_json(path), path)
    check_unconditional(config, path)
    diffusers_io.check_parts(path.parent)
    scheduler_folder = diffusers_scheduler.find_folder(folder)
    scheduler = diffusers_scheduler.DEFAULT
    if scheduler_folder is not None:
        scheduler = diffusers_scheduler.read(scheduler_folder)
    size = config.sample_size
    sampler = diffusers_scheduler.sampler_settings(scheduler)
    settings = {
        "unet": dataclasses.asdict(config),
        "scheduler": dict(scheduler),
        "data": {"size": list(size) if isinstance(size, tuple) else size},
        "sample": sampler | {"batch": DEFAULT_BATCH},
    }
    schedule, prediction = _read_diffusion(settings)
    return ModelSpec(config, schedule, prediction, settings)


def save(model: Model, folder: epath.PathLike, form: Form = "cell") -> None:
    """Write a model into a folder that `load` reads.

    Parameters
    ----------
    model
        The model.
    folder
        A new folder, or one that `save` has written before.
    form
        "cell", the folder of a study's cell: config.json and a checkpoint; or "diffusers", a
        pipeline folder that diffusers opens as well.

    Raises
    ------
    ValueError
        Where the model cannot be written: its network is of a class that cannot be loaded, or
        the folder holds another model.
    """
    if form == "diffusers":
        _save_pipeline(model, epath.Path(folder))
    else:
        _save_cell(model, epath.Path(folder))


def network_config(network: nnx.Module) -> UNetConfig:
    """The config that a saved network is built from again.

    Raises
    ------
    ValueError
        Where no config builds a network of this class.
    """
    config = getattr(network, "config", None)
    if type(network) is UNet and type(config) is UNetConfig:
        return config
    hint = (
        "save its unet instead" if isinstance(network, BypassedUNet) else "save its params yourself"
    )
    raise ValueError(
        f"a saved network must be a UNet with a UNetConfig, got a {type(network).__name__} with a "
        f"{type(config).__name__}; {hint}"
    )


def _save_cell(model: Model, folder: epath.Path) -> None:
    settings = _complete_settings(model)
    checkpoints.check_folder(folder)
    # `load` would take the newer checkpoint, or the other model.
    steps = checkpoints.list_steps(folder / "checkpoints")
    if diffusers_io.is_diffusers_folder(folder) or set(steps) - {SAVED_STEP}:
        raise ValueError(f"{folder} must not hold another model, and it does; choose a new folder")
    files.write_json(folder / "config.json", settings)
    state = {"ema": get_params(model.unet)}
    checkpoints.save(folder / "checkpoints", SAVED_STEP, state)


def _complete_settings(model: Model) -> dict[str, Any]:
    """The model's settings, with what `load` needs where they lack it or say otherwise."""
    config = network_config(model.unet)
    # What the settings say already stays as it is, so that a converted folder keeps its bytes.
    settings = dict(model.config)
    if "unet" not in settings or config_from_json(settings["unet"]) != config:
        settings["unet"] = config_to_json(config)
    # A notebook may have replaced the network, the schedule or the prediction of a loaded model.
    if not _has_diffusion(model):
        settings.pop("scheduler", None)
        settings["diffusion"] = _diffusion_settings(model)
    data = settings.get("data", {})
    if model.image_shape or not data.get("size"):
        settings["data"] = data | {"size": _image_size(model)}
    # Commands read the sampler's settings from the folder.
    if "sample" not in settings:
        steps = min(DEFAULT_SAMPLER["steps"], model.schedule.steps)
        settings["sample"] = DEFAULT_SAMPLER | {"steps": steps}
    return settings


def _has_diffusion(model: Model) -> bool:
    """Whether the model's settings say its schedule and its prediction."""
    if not {"diffusion", "scheduler"} & model.config.keys():
        return False
    schedule, prediction = _read_diffusion(model.config)
    same_levels = np.array_equal(schedule.alpha_bar, model.schedule.alpha_bar)
    return same_levels and prediction == model.prediction


def _diffusion_settings(model: Model) -> dict[str, Any]:
    """A `diffusion` section, as a cell has it."""
    schedule = model.schedule
    settings = {"steps": schedule.steps, "prediction": model.prediction}
    if _is_named(schedule):
        return settings | {"schedule": schedule.name}
    # A double holds a float32 exactly, and so does its decimal form in JSON.
    return settings | {"alpha_bar": np.asarray(schedule.alpha_bar, np.float64).tolist()}


def _is_named(schedule: Schedule) -> bool:
    """Whether the schedule's name and its number of steps make it again."""
    if schedule.name not in SCHEDULES:
        return False
    named = build_schedule({"schedule": schedule.name, "steps": schedule.steps})
    return np.array_equal(named.alpha_bar, schedule.alpha_bar)


def _image_size(model: Model) -> int | list[int] | None:
    """Pixels on a side, or [height, width]; None where the model does not say."""
    try:
        height, width, _ = model.shape
    except ValueError:
        return None
    return height if height == width else [height, width]


def _save_pipeline(model: Model, folder: epath.Path) -> None:
    """A diffusers pipeline folder with the model's schedule and sampler."""
    for name in ("checkpoints", "config.json", "unet_ema"):
        if (folder / name).exists():
            raise ValueError(
                f"{folder} must not hold another model, and has {name}; choose a new folder"
            )
    settings = _complete_settings(model)
    height, width, _ = model.shape
    config = dataclasses.replace(
        network_config(model.unet), sample_size=height if height == width else (height, width)
    )
    scheduler = settings.get("scheduler")
    if scheduler is None:
        scheduler = diffusers_scheduler.from_settings(settings["diffusion"], settings["sample"])
    unet = bind_params(abstract_network(config), get_params(model.unet))
    diffusers_io.save_pipeline(unet, scheduler, folder)


def build_schedule(settings: Mapping[str, Any]) -> Schedule:
    """The noise schedule of a `diffusion` section.

    Parameters
    ----------
    settings
        ``schedule``, a name of `diffusion.SCHEDULES`, and ``steps``; or ``alpha_bar``.
    """
    if "alpha_bar" in settings:
        return Schedule(np.asarray(settings["alpha_bar"], np.float32))
    return getattr(Schedule, settings["schedule"])(settings["steps"])


def weights_digest(path: epath.PathLike) -> dict[str, str]:
    """Checksums of the weights files that `load` reads, or of a cell's checkpoint manifests."""
    folder = hub.find_folder(path)
    if diffusers_io.is_diffusers_folder(folder):
        unet_folder = diffusers_io.find_unet_folder(folder)
        hub.fetch_weights(path, unet_folder, diffusers_io.WEIGHTS)
        paths = torch_weights.find_weights_files(unet_folder, diffusers_io.WEIGHTS)
    else:
        # The manifests alone, since the arrays lie in the steps' own folders below.
        paths = [file for file in files.walk(folder) if file.parent.name == "checkpoints"]
    return files.checksums(folder, [file.relative_to(folder).as_posix() for file in paths])
