"""diffusers folders in and out; tests/parity compares the numbers with diffusers itself."""

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

from jaxdiff import diffusers_config, diffusers_io, diffusers_scheduler, models
from jaxdiff.denoiser import get_params
from jaxdiff.unet import UNet
from tests.conftest import TINY_CONFIG
from tests.parity.cases import CASES

FILE = "diffusion_pytorch_model.safetensors"
LEGACY_NAMES = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}


@pytest.fixture
def folder(tiny, tmp_path):
    diffusers_io.save_unet(tiny, tmp_path)
    return tmp_path


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_same_params(unet, other_unet):
    params = get_params(unet)
    other_params = get_params(other_unet)
    assert params.keys() == other_params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, other_params[name])


@pytest.mark.parametrize("name", CASES)
def test_every_field_of_a_config_goes_in_and_out(name):
    config = diffusers_config.read_config(CASES[name], "config.json")
    written = diffusers_config.write_config(config)
    for key, value in CASES[name].items():
        if key != "act_fn" and not key.startswith("_"):
            expected = tuple(value) if key == "block_out_channels" else value
            assert written[key] == expected, key
    as_json = json.loads(json.dumps(written))
    assert diffusers_config.read_config(as_json, "config.json") == config


def test_weights_go_out_and_in_bit_for_bit_in_torchs_layout(tiny, folder):
    assert_same_params(diffusers_io.load_unet(folder), tiny)
    tensors = safetensors.numpy.load_file(folder / FILE)
    assert tensors["conv_in.weight"].shape == (8, 1, 3, 3)
    np.testing.assert_array_equal(
        tensors["time_embedding.linear_1.weight"].T, tiny.time_embedding.linear_1.weight[...]
    )


def write_legacy_shards(folder):
    """Write the weights again in two shards: early names, in float16 and bfloat16."""
    tensors = safetensors.numpy.load_file(folder / FILE)
    (folder / FILE).unlink()
    for name, legacy_name in LEGACY_NAMES.items():
        tensors = {key.replace(name, legacy_name): tensor for key, tensor in tensors.items()}
    assert any(".query." in name for name in tensors)
    shards = [{}, {}]
    weight_map = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        dtype = np.float16 if i % 2 == 0 else ml_dtypes.bfloat16
        shards[i % 2][name] = tensor.astype(dtype)
        weight_map[name] = f"diffusion_pytorch_model-{i % 2}-of-2.safetensors"
    for i, shard in enumerate(shards):
        path = folder / f"diffusion_pytorch_model-{i}-of-2.safetensors"
        safetensors.numpy.save_file(shard, path)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_early_names_and_half_precision(tiny, folder):
    write_legacy_shards(folder)
    params = get_params(tiny)
    for name, value in get_params(diffusers_io.load_unet(folder)).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, params[name], atol=1e-2)
    (folder / "diffusion_pytorch_model-1-of-2.safetensors").unlink()
    sentence = r"lacks diffusion_pytorch_model-1-of-2.safetensors, which .*index.json names"
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"conv_in.bias": None}, "lacks conv_in.bias; its config.json is of another model"),
        ({"more": np.zeros(1)}, "has too many tensors: more; "),
        (
            {"conv_in.bias": np.zeros(9, "f")},
            r"conv_in.bias of shape \[9\]; its config.json asks for \[8\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes, sentence, folder):
    tensors = safetensors.numpy.load_file(folder / FILE) | changes
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.numpy.save_file(tensors, folder / FILE)
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)


EMA = {
    "decay": 0.9999,
    "min_decay": 0.0,
    "optimization_step": 20,
    "update_after_step": 0,
    "use_ema_warmup": True,
    "inv_gamma": 1.0,
    "power": 0.75,
}


