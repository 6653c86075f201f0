"""diffusers' UNet2DModel and pipeline folders, in and out, with the same numbers.

A folder is the U-Net's own (config.json beside the weights) or a pipeline's (unet/, scheduler/,
model_index.json; the first hub checkpoints have all three in one place).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from jaxdiff import files, torch_weights
from jaxdiff.denoiser import abstract_network, bind_params, get_params
from jaxdiff.diffusers_config import DIFFUSERS_VERSION, read_config, write_config
from jaxdiff.unet import UNet

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model"  # name of the weights file without its ending
WEIGHTS_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def load_unet(folder: epath.PathLike) -> UNet:
    """The U-Net of a diffusers folder, with float32 weights.

    Raises
    ------
    ValueError
        Where it is no UNet2DModel, its config asks for something that is not supported, or a
        tensor is missing, unexpected or of another shape.
    """
    folder = find_unet_folder(folder)
    path = folder / "config.json"
    config = read_config(files.read_json(path), path)
    try:
        unet = abstract_network(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors = torch_weights.read_tensors(folder, WEIGHTS)
    return bind_params(unet, torch_weights.from_torch(tensors, unet, folder))


def save_unet(unet: UNet, folder: epath.PathLike) -> None:
    """Write config.json and diffusion_pytorch_model.safetensors, each atomically."""
    folder = epath.Path(folder)
    tensors = {}
    for name, value in get_params(unet).items():
        tensor = torch_weights.convert_layout(name, np.asarray(value), to_torch=True)
        # safetensors writes the memory as it lies.
        tensors[name] = np.ascontiguousarray(tensor)
    data = safetensors.numpy.save(tensors, {"format": "pt"})
    # config.json comes last: it is what makes the folder one.
    files.write(folder / f"{WEIGHTS}.safetensors", data)
    files.write_json(folder / "config.json", write_config(unet.config))


def save_pipeline(unet: UNet, scheduler: Mapping[str, Any], folder: epath.PathLike) -> None:
    """Write a pipeline folder, as DDPMPipeline or DDIMPipeline opens it.

    Parameters
    ----------
    unet
        The U-Net.
    scheduler
        The content of scheduler_config.json.
    folder
        Gets unet/, scheduler/scheduler_config.json and model_index.json.
    """
    folder = epath.Path(folder)
    class_name = scheduler["_class_name"]
    save_unet(unet, folder / "unet")
    files.write_json(folder / "scheduler" / "scheduler_config.json", dict(scheduler))
    index = {
        "_class_name": class_name.replace("Scheduler", "Pipeline"),
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", class_name],
        "unet": ["diffusers", "UNet2DModel"],
    }
    files.write_json(folder / INDEX, index)


def check_parts(unet_folder: epath.Path) -> None:
    """Check that the images of a U-Net's pipeline are those that it draws.

    Raises
    ------
    ValueError
        Where model_index.json, beside the U-Net or in the folder above, names a further part, such
        as the decoder of latents.
    """
    for folder in (unet_folder, unet_folder.parent):
        path = folder / INDEX
        index = files.read_json(path) if path.exists() else {}
        # A part is [library, class], with nulls where it is left out.
        parts = [name for name, value in index.items() if isinstance(value, list) and any(value)]
        others = sorted(set(parts) - {"unet", "scheduler"})
        if others:
            raise ValueError(
                f"{folder} is a pipeline with further parts ({', '.join(others)}), which its "
                "images pass through; choose one of a U-Net and a scheduler alone, as DDPMPipeline"
            )


def find_unet_folder(folder: epath.PathLike) -> epath.Path:
    """The folder of the U-Net's config.json.

    For a checkpoint of diffusers' training scripts, which is no pipeline, it is that of the
    averaged weights, unet_ema, which are those of the pipeline that the training ends with.

    Raises
    ------
    ValueError
        Where there is none, or another kind of model's.
    """
    folder = epath.Path(folder)
    names = ["unet", ""] if (folder / INDEX).exists() else ["unet_ema", "unet", ""]
    for candidate in (folder / name for name in names):
        path = candidate / "config.json"
        if not path.exists():
            continue
        class_name = files.read_json(path).get("_class_name")
        if class_name != "UNet2DModel":
            raise ValueError(
                f"{candidate} holds {class_name or 'no diffusers model'}; a UNet2DModel is expected"
            )
        return candidate
    raise ValueError(
        f"{folder} is no diffusers folder: it has neither config.json nor unet/config.json"
    )


def check_form(path: epath.Path) -> None:
    """Refuse what is no model's folder but weights alone, by what they are.

    Raises
    ------
    ValueError
        For a file, a folder of LoRA weights, and a checkpoint in one file.
    """
    if path.suffix in WEIGHTS_SUFFIXES and not path.is_dir():
        if not path.exists():
            raise ValueError(f"there is no {path}; give a cell's folder, or a diffusers folder")
        if (path.parent / "config.json").exists():
            raise ValueError(f"{path} is one file of a model; give its folder {path.parent}")
        raise ValueError(f"{path} {torch_weights.SINGLE_FILE}")
    if not path.is_dir() or (path / "config.json").exists():
        return
    torch_weights.check_no_lora_files(path)
    names = sorted(file.name for file in path.iterdir())
    single_files = [name for name in names if name.endswith((".safetensors", ".ckpt"))]
    is_pipeline = (path / INDEX).exists() or (path / "unet").exists()
    if single_files and not is_pipeline:
        raise ValueError(f"{path / single_files[0]} {torch_weights.SINGLE_FILE}")


def is_diffusers_folder(folder: epath.PathLike) -> bool:
    """Whether a folder looks like one of diffusers, of any model."""
    folder = epath.Path(folder)
    # A training run's checkpoint-N has no index.
    names = (INDEX, "unet/config.json", "unet_ema/config.json")
    if any((folder / name).exists() for name in names):
        return True
    path = folder / "config.json"
    return path.exists() and "_class_name" in files.read_json(path)
