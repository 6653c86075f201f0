"""Small Stable Diffusion folders of the published layout, with random weights."""

import json

import jax
import numpy as np
import safetensors.numpy
from flax import nnx
from tokenizers.pre_tokenizers import ByteLevel

from jaxdiff import torch_weights
from jaxdiff.denoiser import get_params
from jaxdiff.diffusers_io import WEIGHTS
from jaxdiff.stable_diffusion import folder as folders

CROSS = "CrossAttnDownBlock2D"
UP = "CrossAttnUpBlock2D"

# The published configs of v1.5.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [CROSS, CROSS, CROSS, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", UP, UP, UP],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "layers_per_block": 2,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
PNDM = BETAS | {
    "_class_name": "PNDMScheduler",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "trained_betas": None,
}
DDIM = PNDM | {"_class_name": "DDIMScheduler"}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "safety_checker": [None, None],
}

# Two levels, attention to the text at the first, images of 16 px.
SMALL_UNET = UNET | {
    "sample_size": 8,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": [CROSS, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", UP],
}
SMALL_VAE = VAE | {
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
SMALL_TEXT = TEXT | {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
MERGES = [
    *("w o", "a n</w>", "wo m", "wom an</w>"),
    *("a c", "ac t", "act r", "actr e", "actre s", "actres s</w>"),
    *("q u", "qu e", "e n</w>", "que en</w>"),
    *("g i", "r l</w>", "gi rl</w>"),
]


def vocabulary():
    """CLIP's order: bytes, bytes that end a word, merged pairs, the two marks."""
    characters = sorted(ByteLevel.alphabet())
    word_ends = [f"{character}</w>" for character in characters]
    merged = [merge.replace(" ", "") for merge in MERGES]
    pieces = [*characters, *word_ends, *merged, "<|startoftext|>", "<|endoftext|>"]
    return {piece: i for i, piece in enumerate(pieces)}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def write_configs(folder, unet=SMALL_UNET, vae=SMALL_VAE, text=SMALL_TEXT, scheduler=PNDM):
    """Write everything but the weights; the vocabulary is the small one."""
    ids = vocabulary()
    write(folder / "model_index.json", INDEX)
    write(folder / "unet" / "config.json", unet)
    write(folder / "vae" / "config.json", vae)
    write(folder / "text_encoder" / "config.json", text | {"vocab_size": len(ids)})
    write(folder / "scheduler" / "scheduler_config.json", scheduler)
    write(folder / "tokenizer" / "vocab.json", ids)
    write(folder / "tokenizer" / "merges.txt", "\n".join(["#version: 0.2", *MERGES, ""]))
    return folder


def write_pipeline(folder, **configs):
    """Write a complete pipeline with random weights in safetensors."""
    write_configs(folder, **configs)
    text_encoder, unet, vae = folders.abstract(folder)
    text_tensors = random_tensors(text_encoder, 0)
    text_tensors = {f"text_model.{name}": tensor for name, tensor in text_tensors.items()}
    write_weights(folder / "text_encoder" / "model", text_tensors)
    write_weights(folder / "unet" / WEIGHTS, random_tensors(unet, 1))
    write_weights(folder / "vae" / WEIGHTS, random_tensors(vae, 2))
    return folder


def write_weights(path, tensors):
    safetensors.numpy.save_file(tensors, f"{path}.safetensors")


def random_tensors(module, seed):
    """Kernels of variance 1 / fan-in and scales about 1, in PyTorch's layout."""
    rng = np.random.default_rng(seed)

    def draw(param):
        noise = rng.normal(size=param.shape)
        if param.ndim > 1:
            fan_in = max(np.prod(param.shape[:-1]), 1)
            return (noise / np.sqrt(fan_in)).astype(np.float32)
        return (1.0 + 0.1 * noise).astype(np.float32)

    state = jax.tree.map(draw, nnx.state(module))
    params = get_params(nnx.merge(nnx.graphdef(module), state))
    return {
        name: np.ascontiguousarray(torch_weights.convert_layout(name, np.asarray(param), True))
        for name, param in params.items()
    }
