"""What a folder says of its networks: v1.5's published configs, refusals, and both tokenizers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxdiff.denoiser import get_params
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pipeline import Pipeline
from jaxdiff.stable_diffusion.text_encoder import TextConfig, TextEncoder
from jaxdiff.stable_diffusion.tokenizer import Tokenizer
from jaxdiff.stable_diffusion.vae import VAE
from jaxdiff.unet import UNet
from tests.stable_diffusion import tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network_class", "config", "count"),
    [
        (UNet, folders.unet_config(tiny.UNET, "unet"), 859_520_964),
        (TextEncoder, TextConfig.read(tiny.TEXT), 123_060_480),
        (VAE, folders.vae_config(tiny.VAE, "vae"), 83_653_863),
    ],
)
def test_parameter_counts_of_v1_5(network_class, config, count):
    network = nnx.eval_shape(lambda: network_class(config, rngs=nnx.Rngs(0)))
    assert sum(p.size for p in get_params(network).values()) == count


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model_index.json", "is no pipeline: it has no model_index.json"),
        ("vae", "lacks its part vae; get the whole diffusers folder"),
        ("unet/config.json", "lacks unet/config.json; get the whole"),
        ("scheduler/scheduler_config.json", "lacks scheduler/scheduler_config.json; get"),
        ("tokenizer/merges.txt", "has no tokenizer: neither tokenizer.json nor"),
        ("", "text_encoder has no weights: neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_what_is_missing_is_one_sentence(name, sentence, tmp_path):
    folder = tiny.write_configs(tmp_path / "folder")
    path = folder / name
    if name and path.is_dir():
        shutil.rmtree(path)
    elif name:
        path.unlink()
    assert_refused(folder, sentence)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "must be Stable Diffusion 1 (a StableDiffusionPipeline), got Stable Diffusion XL in",
        ),
        ("unet/config.json", {"attention_head_dim": [5, 10]}, "got Stable Diffusion 2 in"),
        ("unet/config.json", {"act_fn": "gelu"}, 'sets act_fn to "gelu"; it must be one of silu'),
        ("unet/config.json", {"use_linear_projection": True}, "got Stable Diffusion 2 in"),
        (
            "unet/config.json",
            {"class_embed_type": "timestep"},
            "class_embed_type must be None in Stable Diffusion 1, got 'timestep' in",
        ),
        (
            "unet/config.json",
            {"cross_attention_dim": 20},
            "parts of different models: its text encoder gives 16",
        ),
        (
            "unet/config.json",
            {"down_block_types": ["Odd", "Odd"]},
            "must be one of CrossAttnDownBlock2D, DownBlock2D, CrossAttnUpBlock2D, UpBlock2D, got "
            "'Odd' in",
        ),
        (
            "unet/config.json",
            {"mid_block_type": "Odd"},
            "mid_block_type must be UNetMidBlock2DCrossAttn or null, got 'Odd' in",
        ),
        (
            "vae/config.json",
            {"up_block_types": ["Odd", "Odd"]},
            "up_block_types must be UpDecoderBlock2D alone, got ['Odd', 'Odd'] in",
        ),
        (
            "text_encoder/config.json",
            {"hidden_act": "relu"},
            "hidden_act must be one of quick_gelu, gelu, got 'relu'",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "is of FlowMatchEulerDiscreteScheduler, and the noise must be DDPM's",
        ),
        ("scheduler/scheduler_config.json", {"skip_prk_steps": False}, "skip_prk_steps"),
        (
            "text_encoder/config.json",
            {"vocab_size": 100},
            "as many tokens as its text encoder has rows",
        ),
        (
            "text_encoder/config.json",
            {"vocab_size": 1000},
            "as many tokens as its text encoder has rows",
        ),
        (
            "unet/config.json",
            {"in_channels": 9},
            "is of a model for inpainting, which takes 9; choose a text-to-image model",
        ),
        (
            "unet/config.json",
            {"in_channels": 8},
            "is of a model for editing an image by an instruction",
        ),
        (
            "model_index.json",
            {"_class_name": "StableDiffusionInpaintPipeline"},
            "got a StableDiffusionInpaintPipeline",
        ),
        ("tokenizer/vocab.json", {"<|endoftext|>": None}, "no tokenizer that can be read"),
    ],
)
def test_what_is_not_supported_is_one_sentence(name, values, sentence, tmp_path):
    folder = tiny.write_configs(tmp_path / "folder")
    change(folder, name, **values)
    assert_refused(folder, sentence)


def assert_refused(folder, sentence):
    with pytest.raises(ValueError, match=r"(?s).*") as raised:
        Pipeline.load(folder)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_fine_tune_of_another_shape_is_read_as_its_config_says():
    """Three levels, attention to the text at two, a factor of 4."""
    config = folders.unet_config(
        tiny.UNET
        | {
            "block_out_channels": [32, 64, 96],
            "down_block_types": ["DownBlock2D", tiny.CROSS, tiny.CROSS],
            "up_block_types": [tiny.UP, "UpBlock2D", tiny.UP],
            "num_attention_heads": 4,
        },
        "unet",
    )
    assert config.attention == (2, 3)
    assert config.up_attention == (3, 1)
    assert config.heads == 4
    assert config.depth == 3
    keys = ("block_out_channels", "down_block_types", "up_block_types")
    vae = folders.vae_config(tiny.VAE | {key: tiny.VAE[key][:3] for key in keys}, "vae")
    assert vae.factor == 4


def test_a_text_is_marked_padded_and_cut(tmp_path, caplog):
    tokenizer = Tokenizer.load(tiny.write_configs(tmp_path) / "tokenizer", length=6)
    ids = tiny.vocabulary()
    begin = ids["<|startoftext|>"]
    end = ids["<|endoftext|>"]
    tokens = tokenizer(["A  Woman"])
    assert tokens.tolist() == [[begin, ids["a</w>"], ids["woman</w>"], end, end, end]]
    assert not caplog.records
    assert tokenizer(["queen " * 9])[0].tolist() == [begin, *[ids["queen</w>"]] * 4, end]
    assert "a prompt of 11 tokens is cut to 6, after ...queen queen queen queen" in caplog.text


def write_added_tokens(folder, form, index):
    """Write <cat-toy> as a textual inversion's folder has it."""
    if form == "added_tokens.json":
        tiny.write(folder / form, {"<cat-toy>": index})
        return
    begin = {"content": "<|startoftext|>", "normalized": True, "special": True}
    ids = tiny.vocabulary()
    decoder = {
        str(ids["<|startoftext|>"]): begin,
        str(index): {"content": "<cat-toy>", "lstrip": False, "normalized": True},
    }
    tiny.write(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder})


