"""config.json of diffusers' UNet2DModel as a UNetConfig, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from jaxdiff.field_rules import (
    FLAG,
    NULL,
    TEXT,
    Rule,
    check_fields,
    list_of,
    number,
    one_of,
    whole,
)
from jaxdiff.unet_config import UNetConfig

DIFFUSERS_VERSION = "0.42.1"  # that writes the same files
# UNet2DModel's fields with its defaults, which an absent field has.
FIELDS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# What diffusers' EMAModel writes beside the fields of its U-Net; its weights are the averaged ones.
EMA_FIELDS = (
    "decay",
    "min_decay",
    "optimization_step",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
)
SUPPORTED_VALUES = {
    "mid_block_type": ("UNetMidBlock2D", None),
    # diffusers reads null as conv.
    "downsample_type": ("conv", "resnet", None),
    "upsample_type": ("conv", "resnet", None),
}
# Larger networks than these are mistakes, and building one would take all memory or time.
CHANNELS = whole(1, 65_536)
LAYERS = whole(1, 32)
BLOCK_TYPES = list_of(TEXT, 1, 16)
# Of the fields that all of diffusers' U-Nets and autoencoders have.
COMMON_RULES: Mapping[str, Rule] = {
    "sample_size": NULL | CHANNELS | list_of(CHANNELS, 2, 2),
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "center_input_sample": FLAG,
    "time_embedding_dim": NULL | CHANNELS,
    "freq_shift": number(0, 1),
    "flip_sin_to_cos": FLAG,
    "down_block_types": BLOCK_TYPES,
    "up_block_types": BLOCK_TYPES,
    "block_out_channels": list_of(CHANNELS, 1, 16),
    "layers_per_block": LAYERS,
    "mid_block_scale_factor": number(1e-6, 1e6),
    "downsample_padding": whole(0, 1),
    "norm_num_groups": CHANNELS,
    "norm_eps": number(0, 1),
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
}
RULES: Mapping[str, Rule] = {
    **COMMON_RULES,
    "time_embedding_type": one_of("positional", "fourier", "learned"),
    "dropout": number(0, 0.999),
    "act_fn": TEXT,
    "attention_head_dim": NULL | CHANNELS,
    "attn_norm_num_groups": NULL | CHANNELS,
    "add_attention": FLAG,
    "class_embed_type": NULL | one_of("timestep", "identity"),
    "num_class_embeds": NULL | whole(1, 1_000_000),
    "num_train_timesteps": NULL | whole(1, 1_000_000),
}
# Fields that UNetConfig has under the same name, and those of them that are floats here.
SHARED_FIELDS = [field.name for field in dataclasses.fields(UNetConfig) if field.name in FIELDS]
FLOAT_FIELDS = ("mid_block_scale_factor", "freq_shift", "dropout", "norm_eps")


class BlockType(NamedTuple):
    """What a block type of config.json says of its level.

    Attributes
    ----------
    attention
        Whether it has attention.
    resnet
        Whether a ResNet block resamples; None where downsample_type or upsample_type says so.
    """

    attention: bool
    resnet: bool | None


# The order is that of `_block_types`: plain, with attention, resampled by a ResNet block.
DOWN_BLOCKS = {
    "DownBlock2D": BlockType(attention=False, resnet=False),
    "AttnDownBlock2D": BlockType(attention=True, resnet=None),
    "ResnetDownsampleBlock2D": BlockType(attention=False, resnet=True),
}
UP_BLOCKS = {
    "UpBlock2D": BlockType(attention=False, resnet=False),
    "AttnUpBlock2D": BlockType(attention=True, resnet=None),
    "ResnetUpsampleBlock2D": BlockType(attention=False, resnet=True),
}


def read_config(raw: Mapping[str, Any], path: epath.PathLike) -> UNetConfig:
    """A UNetConfig from the fields of config.json.

    Parameters
    ----------
    raw
        The fields.
    path
        The file, for error messages.

    Raises
    ------
    ValueError
        Where a field or its value is not supported; it is named.
    """
    # Fields that begin with an underscore say who wrote the file.
    for key in raw:
        if key not in (*FIELDS, *EMA_FIELDS) and not key.startswith("_"):
            raise ValueError(f"{path} sets {key!r}, which is no supported field of UNet2DModel")
    # diffusers leaves out of the file what an older version did not have yet.
    fields = FIELDS | {key: value for key, value in raw.items() if key in FIELDS}
    check_fields(fields, RULES, path)
    _check_values(fields, path)
    check_lengths(fields, path)
    down = _read_levels(fields, "down_block_types", path)
    up = _read_levels(fields, "up_block_types", path)
    try:
        return UNetConfig(
            attention=down.attention,
            down_resnet=down.resnet,
            up_resnet=up.resnet,
            mid_block=bool(fields["mid_block_type"]),
            # As Table A has it, so that equal U-Nets have equal configs.
            up_attention=None if up.attention == down.attention else up.attention,
            **_shared_fields(fields),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check_values(fields: Mapping[str, Any], path: epath.PathLike) -> None:
    for key, supported in SUPPORTED_VALUES.items():
        if fields[key] not in supported:
            names = ", ".join(map(str, supported))
            raise ValueError(f"{path} sets {key} to {fields[key]!r}; choose one of {names}")


def _shared_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that UNetConfig has under the same name."""
    shared: dict[str, Any] = {}
    for key in SHARED_FIELDS:
        value = fields[key]
        shared[key] = tuple(value) if isinstance(value, list) else value
    for key in FLOAT_FIELDS:
        shared[key] = float(shared[key])
    # diffusers has two names for it.
    act_fn = shared["act_fn"].lower()
    shared["act_fn"] = "silu" if act_fn == "swish" else act_fn
    return shared


