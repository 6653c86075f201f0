"""Configurations of UNet2DModel: Table A, three of the hub's at small sizes, and others that cover every field."""

from jaxdiff.diffusers_io import write_config
from jaxdiff.unet_config import TABLE_A


def _types(kinds: str) -> dict:
    """ "DAR/RAU": Down, Attn, Resnet block types from the outermost level inward, then the up blocks from inside out."""
    down, up = kinds.split("/")
    downs = {"D": "DownBlock2D", "A": "AttnDownBlock2D", "R": "ResnetDownsampleBlock2D"}
    ups = {"U": "UpBlock2D", "A": "AttnUpBlock2D", "R": "ResnetUpsampleBlock2D"}
    return {"down_block_types": [downs[k] for k in down], "up_block_types": [ups[k] for k in up]}


# As the first hub checkpoints have them, with narrower channels and smaller images.
HUB = {
    "act_fn": "silu", "attention_head_dim": None, "center_input_sample": False, "downsample_padding": 0,
    "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2, "mid_block_scale_factor": 1,
    "norm_eps": 1e-06, "norm_num_groups": 8, "out_channels": 3, "time_embedding_type": "positional",
}  # fmt: skip
CELEBA_HQ = (
    HUB
    | _types("DDDDAD/UAUUUU")
    | {"block_out_channels": [16, 16, 32, 32, 64, 64], "sample_size": 32}
)
SMALL = {
    "block_out_channels": [16, 24],
    "norm_num_groups": 4,
    "sample_size": 16,
    "attention_head_dim": 4,
}

CASES = {f"Table A, {name}": {**write_config(config), "sample_size": 32} for name, config in TABLE_A.items()} | {
    "google/ddpm-cifar10-32, narrow":
        HUB | _types("DADD/UUAU") | {"block_out_channels": [16, 32, 32, 32], "sample_size": 32, "dropout": 0.1},
    "google/ddpm-celebahq-256, narrow": CELEBA_HQ,
    "google/ddpm-ema-church-256, narrow": CELEBA_HQ | {"sample_size": 64},
    "scale_shift, mish, scaled mid-block":
        SMALL | _types("DA/AU") | {"resnet_time_scale_shift": "scale_shift", "act_fn": "mish",
                                   "mid_block_scale_factor": 1.4142135, "out_channels": 6},
    "scale_shift, mid-block attention normed, gelu":
        SMALL | _types("DA/UA") | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 6, "act_fn": "gelu"},
    "attention resampled by ResNet blocks, other up blocks":
        SMALL | _types("ADA/UAA") | {"block_out_channels": [16, 24, 24], "downsample_type": "resnet",
                                     "upsample_type": "resnet", "layers_per_block": 1, "in_channels": 1},
    "ResNet resampling blocks, one head, relu":
        SMALL | _types("RDR/UUR") | {"block_out_channels": [16, 24, 32], "act_fn": "relu", "attention_head_dim": None},
    "no mid-block attention, centred input, swish":
        SMALL | _types("DD/UU") | {"add_attention": False, "center_input_sample": True, "act_fn": "swish",
                                   "layers_per_block": 3},
    "no mid-block, odd time features":
        SMALL | _types("DA/AU") | {"mid_block_type": None, "block_out_channels": [15, 24], "norm_num_groups": 3,
                                   "attention_head_dim": 3, "time_embedding_dim": 40, "freq_shift": 0.5},
    "Fourier time": SMALL | _types("DA/AU") | {"time_embedding_type": "fourier"},
    "learned time, classes":
        SMALL | _types("DA/AU") | {"time_embedding_type": "learned", "num_train_timesteps": 1000, "num_class_embeds": 10},
    "classes as numbers": SMALL | _types("DA/AU") | {"class_embed_type": "timestep", "norm_eps": 1e-3},
    "classes as embeddings": SMALL | _types("DA/AU") | {"class_embed_type": "identity", "dropout": 0.3},
    "one level": SMALL | _types("A/A") | {"block_out_channels": [16], "sample_size": 8},
}  # fmt: skip


def labels(config: dict, batch: int):
    """Class labels of a batch, None where the U-Net has none."""
    import numpy as np

    kind = config.get("class_embed_type")
    if kind == "identity":
        return (
            np.random.default_rng(1)
            .normal(size=(batch, 4 * config["block_out_channels"][0]))
            .astype(np.float32)
        )
    return np.arange(3, 3 + batch) if kind == "timestep" or config.get("num_class_embeds") else None
