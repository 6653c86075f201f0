"""A trained model by one call: the folder of a study's cell."""

import dataclasses
from typing import Any

from etils import epath

from jaxdiff import checkpoints, files
from jaxdiff.diffusion import Prediction, Schedule
from jaxdiff.unet import UNet, UNetConfig, abstract, bind


@dataclasses.dataclass(frozen=True)
class Model:
    """unet: with EMA weights; schedule; prediction: what its output stands for; config: the cell's settings."""

    unet: UNet
    schedule: Schedule
    prediction: Prediction
    config: dict[str, Any]


def load(path: epath.PathLike) -> Model:
    """The newest whole checkpoint of a cell. Raises ValueError where the folder is no trained cell."""
    folder = epath.Path(path)
    if not (folder / "config.json").exists():
        raise ValueError(f"{path} is no trained cell: it has no config.json; give a folder like runs/STUDY/cells/NAME")
    config = files.read_json(folder / "config.json")
    step = checkpoints.newest(folder / "checkpoints")
    if step is None or "unet" not in config:
        raise ValueError(f"{path} has no whole checkpoint yet; run its study to the end first")
    unet = abstract(unet_config(config["unet"]))
    ema = checkpoints.restore_part(folder / "checkpoints", step, "ema")
    return Model(bind(unet, ema), schedule(config["diffusion"]), config["diffusion"]["prediction"], config)


def unet_config(fields: dict[str, Any]) -> UNetConfig:
    """A UNetConfig from its JSON form."""
    plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    return UNetConfig(**plain)


def schedule(settings: dict[str, Any]) -> Schedule:
    """The schedule that the settings name."""
    return getattr(Schedule, settings["schedule"])(settings["steps"])