def check_unconditional(config: UNetConfig, path: epath.Path) -> None:
    """Check that a U-Net takes an image and a timestep, and returns one such image.

    Raises
    ------
    ValueError
        Where it takes or returns something else, or its sample_size cannot be halved so often.
    """
    if config.time_embedding_type == "fourier":
        raise ValueError(
            f"{path.parent} takes continuous noise levels (time_embedding_type fourier); DDPM's "
            "steps are integers"
        )
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"{path.parent} takes {config.in_channels} channels and returns {config.out_channels}, "
            "as a model does that is given another image too or predicts its variance; choose an "
            "unconditional model with as many as it returns"
        )
    size = config.sample_size
    for side in size if isinstance(size, tuple) else (size,):
        try:
            # Without a sample_size nothing is refused: this side can always be halved often enough.
            config.check_image_size(side or 2 ** (config.depth - 1))
        except ValueError as error:
            raise ValueError(f"{path} sets sample_size to {size}: {error}") from None


def check_lengths(fields: Mapping[str, Any], path: epath.PathLike) -> None:
    """Check that config.json has a block type of each kind for every number of channels.

    Raises
    ------
    ValueError
        Where it has not.
    """
    keys = ("block_out_channels", "down_block_types", "up_block_types")
    lengths = {len(fields[key]) for key in keys}
    if len(lengths) != 1:
        raise ValueError(
            f"{path} has block_out_channels, down_block_types and up_block_types of different "
            "lengths"
        )


def write_config(config: UNetConfig) -> dict[str, Any]:
    """All fields of config.json.

    Raises
    ------
    ValueError
        Where some levels with attention are resampled by a convolution and others by a ResNet
        block, which UNet2DModel cannot say.
    """
    up_attention = config.attention if config.up_attention is None else config.up_attention
    down = Levels(config.attention, config.down_resnet)
    up = Levels(up_attention, config.up_resnet)
    down_types, downsample_type = _block_types(down, DOWN_BLOCKS, config.depth, config.depth)
    up_types, upsample_type = _block_types(up, UP_BLOCKS, config.depth, 1)
    return {
        **{key: getattr(config, key) for key in SHARED_FIELDS},
        "_class_name": "UNet2DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "down_block_types": down_types,
        "downsample_type": downsample_type,
        "mid_block_type": "UNetMidBlock2D" if config.mid_block else None,
        "up_block_types": up_types[::-1],  # from the innermost level outward
        "upsample_type": upsample_type,
    }


class Levels(NamedTuple):
    """The levels (1..n) with attention, and those that a ResNet block resamples."""

    attention: tuple[int, ...]
    resnet: tuple[int, ...]


def _read_levels(fields: Mapping[str, Any], key: str, path: epath.PathLike) -> Levels:
    """What a list of block types says of the levels."""
    is_down = key == "down_block_types"
    block_types = DOWN_BLOCKS if is_down else UP_BLOCKS
    # The first hub checkpoints have another prefix.
    names = [name.removeprefix("UNetRes") for name in fields[key]]
    for name in names:
        if name not in block_types:
            raise ValueError(
                f"{path} has the block type {name!r} in {key}; choose one of "
                f"{', '.join(block_types)}"
            )
    resample_type = fields["downsample_type" if is_down else "upsample_type"]
    # The last down block and the last up block, which is that of level 1, do not resample.
    last_level = len(names) if is_down else 1
    attention = []
    resnet = []
    # Up blocks are listed from the innermost level outward.
    for level, name in enumerate(names if is_down else names[::-1], 1):
        block = block_types[name]
        if block.attention:
            attention.append(level)
        by_resnet = block.attention and resample_type == "resnet" and level != last_level
        if block.resnet or by_resnet:
            resnet.append(level)
    return Levels(tuple(attention), tuple(resnet))


def _block_types(
    levels: Levels, block_types: Mapping[str, BlockType], depth: int, last_level: int
) -> tuple[list[str], str]:
    """The block types of levels 1 to n, and how those with attention are resampled.

    Parameters
    ----------
    levels
        The levels with attention, and those that a ResNet block resamples.
    block_types
        DOWN_BLOCKS or UP_BLOCKS.
    depth
        The number of levels n.
    last_level
        The level that is not resampled.
    """
    plain, attention, resnet = block_types
    # One field says for all of them how they are resampled.
    by_resnet = {a in levels.resnet for a in levels.attention if a != last_level}
    if len(by_resnet) == 2:
        raise ValueError(
            f"attention levels {levels.attention} are resampled in two ways; a diffusers "
            "config.json has one"
        )
    names = []
    for level in range(1, depth + 1):
        if level in levels.attention:
            names.append(attention)
        else:
            names.append(resnet if level in levels.resnet else plain)
    return names, "resnet" if True in by_resnet else "conv"
