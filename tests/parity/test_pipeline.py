"""Folders that jaxdiff writes, opened by diffusers, and back: the same weights, the same images."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from flax import nnx

from jaxdiff import diffusers_io, diffusers_scheduler, models, samplers
from jaxdiff.denoiser import get_params
from jaxdiff.noise_bank import noise_bank
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.unet import UNet
from tests.conftest import TINY_CONFIG

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def have_equal_params(first, second):
    params = get_params(first)
    other_params = get_params(second)
    return params.keys() == other_params.keys() and all(
        np.array_equal(params[name], other_params[name]) for name in params
    )


def noises_of_chain(model, spec):
    """Every noise of two samples in the order in which diffusers' pipeline asks for it."""
    keys = noise_bank(0, np.arange(2))
    noises = [samplers.initial_noise(keys, (8, 8, 1))]
    if spec.method == "ddpm":
        chain = spec.build(model.prediction).chain(model.schedule, spec.steps)
        noises += [samplers.step_noise(keys, t, noises[0]) for t in chain.t]
    return [torch.tensor(np.asarray(noise).transpose(0, 3, 1, 2).copy()) for noise in noises]


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_written_by_us_opened_by_diffusers_and_back(method, tmp_path):
    unet = UNet(dataclasses.replace(TINY_CONFIG, sample_size=8), rngs=nnx.Rngs(0))
    settings = {"schedule": "linear", "steps": 1000, "prediction": "v"}
    sample = {"method": method, "steps": 10, "clip": True}
    scheduler = diffusers_scheduler.from_settings(settings, sample)
    diffusers_io.save_pipeline(unet, scheduler, tmp_path / "ours")
    bare_unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours/unet")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
    pipeline.save_pretrained(tmp_path / "theirs")
    bare_unet.save_pretrained(tmp_path / "bare")
    for folder in ("theirs", "bare"):
        assert have_equal_params(diffusers_io.load_unet(tmp_path / folder), unet)

    model = models.load(tmp_path / "theirs")
    settings = model.config["sample"]
    assert settings["steps"] == 10, "diffusers has kept what only jaxdiff reads"
    if method == "ddim":
        assert settings["rederive"]
        settings = settings | {"rederive": False}  # as DDPMPipeline calls the scheduler
    spec = SamplerSpec.from_settings(settings)
    images = Sampler(model, spec, batch=2).sample(np.arange(2), seed=0)
    noises = iter(noises_of_chain(model, spec))

    def next_noise(*args, **kwargs):
        return next(noises)

    pipeline.set_progress_bar_config(disable=True)
    with (
        mock.patch("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", next_noise),
        mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", next_noise),
    ):
        expected = pipeline(batch_size=2, num_inference_steps=10, output_type="np").images
    difference = np.abs((images + 1) / 2 - expected).max()
    print(f"{method}: largest difference of the images {difference:.1e} of [0, 1]")
    assert difference <= 5e-4
