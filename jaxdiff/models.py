"""A trained model by one call: the folder of a study's cell, or a diffusers folder from anywhere."""

import dataclasses
from typing import Any

from etils import epath

from jaxdiff import checkpoints, diffusers_io, diffusers_scheduler, files
from jaxdiff.denoiser import abstract_network, bind_params, get_params
from jaxdiff.diffusion import Prediction, Schedule
from jaxdiff.unet import UNet, UNetConfig
from jaxdiff.unet_bypass import BypassedUNet

CHUNK = 16  # samples of a diffusers model computed at once


@dataclasses.dataclass(frozen=True)
class Model:
    """unet: with EMA weights where it is a cell, its mid-block perhaps bypassed; schedule; prediction: what its output stands for.

    config: the cell's settings; of a diffusers folder, the same sections as far as it has them (unet, scheduler, sample,
    data).
    """

    unet: UNet | BypassedUNet
    schedule: Schedule
    prediction: Prediction
    config: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images. Raises ValueError where the folder does not say."""
        size = self.config["data"]["size"]
        if not size:
            raise ValueError(
                "this U-Net's config.json has no sample_size; write its image size in pixels there"
            )
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, self.unet.config.in_channels


def load(path: epath.PathLike, step: int | None = None) -> Model:
    """The newest whole checkpoint of a cell, or that of a step; or the weights of a diffusers folder.

    Raises ValueError where the folder is neither, or is not whole.
    """
    folder, (config, schedule, prediction, settings) = epath.Path(path), describe(path)
    if diffusers_io.is_folder(folder):
        return Model(diffusers_io.load_unet(folder), schedule, prediction, settings)
    step = checkpoints.newest(folder / "checkpoints") if step is None else step
    if step is None:
        raise ValueError(f"{path} has no whole checkpoint yet; run its study to the end first")
    ema = checkpoints.restore_part(folder / "checkpoints", step, "ema")
    return Model(bind_params(abstract_network(config), ema), schedule, prediction, settings)


def describe(path: epath.PathLike) -> tuple[UNetConfig, Schedule, Prediction, dict[str, Any]]:
    """All of a model but its weights: U-Net, schedule, prediction, and settings as Model.config has them."""
    folder = epath.Path(path)
    if diffusers_io.is_folder(folder):
        return _describe_diffusers(folder)
    if not (folder / "config.json").exists():
        raise ValueError(
            f"{path} is no model: it has no config.json; give a cell's folder, as runs/STUDY/cells/NAME, or a diffusers folder"
        )
    settings = files.read_json(folder / "config.json")
    if "unet" not in settings or not {"diffusion", "scheduler"} & settings.keys():
        raise ValueError(
            f"{path} is no model: its config.json is neither a cell's nor a UNet2DModel's"
        )
    config = unet_config(settings["unet"])
    if "scheduler" in settings:
        known = settings["scheduler"]
        return (
            config,
            diffusers_scheduler.schedule(known),
            diffusers_scheduler.prediction(known),
            settings,
        )
    return config, schedule(settings["diffusion"]), settings["diffusion"]["prediction"], settings


def _describe_diffusers(
    folder: epath.Path,
) -> tuple[UNetConfig, Schedule, Prediction, dict[str, Any]]:
    place = diffusers_io.unet_folder(folder)
    config = diffusers_io.read_config(files.read_json(place / "config.json"), place / "config.json")
    if config.time_embedding_type == "fourier":
        raise ValueError(
            f"{place} takes continuous noise levels (time_embedding_type fourier); DDPM's steps are integers"
        )
    scheduler = diffusers_scheduler.read(
        folder.parent if place == folder and folder.name == "unet" else folder
    )
    size = list(config.sample_size) if isinstance(config.sample_size, tuple) else config.sample_size
    settings = {
        "unet": dataclasses.asdict(config), "scheduler": scheduler, "data": {"size": size},
        "sample": diffusers_scheduler.sampling(scheduler) | {"batch": CHUNK},
    }  # fmt: skip
    return (
        config,
        diffusers_scheduler.schedule(scheduler),
        diffusers_scheduler.prediction(scheduler),
        settings,
    )


def save_cell(model: Model, folder: epath.PathLike) -> None:
    """A folder that `load` reads as it reads a cell's: config.json and the weights as the checkpoint of step 0."""
    folder = epath.Path(folder)
    files.write_json(folder / "config.json", model.config)
    checkpoints.save(folder / "checkpoints", 0, {"ema": get_params(model.unet)})


def save_pipeline(model: Model, folder: epath.PathLike) -> None:
    """A diffusers pipeline folder: its scheduler's settings are the cell's."""
    config = dataclasses.replace(
        model.unet.config,
        sample_size=model.shape[0] if model.shape[0] == model.shape[1] else model.shape[:2],
    )
    scheduler = model.config.get("scheduler") or diffusers_scheduler.write(
        model.config["diffusion"], model.config["sample"]
    )
    diffusers_io.save_pipeline(
        bind_params(abstract_network(config), get_params(model.unet)), scheduler, folder
    )


def unet_config(fields: dict[str, Any]) -> UNetConfig:
    """A UNetConfig from its JSON form."""
    plain: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()
    }
    return UNetConfig(**plain)


def schedule(settings: dict[str, Any]) -> Schedule:
    """The schedule that the settings name."""
    return getattr(Schedule, settings["schedule"])(settings["steps"])