@pytest.mark.parametrize("form", ["added_tokens.json", "added_tokens_decoder"])
def test_added_tokens_are_read(form, tmp_path):
    folder = tiny.write_configs(tmp_path) / "tokenizer"
    ids = tiny.vocabulary()
    write_added_tokens(folder, form, len(ids))
    tokenizer = Tokenizer.load(folder, length=6)
    assert tokenizer.num_tokens == len(ids) + 1
    expected = [ids["a</w>"], len(ids), ids["woman</w>"]]
    assert tokenizer(["a <cat-toy> woman"])[0].tolist()[1:4] == expected


@pytest.mark.parametrize("form", ["added_tokens.json", "added_tokens_decoder"])
def test_added_tokens_with_other_numbers_are_refused(form, tmp_path):
    folder = tiny.write_configs(tmp_path) / "tokenizer"
    index = len(tiny.vocabulary()) + 5
    write_added_tokens(folder, form, index)
    with pytest.raises(ValueError, match=f"<cat-toy> must have the number {index}, got"):
        Tokenizer.load(folder)


def test_the_padding_is_the_folders_own(tmp_path):
    folder = tiny.write_configs(tmp_path) / "tokenizer"
    tiny.write(folder / "special_tokens_map.json", {"pad_token": {"content": "!"}})
    assert Tokenizer.load(folder, length=4)([""]).tolist()[0][2:] == [tiny.vocabulary()["!"]] * 2


def test_the_mistakes_of_the_first_folders_are_corrected_as_diffusers_does(tmp_path):
    """No offset, latents clipped, half of the size; another scheduler's field is passed over."""
    folder = tiny.write_configs(tmp_path)
    change(folder, "unet/config.json", _diffusers_version="0.2.2", sample_size=32)
    scheduler = tiny.BETAS | {
        "_class_name": "PNDMScheduler",
        "skip_prk_steps": True,
        "rescale_betas_zero_snr": True,
    }
    tiny.write(folder / "scheduler/scheduler_config.json", scheduler)
    settings = folders.scheduler(folder)
    assert settings["steps_offset"] == 1
    assert settings["clip_sample"] is False
    assert settings["rescale_betas_zero_snr"] is False
    assert folders.abstract(folder)[1].config.sample_size == 64
    assert folders.unet_config(tiny.UNET | {"sample_size": 32}, "unet").sample_size == 32


@pytest.mark.slow
def test_in_bfloat16_what_scales_and_shifts_stays_as_it_was(tmp_path):
    folder = tiny.write_pipeline(tmp_path)
    half = Pipeline.load(folder, jnp.bfloat16).params["vae"]
    full = Pipeline.load(folder).params["vae"]
    for name, array in half.items():
        assert array.dtype == (jnp.bfloat16 if array.ndim > 1 else jnp.float32), name
        if array.ndim == 1:
            np.testing.assert_array_equal(array, full[name])


@pytest.mark.slow
def test_half_precision_files_are_read(tmp_path):
    folder = tiny.write_pipeline(tmp_path)
    full = Pipeline.load(folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(half, path.with_suffix(".fp16.safetensors"))
    path.unlink()
    loaded = Pipeline.load(folder)
    assert loaded.dtype == full.dtype == np.float32
    differences = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), loaded.params["unet"], full.params["unet"]
    )
    assert 0.0 < max(differences.values()) < 2e-3
