"""diffusers folders in and out, without diffusers; tests/parity compares the numbers with diffusers itself."""

import dataclasses
import json
import os
import pickle

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxdiff import diffusers_io, diffusers_scheduler, models
from jaxdiff.denoiser import get_params
from jaxdiff.unet import UNet
from tests.conftest import TINY_CONFIG
from tests.parity.cases import CASES

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny, tmp_path):
    diffusers_io.save_unet(tiny, tmp_path)
    return tmp_path


def change(folder, edit):
    tensors = safetensors.numpy.load_file(folder / FILE)
    edit(tensors)
    safetensors.numpy.save_file(tensors, folder / FILE)


def same(one, other):
    ours, theirs = get_params(one), get_params(other)
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", CASES)
def test_every_field_of_a_config_goes_in_and_out(name):
    config = diffusers_io.read_config(CASES[name], "config.json")
    written = diffusers_io.write_config(config)
    for key, value in CASES[name].items():
        if key != "act_fn" and not key.startswith("_"):
            assert written[key] == (tuple(value) if key == "block_out_channels" else value), key
    assert diffusers_io.read_config(json.loads(json.dumps(written)), "config.json") == config


def test_weights_go_out_and_in_bit_for_bit_and_are_laid_out_as_torch_has_them(tiny, folder):
    assert same(diffusers_io.load_unet(folder), tiny)
    tensors = safetensors.numpy.load_file(folder / FILE)
    assert tensors["conv_in.weight"].shape == (8, 1, 3, 3)
    np.testing.assert_array_equal(
        tensors["time_embedding.linear_1.weight"].T, tiny.time_embedding.linear_1.weight[...]
    )


def test_shards_early_names_and_half_precision(tiny, folder):
    early = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    tensors = safetensors.numpy.load_file(folder / FILE)
    (folder / FILE).unlink()
    for old, new in early.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    assert any(".query." in name for name in tensors)
    parts, where = [{}, {}], {}
    for i, (name, tensor) in enumerate(tensors.items()):
        parts[i % 2][name] = tensor.astype((np.float16, ml_dtypes.bfloat16)[i % 2])
        where[name] = f"diffusion_pytorch_model-{i % 2}-of-2.safetensors"
    for i, part in enumerate(parts):
        safetensors.numpy.save_file(part, folder / f"diffusion_pytorch_model-{i}-of-2.safetensors")
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": where}))
    for name, value in get_params(diffusers_io.load_unet(folder)).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, get_params(tiny)[name], atol=1e-2)
    (folder / "diffusion_pytorch_model-1-of-2.safetensors").unlink()
    with pytest.raises(
        ValueError,
        match=r"lacks diffusion_pytorch_model-1-of-2.safetensors, which .*index.json names",
    ):
        diffusers_io.load_unet(folder)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/jaxdiff_was_here",)


@pytest.mark.parametrize(
    ("breaks", "sentence"),
    [
        (lambda f: change(f, lambda t: t.pop("conv_in.bias")), "lacks conv_in.bias; its config.json is of another model"),
        (lambda f: change(f, lambda t: t.update(more=np.zeros(1))), "has too many tensors: more; "),
        (lambda f: change(f, lambda t: t.update({"conv_in.bias": np.zeros(9, "f")})), r"conv_in.bias of shape \[9\]; its config.json asks for \[8\]"),
        (lambda f: (f / FILE).write_bytes((f / FILE).read_bytes()[:5000]), "is no weights file that can be read"),
        (lambda f: [(f / FILE).unlink(), (f / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))], "asks for posix.system, and only arrays are read"),
        (lambda f: (f / FILE).unlink(), "has no weights"),
        (lambda f: (f / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}'), "holds UNet2DConditionModel; a UNet2DModel is expected"),
        (lambda f: (f / "config.json").write_text('{"a": 1}'), "holds no diffusers model"),
        (lambda f: (f / "config.json").write_text("{"), "is no JSON file"),
        (lambda f: (f / "config.json").unlink(), "neither config.json nor unet/config.json"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_sentence(breaks, sentence, folder):
    breaks(folder)
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)
    assert not os.path.exists("/tmp/jaxdiff_was_here")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("encoder_hid_dim", 3, "sets 'encoder_hid_dim', which is no field"),
        (
            "down_block_types",
            ["DownBlock2D", "SkipDownBlock2D"],
            "block type 'SkipDownBlock2D' in down_block_types",
        ),
        (
            "mid_block_type",
            "UNetMidBlock2DCrossAttn",
            "sets mid_block_type to 'UNetMidBlock2DCrossAttn'",
        ),
        (
            "resnet_time_scale_shift",
            "ada_group",
            "resnet_time_scale_shift is 'ada_group'; choose one of default",
        ),
        ("act_fn", "tanh", "act_fn is 'tanh'"),
        ("downsample_padding", 2, "downsample_padding is 2"),
        ("norm_num_groups", None, "norm_num_groups to None"),
        ("block_out_channels", [8], "of different lengths"),
        ("attention_head_dim", 3, "attention_head_dim 3 does not divide"),
    ],
)
def test_what_is_not_known_is_refused_by_name(field, value, sentence, folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {field: value}))
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)


