"""Folders as others write them: averaged weights, variants, and other schedulers than ours."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy

from jaxdiff import diffusers_io, diffusers_scheduler, models
from jaxdiff.denoiser import get_params, random_network
from tests.conftest import TINY_CONFIG

EULER = "EulerDiscreteScheduler"


def write_scheduler(folder, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scheduler_config.json").write_text(json.dumps(fields))


def assert_same_params(unet, other):
    for name, value in get_params(unet).items():
        np.testing.assert_array_equal(value, get_params(other)[name])


@pytest.fixture
def averaged():
    return random_network(TINY_CONFIG, 1)


@pytest.mark.slow
def test_the_averaged_weights_of_a_training_checkpoint_are_read(tiny, averaged, tmp_path):
    """As accelerate's hooks write checkpoint-N, beside the pipeline's scheduler."""
    checkpoint = tmp_path / "checkpoint-20"
    diffusers_io.save_unet(tiny, checkpoint / "unet")
    diffusers_io.save_unet(averaged, checkpoint / "unet_ema")
    (checkpoint / "optimizer.bin").write_bytes(b"of torch")
    write_scheduler(tmp_path / "scheduler", _class_name="DDPMScheduler", beta_end=0.03)
    loaded = models.load(checkpoint)
    assert_same_params(loaded.unet, averaged)
    assert_same_params(models.load(checkpoint / "unet").unet, tiny)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.03, 1000))
    np.testing.assert_allclose(loaded.schedule.alpha_bar, alpha_bar, rtol=1e-5)
    assert list(models.weights_digest(checkpoint)) == [
        "unet_ema/diffusion_pytorch_model.safetensors"
    ]


def test_averaged_weights_alone_are_a_folder(averaged, tmp_path):
    diffusers_io.save_unet(averaged, tmp_path / "unet_ema")
    assert diffusers_io.is_diffusers_folder(tmp_path)
    assert_same_params(models.load(tmp_path).unet, averaged)


@pytest.mark.slow
def test_a_variant_is_read_where_there_is_no_full_one(tiny, averaged, tmp_path):
    diffusers_io.save_unet(tiny, tmp_path)
    full = tmp_path / "diffusion_pytorch_model.safetensors"
    half = {
        name: tensor.astype(np.float16)
        for name, tensor in safetensors.numpy.load_file(full).items()
    }
    diffusers_io.save_unet(averaged, tmp_path)
    safetensors.numpy.save_file(half, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert_same_params(diffusers_io.load_unet(tmp_path), averaged)
    full.unlink()
    for name, value in get_params(diffusers_io.load_unet(tmp_path)).items():
        np.testing.assert_allclose(value, get_params(tiny)[name], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(diffusers_scheduler.OTHER_SCHEDULERS))
def test_other_schedulers_give_their_noise_levels(name, tiny, tmp_path, caplog):
    diffusers_io.save_unet(tiny, tmp_path / "unet")
    fields = {"beta_start": 0.0005, "beta_end": 0.01, "beta_schedule": "scaled_linear"}
    own = {"use_karras_sigmas": True, "solver_order": 2, "thresholding": True}
    write_scheduler(
        tmp_path / "scheduler", _class_name=name, prediction_type="v_prediction", **fields, **own
    )
    loaded = dataclasses.replace(models.load(tmp_path), image_shape=(8, 8, 1))
    assert loaded.prediction == "v"
    alpha_bar = np.cumprod(1 - np.linspace(0.0005**0.5, 0.01**0.5, 1000) ** 2)
    np.testing.assert_allclose(loaded.schedule.alpha_bar, alpha_bar, rtol=1e-5)
    assert loaded.config["sample"]["method"] == "ddim"
    assert loaded.config["sample"]["clip"] == 0
    assert caplog.text.count(f"is of {name}: its noise levels and prediction are read") == 1
    models.save(loaded, tmp_path / "saved", "diffusers")
    again = models.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.schedule.alpha_bar, loaded.schedule.alpha_bar)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "is of EDMEulerScheduler, and the noise must be"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "is of FlowMatchEulerDiscrete"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "is of ScoreSdeVeScheduler"),
        (
            {"_class_name": EULER, "zz": 1},
            "sets 'zz', which is no supported field of EulerDiscrete",
        ),
        ({"_class_name": EULER, "timestep_type": "continuous"}, 'timestep_type to "continuous"'),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas to true",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"},
            'variance_type to "learned_range"',
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"},
            'prediction_type to "flow_prediction"; it must be one of epsilon',
        ),
        ({"_class_name": "HeunDiscreteScheduler", "beta_schedule": "exp"}, "beta_schedule to .exp"),
        (
            {"_class_name": EULER, "rescale_betas_zero_snr": True},
            "sets prediction_type to epsilon and leaves no signal at the last step",
        ),
    ],
)
def test_another_kind_of_noise_is_refused_by_name(fields, sentence, tmp_path):
    write_scheduler(tmp_path, **fields)
    with pytest.raises(ValueError, match=sentence):
        diffusers_scheduler.read(tmp_path)


def test_zero_terminal_snr_is_read_with_a_prediction_that_it_allows(tmp_path):
    write_scheduler(
        tmp_path, _class_name=EULER, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    scheduler = diffusers_scheduler.read(tmp_path)
    assert diffusers_scheduler.build_schedule(scheduler).alpha_bar[-1] == 0


def test_a_pipeline_whose_images_pass_through_further_parts_is_refused(tiny, tmp_path):
    """Of a latent pipeline the U-Net alone would draw latents."""
    diffusers_io.save_pipeline(tiny, diffusers_scheduler.DEFAULT, tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "safety_checker": [None, None]}))
    models.load_spec(tmp_path)
    path.write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(ValueError, match=r"with further parts \(vqvae\)"):
            models.load_spec(folder)
