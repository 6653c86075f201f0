"""diffusers' UNet2DModel and pipeline folders, in and out: config.json and the weights, with the same numbers.

A folder is the U-Net's own (config.json beside the weights) or a pipeline's (unet/, scheduler/, model_index.json; the
first hub checkpoints have all three in one place).
"""

import dataclasses
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from jaxdiff import files, torch_weights
from jaxdiff.denoiser import abstract_network, bind_params, get_params
from jaxdiff.unet import UNet
from jaxdiff.unet_config import UNetConfig

WEIGHTS = "diffusion_pytorch_model"  # the file's name, without its ending
FIELDS: dict[str, Any] = {  # UNet2DModel's, with its defaults, which an absent field has
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0, "act_fn": "silu",
    "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": True, "class_embed_type": None, "num_class_embeds": None,
    "num_train_timesteps": None,
}  # fmt: skip
SAME = tuple(field.name for field in dataclasses.fields(UNetConfig) if field.name in FIELDS)
FLOATS = ("mid_block_scale_factor", "freq_shift", "dropout", "norm_eps")
# block type: (has attention, resamples by a ResNet block; None: as downsample_type or upsample_type says)
DOWN = {
    "DownBlock2D": (False, False),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, True),
}
UP = {
    "UpBlock2D": (False, False),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, True),
}


