"""Small Stable Diffusion folders of the published layout: what each config.json says, and random weights by ourselves."""

import json

import jax
import numpy as np
import safetensors.numpy
from flax import nnx
from tokenizers.pre_tokenizers import ByteLevel

from jaxdiff import torch_weights
from jaxdiff.diffusers_io import WEIGHTS
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.unet import parameters

CROSS, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
UNET = {
    "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "act_fn": "silu", "norm_num_groups": 32,
    "norm_eps": 1e-5, "attention_head_dim": 8, "cross_attention_dim": 768, "layers_per_block": 2, "downsample_padding": 1,
    "mid_block_scale_factor": 1, "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [CROSS, CROSS, CROSS, "DownBlock2D"], "up_block_types": ["UpBlock2D", UP, UP, UP],
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "sample_size": 512, "in_channels": 3, "out_channels": 3, "act_fn": "silu",
    "norm_num_groups": 32, "layers_per_block": 2, "latent_channels": 4, "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
TEXT = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 77,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
PNDM = BETAS | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1,
                "clip_sample": False, "trained_betas": None}  # fmt: skip
DDIM = PNDM | {"_class_name": "DDIMScheduler"}
# Two levels, attention to the text at the first, pictures of 16 px.
SMALL_UNET = UNET | {
    "sample_size": 8, "norm_num_groups": 4, "attention_head_dim": 2, "cross_attention_dim": 16, "layers_per_block": 1,
    "block_out_channels": [8, 16], "down_block_types": [CROSS, "DownBlock2D"], "up_block_types": ["UpBlock2D", UP],
}  # fmt: skip
SMALL_VAE = VAE | {
    "norm_num_groups": 4, "layers_per_block": 1, "block_out_channels": [8, 16], "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
SMALL_TEXT = TEXT | {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "safety_checker": [None, None],
}
MERGES = ["w o", "a n</w>", "wo m", "wom an</w>", "a c", "ac t", "act r", "actr e", "actre s", "actres s</w>", "q u", "qu e",
          "e n</w>", "que en</w>", "g i", "r l</w>", "gi rl</w>"]  # fmt: skip


def vocabulary():
    """CLIP's order: bytes, bytes that end a word, merged pairs, the two marks."""
    single = sorted(ByteLevel.alphabet())
    pieces = [*single, *(f"{c}</w>" for c in single), *(m.replace(" ", "") for m in MERGES)]
    return {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def write_configs(folder, unet=SMALL_UNET, vae=SMALL_VAE, text=SMALL_TEXT, scheduler=PNDM):
    """Everything but the weights; the vocabulary is the small one."""
    words = vocabulary()
    write(folder / "model_index.json", INDEX)
    for part, config in (
        ("unet", unet),
        ("vae", vae),
        ("text_encoder", text | {"vocab_size": len(words)}),
    ):
        write(folder / part / "config.json", config)
    write(folder / "scheduler" / "scheduler_config.json", scheduler)
    write(folder / "tokenizer" / "vocab.json", words)
    write(folder / "tokenizer" / "merges.txt", "\n".join(["#version: 0.2", *MERGES, ""]))
    return folder


def write_pipeline(folder, **configs):
    """A whole pipeline of random weights, as safetensors."""
    write_configs(folder, **configs)
    names = {"text_encoder": "model", "unet": WEIGHTS, "vae": WEIGHTS}
    for i, (part, module) in enumerate(zip(names, folders.abstract(folder), strict=True)):
        made = nnx.merge(nnx.graphdef(module), _random(nnx.state(module), i))
        tensors = {
            n: np.ascontiguousarray(torch_weights.convert_layout(n, np.asarray(p), to_torch=True))
            for n, p in parameters(made).items()
        }
        if part == "text_encoder":
            tensors = {f"text_model.{name}": t for name, t in tensors.items()}
        safetensors.numpy.save_file(tensors, folder / part / f"{names[part]}.safetensors")
    return folder


def _random(state, seed):
    """Kernels of variance 1 / fan-in; scales about 1."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: (rng.normal(size=p.shape) / np.sqrt(max(np.prod(p.shape[:-1]), 1)) if p.ndim > 1
                   else 1.0 + 0.1 * rng.normal(size=p.shape)).astype(np.float32), state,
    )  # fmt: skip
