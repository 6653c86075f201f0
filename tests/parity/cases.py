"""Configurations of UNet2DModel: Table A, three of the hub's, and others for every field."""

import numpy as np

from jaxdiff.diffusers_config import write_config
from jaxdiff.unet_config import TABLE_A

DOWN_BLOCKS = {"D": "DownBlock2D", "A": "AttnDownBlock2D", "R": "ResnetDownsampleBlock2D"}
UP_BLOCKS = {"U": "UpBlock2D", "A": "AttnUpBlock2D", "R": "ResnetUpsampleBlock2D"}


def block_types(letters: str) -> dict:
    """The two lists of block types of letters such as "DAR/RAU".

    D, A, R: Down, Attn and Resnet down blocks from the outermost level inward; then U, A, R: Up,
    Attn and Resnet up blocks from the innermost level outward.
    """
    down, up = letters.split("/")
    return {
        "down_block_types": [DOWN_BLOCKS[letter] for letter in down],
        "up_block_types": [UP_BLOCKS[letter] for letter in up],
    }


# As the first hub checkpoints have them, with narrower channels and smaller images.
HUB = {
    "act_fn": "silu",
    "attention_head_dim": None,
    "center_input_sample": False,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 8,
    "out_channels": 3,
    "time_embedding_type": "positional",
}
CIFAR10 = {
    **HUB,
    **block_types("DADD/UUAU"),
    "block_out_channels": [16, 32, 32, 32],
    "sample_size": 32,
    "dropout": 0.1,
}
CELEBA_HQ = {
    **HUB,
    **block_types("DDDDAD/UAUUUU"),
    "block_out_channels": [16, 16, 32, 32, 64, 64],
    "sample_size": 32,
}


def small(letters: str, **fields) -> dict:
    """A small U-Net with these block types and fields."""
    return {
        "block_out_channels": [16, 24],
        "norm_num_groups": 4,
        "sample_size": 16,
        "attention_head_dim": 4,
        **block_types(letters),
        **fields,
    }


CASES = {
    f"Table A, {name}": {**write_config(config), "sample_size": 32}
    for name, config in TABLE_A.items()
} | {
    "google/ddpm-cifar10-32, narrow": CIFAR10,
    "google/ddpm-celebahq-256, narrow": CELEBA_HQ,
    "google/ddpm-ema-church-256, narrow": CELEBA_HQ | {"sample_size": 64},
    "scale_shift, mish, scaled mid-block": small(
        "DA/AU",
        resnet_time_scale_shift="scale_shift",
        act_fn="mish",
        mid_block_scale_factor=1.4142135,
        out_channels=6,
    ),
    "scale_shift, mid-block attention normed, gelu": small(
        "DA/UA", resnet_time_scale_shift="scale_shift", attn_norm_num_groups=6, act_fn="gelu"
    ),
    "attention resampled by ResNet blocks, other up blocks": small(
        "ADA/UAA",
        block_out_channels=[16, 24, 24],
        downsample_type="resnet",
        upsample_type="resnet",
        layers_per_block=1,
        in_channels=1,
    ),
    "ResNet resampling blocks, one head, relu": small(
        "RDR/UUR", block_out_channels=[16, 24, 32], act_fn="relu", attention_head_dim=None
    ),
    "no mid-block attention, centered input, swish": small(
        "DD/UU", add_attention=False, center_input_sample=True, act_fn="swish", layers_per_block=3
    ),
    "no mid-block, odd time features": small(
        "DA/AU",
        mid_block_type=None,
        block_out_channels=[15, 24],
        norm_num_groups=3,
        attention_head_dim=3,
        time_embedding_dim=40,
        freq_shift=0.5,
    ),
    "Fourier time": small("DA/AU", time_embedding_type="fourier"),
    "learned time, classes": small(
        "DA/AU", time_embedding_type="learned", num_train_timesteps=1000, num_class_embeds=10
    ),
    "classes as numbers": small("DA/AU", class_embed_type="timestep", norm_eps=1e-3),
    "classes as embeddings": small("DA/AU", class_embed_type="identity", dropout=0.3),
    "one level": small("A/A", block_out_channels=[16], sample_size=8),
}


def labels(config: dict, batch: int) -> np.ndarray | None:
    """Class labels of a batch, None where the U-Net has none."""
    class_embed_type = config.get("class_embed_type")
    if class_embed_type == "identity":
        shape = (batch, 4 * config["block_out_channels"][0])
        return np.random.default_rng(1).normal(size=shape).astype(np.float32)
    if class_embed_type == "timestep" or config.get("num_class_embeds"):
        return np.arange(3, 3 + batch)
    return None
