"""What a folder says of its networks: v1.5's published configurations, what is refused, and both forms of the tokenizer."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.denoiser import get_params
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pipeline import Pipeline
from jaxdiff.stable_diffusion.text_encoder import TextConfig, TextEncoder
from jaxdiff.stable_diffusion.tokenizer import Tokenizer
from jaxdiff.stable_diffusion.vae import VAE
from jaxdiff.unet import UNet
from tests.stable_diffusion import tiny


@pytest.mark.parametrize(
    ("kind", "config", "count"),
    [
        (UNet, folders.unet_config(tiny.UNET, "unet"), 859_520_964),
        (TextEncoder, TextConfig.read(tiny.TEXT), 123_060_480),
        (VAE, folders.vae_config(tiny.VAE, "vae"), 83_653_863),
    ],
)
def test_parameter_counts_of_v1_5(kind, config, count):
    made = nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))
    assert sum(p.size for p in get_params(made).values()) == count


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "model_index.json").unlink(), "is no pipeline: it has no model_index.json"),
        (lambda f: shutil.rmtree(f / "vae"), "lacks its part vae; get the whole diffusers folder"),
        (lambda f: (f / "unet/config.json").unlink(), "lacks unet/config.json; get the whole"),
        (lambda f: change(f, "model_index.json", _class_name="StableDiffusionXLPipeline"), "is Stable Diffusion XL; Stable"),
        (lambda f: change(f, "unet/config.json", attention_head_dim=[5, 10]), "is Stable Diffusion 2, whose U-Net"),
        (lambda f: change(f, "unet/config.json", use_linear_projection=True), "is Stable Diffusion 2, whose U-Net"),
        (lambda f: change(f, "unet/config.json", class_embed_type="timestep"), "sets class_embed_type to 'timestep'; Stable"),
        (lambda f: change(f, "unet/config.json", cross_attention_dim=20), "parts of different models: its text encoder gives 16"),
        (lambda f: change(f, "unet/config.json", down_block_types=["Odd", "Odd"]), "has the block type 'Odd'"),
        (lambda f: change(f, "vae/config.json", up_block_types=["Odd", "Odd"]), "UpDecoderBlock2D is known here"),
        (lambda f: change(f, "text_encoder/config.json", hidden_act="relu"), "hidden_act is 'relu'; quick_gelu, gelu"),
        (lambda f: change(f, "scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler"), "as a PNDMScheduler's"),
        (lambda f: change(f, "scheduler/scheduler_config.json", skip_prk_steps=False), "sets skip_prk_steps to False; True"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "lacks scheduler/scheduler_config.json; get"),
        (lambda f: change(f, "text_encoder/config.json", vocab_size=100), "and its text encoder 100; get the whole folder"),
        (lambda f: (f / "tokenizer/merges.txt").unlink(), "has no tokenizer: neither tokenizer.json nor"),
        (lambda f: change(f, "tokenizer/vocab.json", **{"<|endoftext|>": None}), "no tokenizer that can be read"),
        (lambda f: None, "text_encoder has no weights: neither model.safetensors nor pytorch_model.bin"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(spoil, sentence, tmp_path):
    spoil(tiny.write_configs(tmp_path / "folder"))
    with pytest.raises(ValueError, match=r"(?s).*") as raised:
        Pipeline.load(tmp_path / "folder")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_fine_tune_of_another_shape_is_read_as_its_config_says():
    """Three levels, attention to the text at two, a factor of 4."""
    raw = tiny.UNET | {"block_out_channels": [32, 64, 96], "down_block_types": ["DownBlock2D", tiny.CROSS, tiny.CROSS],
                       "up_block_types": [tiny.UP, "UpBlock2D", tiny.UP], "num_attention_heads": 4}  # fmt: skip
    config = folders.unet_config(raw, "unet")
    assert (config.attention, config.up_attention, config.heads, config.depth) == (
        (2, 3),
        (3, 1),
        4,
        3,
    )
    vae = folders.vae_config(
        tiny.VAE
        | {
            key: tiny.VAE[key][:3]
            for key in ("block_out_channels", "down_block_types", "up_block_types")
        },
        "vae",
    )
    assert vae.factor == 4


def test_a_text_is_marked_padded_and_cut(tmp_path, caplog):
    words = Tokenizer.load(tiny.write_configs(tmp_path) / "tokenizer", length=6)
    ids = tiny.vocabulary()
    begin, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
    assert words(["A  Woman"]).tolist() == [[begin, ids["a</w>"], ids["woman</w>"], end, end, end]]
    assert not caplog.records
    assert words(["queen " * 9])[0].tolist() == [begin, *[ids["queen</w>"]] * 4, end]
    assert "a prompt of 11 tokens is cut to 6, after ...queen queen queen queen" in caplog.text


def test_the_padding_is_the_folders_own(tmp_path):
    folder = tiny.write_configs(tmp_path) / "tokenizer"
    tiny.write(folder / "special_tokens_map.json", {"pad_token": {"content": "!"}})
    assert Tokenizer.load(folder, length=4)([""]).tolist()[0][2:] == [tiny.vocabulary()["!"]] * 2


def test_the_mistakes_of_the_first_folders_are_corrected_as_diffusers_does(tmp_path):
    """No offset, latents clipped, half of the size; a leftover of another scheduler is passed over."""
    folder = tiny.write_configs(tmp_path)
    early = {"_diffusers_version": "0.2.2", "sample_size": 32}
    change(folder, "unet/config.json", **early)
    tiny.write(folder / "scheduler/scheduler_config.json",
               tiny.BETAS | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "rescale_betas_zero_snr": True})  # fmt: skip
    found = folders.scheduler(folder)
    assert (found["steps_offset"], found["clip_sample"], found["rescale_betas_zero_snr"]) == (
        1,
        False,
        False,
    )
    assert folders.abstract(folder)[1].config.sample_size == 64
    assert folders.unet_config(tiny.UNET | {"sample_size": 32}, "unet").sample_size == 32


def test_in_bfloat16_what_scales_and_shifts_stays_as_it_was(tmp_path):
    folder = tiny.write_pipeline(tmp_path)
    half, whole = (
        Pipeline.load(folder, jnp.bfloat16).params["vae"],
        Pipeline.load(folder).params["vae"],
    )
    for name, p in half.items():
        assert p.dtype == (jnp.bfloat16 if p.ndim > 1 else jnp.float32), name
        if p.ndim == 1:
            np.testing.assert_array_equal(p, whole[name])


def test_half_precision_files_are_read(tmp_path):
    import safetensors.numpy

    folder = tiny.write_pipeline(tmp_path)
    whole = Pipeline.load(folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    half = {name: t.astype(np.float16) for name, t in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    path.unlink()
    read = Pipeline.load(folder)
    assert read.dtype == whole.dtype == np.float32
    apart = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), read.params["unet"], whole.params["unet"]
    )
    assert 0.0 < max(apart.values()) < 2e-3