def test_the_folder_of_an_ema_model_is_read(tiny, folder):
    edit_json(folder / "config.json", **EMA)
    assert_same_params(diffusers_io.load_unet(folder), tiny)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."]
)
def test_what_wraps_a_network_is_left_out_of_its_names(prefix, tiny, folder):
    tensors = safetensors.numpy.load_file(folder / FILE)
    wrapped = {prefix + name: tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(wrapped, folder / FILE)
    assert_same_params(diffusers_io.load_unet(folder), tiny)


def test_blocks_that_were_compiled_alone_are_read(tiny, folder):
    tensors = safetensors.numpy.load_file(folder / FILE)
    compiled = {
        name.replace("mid_block.", "mid_block._orig_mod."): tensor
        for name, tensor in tensors.items()
    }
    safetensors.numpy.save_file(compiled, folder / FILE)
    assert_same_params(diffusers_io.load_unet(folder), tiny)


@pytest.mark.parametrize(
    "name",
    [
        "unet.down_blocks.0.attentions.0.to_q.lora_A.weight",
        "down_blocks.0.attentions.0.processor.to_q_lora.up.weight",
        "lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight",
    ],
)
def test_lora_weights_are_recognized(name, folder):
    safetensors.numpy.save_file({name: np.ones((4, 4), np.float32)}, folder / FILE)
    with pytest.raises(ValueError, match=r"holds LoRA weights.*call fuse_lora\(\)"):
        diffusers_io.load_unet(folder)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"])
@pytest.mark.parametrize("has_config", [True, False])
def test_a_folder_of_lora_weights_is_recognized(name, has_config, folder):
    (folder / FILE).rename(folder / name)
    if not has_config:
        (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds LoRA weights.*call fuse_lora\(\)"):
        models.load(folder)


@pytest.mark.parametrize("name", ["v1.safetensors", "v1.ckpt", "sub/v1.safetensors"])
def test_a_checkpoint_in_one_file_is_recognized(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    model = path.parent if "/" in name else path
    with pytest.raises(ValueError, match=r"v1.* is a checkpoint in one file.*from_single_file"):
        models.load(model)


def test_the_tensors_of_a_checkpoint_in_one_file_are_recognized(folder):
    tensors = {"model.diffusion_model.input_blocks.0.0.weight": np.ones((4, 4), np.float32)}
    safetensors.numpy.save_file(tensors, folder / FILE)
    with pytest.raises(ValueError, match=r"is a checkpoint in one file.*from_single_file"):
        diffusers_io.load_unet(folder)


def test_a_file_of_a_models_folder_is_recognized(folder):
    with pytest.raises(ValueError, match=f"is one file of a model; give its folder {folder}"):
        models.load(folder / FILE)


def test_a_weights_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*v1.safetensors; give"):
        models.load(tmp_path / "v1.safetensors")


@pytest.mark.parametrize("name", [FILE, "diffusion_pytorch_model.bin"])
def test_a_git_lfs_pointer_is_recognized(name, folder):
    (folder / FILE).unlink()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3438354725\n"
    (folder / name).write_text(pointer)
    with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer .* run git lfs pull"):
        diffusers_io.load_unet(folder)


@pytest.mark.parametrize("channels", [(2, 1), (1, 2), (6, 3)])
def test_a_unet_that_is_not_unconditional_is_refused(channels, folder):
    edit_json(folder / "config.json", in_channels=channels[0], out_channels=channels[1])
    sentence = f"takes {channels[0]} channels and returns {channels[1]}"
    with pytest.raises(ValueError, match=sentence):
        models.load(folder)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint8, np.bool_])
def test_integer_weights_are_refused(dtype, folder):
    tensors = safetensors.numpy.load_file(folder / FILE)
    tensors["conv_in.bias"] = tensors["conv_in.bias"].astype(dtype)
    safetensors.numpy.save_file(tensors, folder / FILE)
    sentence = f"conv_in.bias of type {np.dtype(dtype)}, and weights must be floating point"
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)


def test_broken_and_missing_weights_are_one_sentence(folder):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot read weights from"):
        diffusers_io.load_unet(folder)
    (folder / FILE).unlink()
    with pytest.raises(ValueError, match="has no weights"):
        diffusers_io.load_unet(folder)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/jaxdiff_was_here",)


def test_code_in_weights_is_refused(folder):
    (folder / FILE).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"asks for posix.system, and only arrays are read"):
        diffusers_io.load_unet(folder)
    assert not os.path.exists("/tmp/jaxdiff_was_here")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '{"_class_name": "UNet2DConditionModel"}',
            "holds UNet2DConditionModel; a UNet2DModel is expected",
        ),
        ('{"a": 1}', "holds no diffusers model"),
        ("{", "is no JSON file"),
        ('{"sample_size": ' + "1" * 5000 + "}", "is no JSON file .*5000 digits"),
        ('{"a":' * 100_000, "is no JSON file .*recursion"),
        (None, "neither config.json nor unet/config.json"),
    ],
)
def test_a_broken_config_is_one_sentence(content, sentence, folder):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)


@pytest.mark.parametrize("size", [1, 7, [8, 7], [7, 8]])
def test_a_sample_size_that_cannot_be_halved_is_refused(size, folder):
    edit_json(folder / "config.json", sample_size=size)
    with pytest.raises(ValueError, match=r"config.json sets sample_size to .* cannot be halved 1"):
        models.load_spec(folder)
    edit_json(folder / "config.json", sample_size=[8, 6])
    assert models.load_spec(folder).config.sample_size == (8, 6)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("encoder_hid_dim", 3, "sets 'encoder_hid_dim', which is no supported field"),
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
        ("resnet_time_scale_shift", "ada_group", "resnet_time_scale_shift .*ada_group"),
        ("act_fn", "tanh", "act_fn .*'tanh'"),
        ("downsample_padding", 2, "downsample_padding .*2"),
        ("norm_num_groups", None, "norm_num_groups to null"),
        ("block_out_channels", [8], "of different lengths"),
        ("attention_head_dim", 3, "attention_head_dim.* 3"),
    ],
)
def test_unsupported_fields_are_refused_by_name(field, value, sentence, folder):
    edit_json(folder / "config.json", **{field: value})
    with pytest.raises(ValueError, match=sentence):
        diffusers_io.load_unet(folder)