def load_unet(folder: epath.PathLike) -> UNet:
    """The U-Net of a diffusers folder, its weights as float32.

    Raises ValueError where it is no UNet2DModel, where its config asks for what is not known here, and where a tensor
    is missing, too many, or of another shape.
    """
    folder = unet_folder(folder)
    config = read_config(files.read_json(folder / "config.json"), folder / "config.json")
    try:
        unet = abstract_network(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    return bind_params(
        unet, torch_weights.to_ours(torch_weights.read(folder, WEIGHTS), unet, folder)
    )


def save_unet(unet: UNet, folder: epath.PathLike) -> None:
    """config.json and diffusion_pytorch_model.safetensors, each written whole or not at all."""
    folder = epath.Path(folder)
    tensors = {
        name: torch_weights.swap(name, np.asarray(value), out=True)
        for name, value in get_params(unet).items()
    }
    data = safetensors.numpy.save(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, {"format": "pt"}
    )
    files.write(folder / f"{WEIGHTS}.safetensors", data)
    files.write_json(folder / "config.json", write_config(unet.config))


def save_pipeline(unet: UNet, scheduler: dict[str, Any], folder: epath.PathLike) -> None:
    """unet/, scheduler/scheduler_config.json and model_index.json, as DDPMPipeline or DDIMPipeline opens them."""
    folder, name = epath.Path(folder), scheduler["_class_name"]
    save_unet(unet, folder / "unet")
    files.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    parts = {"scheduler": ["diffusers", name], "unet": ["diffusers", "UNet2DModel"]}
    index = {
        "_class_name": name.replace("Scheduler", "Pipeline"),
        "_diffusers_version": "0.42.1",
        **parts,
    }
    files.write_json(folder / "model_index.json", index)


def unet_folder(folder: epath.PathLike) -> epath.Path:
    """Where the U-Net's config.json is. Raises ValueError where there is none, or another kind of model's."""
    folder = epath.Path(folder)
    for place in (folder / "unet", folder):
        if (place / "config.json").exists():
            found = files.read_json(place / "config.json").get("_class_name")
            if found != "UNet2DModel":
                raise ValueError(
                    f"{place} holds {found or 'no diffusers model'}; a UNet2DModel is expected"
                )
            return place
    raise ValueError(
        f"{folder} is no diffusers folder: it has neither config.json nor unet/config.json"
    )


def is_folder(folder: epath.PathLike) -> bool:
    """Whether it looks like a diffusers folder, of whatever model."""
    folder = epath.Path(folder)
    own = folder / "config.json"
    return (folder / "model_index.json").exists() or (
        own.exists() and "_class_name" in files.read_json(own)
    )


def read_config(raw: dict[str, Any], path: epath.PathLike) -> UNetConfig:
    """A UNetConfig from config.json's fields. Raises ValueError, naming the field, for what is not known here."""
    unknown = [key for key in raw if key not in FIELDS and not key.startswith("_")]
    if unknown:
        raise ValueError(
            f"{path} sets {unknown[0]!r}, which is no field of UNet2DModel that is known here"
        )
    field = FIELDS | raw
    for key, allowed in (("mid_block_type", ("UNetMidBlock2D", None)), ("downsample_type", ("conv", "resnet", None)),
                         ("upsample_type", ("conv", "resnet", None))):  # fmt: skip
        if field[key] not in allowed:
            raise ValueError(
                f"{path} sets {key} to {field[key]!r}; {', '.join(map(str, allowed))} are known here"
            )
    if not isinstance(field["norm_num_groups"], int):
        raise ValueError(
            f"{path} sets norm_num_groups to {field['norm_num_groups']!r}; a whole number is expected"
        )
    check_lengths(field, path)
    attention, down_resnet = _levels(field, "down_block_types", DOWN, path)
    up_attention, up_resnet = _levels(field, "up_block_types", UP, path)
    try:
        same: dict[str, Any] = {
            key: tuple(field[key]) if isinstance(field[key], list) else field[key] for key in SAME
        }
        same |= {key: float(field[key]) for key in FLOATS}
        same["act_fn"] = {"swish": "silu"}.get(same["act_fn"].lower(), same["act_fn"].lower())
        return UNetConfig(
            attention=attention, down_resnet=down_resnet, up_resnet=up_resnet, mid_block=bool(field["mid_block_type"]),
            up_attention=None if up_attention == attention else up_attention, **same,
        )  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def check_lengths(field: dict[str, Any], path: epath.PathLike) -> None:
    """Raises ValueError unless config.json has as many block types, of both kinds, as numbers of channels."""
    if (
        len(
            {
                len(field[key])
                for key in ("block_out_channels", "down_block_types", "up_block_types")
            }
        )
        != 1
    ):
        raise ValueError(
            f"{path} has block_out_channels, down_block_types and up_block_types of different lengths"
        )


def write_config(config: UNetConfig) -> dict[str, Any]:
    """config.json's fields, all of them.

    Raises ValueError where levels with attention are resampled in both ways, which UNet2DModel cannot say.
    """
    fields: dict[str, Any] = {key: getattr(config, key) for key in SAME}
    levels = range(1, config.depth + 1)
    up_attention = config.attention if config.up_attention is None else config.up_attention
    down, fields["downsample_type"] = _types(
        levels, config.attention, config.down_resnet, DOWN, config.depth
    )
    up, fields["upsample_type"] = _types(levels, up_attention, config.up_resnet, UP, 1)
    return fields | {
        "_class_name": "UNet2DModel", "_diffusers_version": "0.42.1", "down_block_types": down,
        "up_block_types": up[::-1], "mid_block_type": "UNetMidBlock2D" if config.mid_block else None,
    }  # fmt: skip


def _levels(
    field: dict[str, Any], key: str, known: dict, path: epath.PathLike
) -> tuple[tuple, tuple]:
    """The levels with attention, and those that a ResNet block resamples, from a list of block types."""
    types = [name.removeprefix("UNetRes") for name in field[key]]
    for name in types:
        if name not in known:
            raise ValueError(
                f"{path} has the block type {name!r} in {key}; {', '.join(known)} are known here"
            )
    by_resnet = field["downsample_type" if known is DOWN else "upsample_type"] == "resnet"
    kinds = list(enumerate(types if known is DOWN else types[::-1], 1))
    outermost = len(types) if known is DOWN else 1  # which is not resampled
    attention = tuple(a for a, name in kinds if known[name][0])
    resnet = tuple(
        a
        for a, name in kinds
        if known[name][1] or (known[name][0] and by_resnet and a != outermost)
    )
    return attention, resnet


def _types(
    levels: range, attention: tuple, resnet: tuple, known: dict, outermost: int
) -> tuple[list[str], str]:
    """The block types from level 1 on, and how those with attention are resampled."""
    plain, attended, by_resnet = known
    kinds = {a in resnet for a in attention if a != outermost}
    if len(kinds) == 2:
        raise ValueError(
            f"attention levels {attention} are resampled in two ways; a diffusers config.json has one"
        )
    types = [attended if a in attention else by_resnet if a in resnet else plain for a in levels]
    return types, "resnet" if True in kinds else "conv"