def test_pipelines_schedulers_and_models_load(tiny, tmp_path):
    """A pipeline folder by one call, scheduler followed as it is; then as a cell, and back, bit for bit."""
    early = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.0.4", "tensor_format": "pt",
             "beta_start": 1e-3, "beta_end": 0.05, "num_train_timesteps": 300, "variance_type": "fixed_large",
             "predict_epsilon": False}  # fmt: skip
    diffusers_io.save_pipeline(tiny, early, tmp_path / "pipe")
    with pytest.raises(ValueError, match="no sample_size"):
        _ = models.load(tmp_path / "pipe").shape
    raw = json.loads((tmp_path / "pipe/unet/config.json").read_text()) | {"sample_size": 8}
    (tmp_path / "pipe/unet/config.json").write_text(json.dumps(raw))
    model = models.load(tmp_path / "pipe")
    assert (model.prediction, model.schedule.steps, model.shape) == ("x0", 300, (8, 8, 1))
    np.testing.assert_allclose(
        model.schedule.alpha_bar, np.cumprod(1 - np.linspace(1e-3, 0.05, 300)), rtol=1e-6
    )
    assert model.config["sample"]["variance"] == "fixed_large"
    models.save_cell(model, tmp_path / "cell")
    models.save_pipeline(models.load(tmp_path / "cell"), tmp_path / "again")
    again = models.load(tmp_path / "again")
    assert same(again.unet, tiny)
    assert again.config == model.config
    assert models.load(tmp_path / "again/unet").prediction == "x0"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"_class_name": "PNDMScheduler"}, "is of PNDMScheduler"),
        ({"thresholding": True}, "sets thresholding to True"),
        ({"variance_type": "learned_range"}, "sets variance_type to 'learned_range'"),
        ({"beta_schedule": "sigmoid"}, "sets beta_schedule to 'sigmoid'"),
        ({"solver_order": 2}, "sets 'solver_order'"),
    ],
)
def test_other_schedulers_are_refused_by_name(change, sentence, tmp_path):
    (tmp_path / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDPMScheduler"} | change)
    )
    with pytest.raises(ValueError, match=sentence):
        diffusers_scheduler.read(tmp_path)


def test_a_cell_says_its_scheduler():
    settings = {"schedule": "cosine", "steps": 500, "prediction": "v"}
    written = diffusers_scheduler.write(settings, {"method": "ddim", "clip": True})
    assert written["beta_schedule"] == "squaredcos_cap_v2"
    assert written["timestep_spacing"] == "trailing"
    assert diffusers_scheduler.prediction(written) == "v"
    np.testing.assert_array_equal(
        diffusers_scheduler.schedule(written).alpha_bar, models.schedule(settings).alpha_bar
    )


def test_a_u_net_that_no_config_json_can_say_is_refused():
    mixed = dataclasses.replace(
        TINY_CONFIG, block_out_channels=(8, 8, 16), attention=(1, 2), down_resnet=(1,)
    )
    with pytest.raises(ValueError, match=r"levels \(1, 2\) are resampled in two ways"):
        diffusers_io.write_config(UNet(mixed, rngs=nnx.Rngs(0)).config)