def test_pipelines_schedulers_and_models_load(tiny, tmp_path):
    """A pipeline folder, whose scheduler is followed; then as a cell, and back, bit for bit."""
    scheduler = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.0.4",
        "tensor_format": "pt",
        "beta_start": 1e-3,
        "beta_end": 0.05,
        "num_train_timesteps": 300,
        "variance_type": "fixed_large",
        "predict_epsilon": False,
    }
    diffusers_io.save_pipeline(tiny, scheduler, tmp_path / "pipe")
    with pytest.raises(ValueError, match="no sample_size"):
        _ = models.load(tmp_path / "pipe").shape
    edit_json(tmp_path / "pipe/unet/config.json", sample_size=8)
    model = models.load(tmp_path / "pipe")
    assert (model.prediction, model.schedule.steps, model.shape) == ("x0", 300, (8, 8, 1))
    alpha_bar = np.cumprod(1 - np.linspace(1e-3, 0.05, 300))
    np.testing.assert_allclose(model.schedule.alpha_bar, alpha_bar, rtol=1e-6)
    assert model.config["sample"]["variance"] == "fixed_large"
    models.save(model, tmp_path / "cell")
    assert json.loads((tmp_path / "cell/config.json").read_text()) == json.loads(
        json.dumps(model.config)
    )
    models.save(models.load(tmp_path / "cell"), tmp_path / "converted", "diffusers")
    converted = models.load(tmp_path / "converted")
    assert_same_params(converted.unet, tiny)
    assert converted.config == model.config
    assert models.load(tmp_path / "converted/unet").prediction == "x0"


@pytest.mark.parametrize(
    ("unet", "scheduler", "model"),
    [
        ("unet", "scheduler", "."),
        ("unet", "scheduler", "unet"),
        ("my_unet", "scheduler", "my_unet"),
        ("unet_ema", ".", "unet_ema"),
        (".", ".", "."),
        ("checkpoint-20/unet", "scheduler", "checkpoint-20/unet"),
        ("checkpoint-20/unet", "scheduler", "checkpoint-20"),
        ("checkpoint-20/unet_ema", "scheduler", "checkpoint-20/unet_ema"),
        ("checkpoint-20", "scheduler", "checkpoint-20"),
    ],
)
def test_the_scheduler_is_found_beside_and_above_the_unet(
    unet, scheduler, model, tiny, tmp_path, caplog
):
    diffusers_io.save_unet(tiny, tmp_path / unet)
    fields = {"_class_name": "DDPMScheduler", "beta_end": 0.05, "prediction_type": "v_prediction"}
    (tmp_path / scheduler).mkdir(exist_ok=True)
    (tmp_path / scheduler / "scheduler_config.json").write_text(json.dumps(fields))
    loaded = models.load(tmp_path / model)
    assert loaded.prediction == "v"
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.05, 1000))
    np.testing.assert_allclose(loaded.schedule.alpha_bar, alpha_bar, rtol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize("unet", ["unet", "run/unet"])
def test_a_scheduler_that_is_assumed_is_said(unet, tiny, tmp_path, caplog):
    """One two folders above belongs to the U-Net in a training run's checkpoint alone."""
    diffusers_io.save_unet(tiny, tmp_path / "models" / unet)
    (tmp_path / "scheduler_config.json").write_text("{}")
    models.load(tmp_path / "models" / unet)
    assert "linear schedule and a network that predicts eps are assumed" in caplog.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"thresholding": True}, "sets thresholding to true"),
        ({"variance_type": "learned_range"}, "sets variance_type to .learned_range"),
        ({"beta_schedule": "sigmoid"}, "sets beta_schedule to .sigmoid"),
        ({"solver_order": 2}, "sets 'solver_order'"),
    ],
)
def test_unsupported_schedulers_are_refused_by_name(changes, sentence, tmp_path):
    fields = {"_class_name": "DDPMScheduler"} | changes
    (tmp_path / "scheduler_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=sentence):
        diffusers_scheduler.read(tmp_path)


def test_a_cells_settings_become_a_scheduler():
    diffusion = {"schedule": "cosine", "steps": 500, "prediction": "v"}
    sample = {"method": "ddim", "steps": 50, "clip": True}
    written = diffusers_scheduler.from_settings(diffusion, sample)
    assert written["beta_schedule"] == "squaredcos_cap_v2"
    assert written["timestep_spacing"] == "trailing"
    assert diffusers_scheduler.get_prediction(written) == "v"
    np.testing.assert_array_equal(
        diffusers_scheduler.build_schedule(written).alpha_bar,
        models.build_schedule(diffusion).alpha_bar,
    )


def test_a_unet_that_no_config_json_describes_is_refused():
    config = dataclasses.replace(
        TINY_CONFIG, block_out_channels=(8, 8, 16), attention=(1, 2), down_resnet=(1,)
    )
    unet = UNet(config, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"levels \(1, 2\) are resampled in two ways"):
        diffusers_config.write_config(unet.config)
