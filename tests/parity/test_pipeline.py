"""Folders that jaxdiff writes, opened by diffusers, and back: the same weights bit for bit, the same images."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
from flax import nnx

from jaxdiff import diffusers_io, diffusers_scheduler, models, samplers
from jaxdiff.sampling import Sampler, noise_bank
from jaxdiff.unet import UNet, parameters
from tests.conftest import TINY

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def identical(one, other):
    ours, theirs = parameters(one), parameters(other)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[key], theirs[key]) for key in ours
    )


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_written_by_us_opened_by_diffusers_and_back(method, tmp_path):
    unet = UNet(dataclasses.replace(TINY, sample_size=8), rngs=nnx.Rngs(0))
    settings = {"schedule": "linear", "steps": 1000, "prediction": "v"}
    scheduler = diffusers_scheduler.from_settings(settings, {"method": method, "clip": True})
    diffusers_io.save_pipeline(unet, scheduler, tmp_path / "ours")
    alone = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours/unet")
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "ours")
    pipeline.save_pretrained(tmp_path / "theirs")
    alone.save_pretrained(tmp_path / "alone")
    for folder in ("theirs", "alone"):
        assert identical(diffusers_io.load_unet(tmp_path / folder), unet)

    model = models.load(tmp_path / "theirs")
    drawer = Sampler(model, model.config["sample"] | {"steps": 10, "batch": 2}, lambda *_: None)
    mine = drawer.sample(np.arange(2), seed=0)
    keys = noise_bank(0, np.arange(2))
    drawn = [samplers.initial_noise(keys, (8, 8, 1))]
    chain = samplers.chain(model.schedule, 10, **samplers.options(model.config["sample"]).path)
    drawn += [samplers._noise(keys, t, drawn[0]) for t in chain.t if method == "ddpm"]
    noises = iter([torch.tensor(np.asarray(n).transpose(0, 3, 1, 2).copy()) for n in drawn])
    pipeline.set_progress_bar_config(disable=True)
    with (
        mock.patch(
            "diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor",
            side_effect=lambda *_, **__: next(noises),
        ),
        mock.patch(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor",
            side_effect=lambda *_, **__: next(noises),
        ),
    ):
        theirs = pipeline(batch_size=2, num_inference_steps=10, output_type="np").images
    difference = np.abs((mine + 1) / 2 - theirs).max()
    print(f"{method}: largest difference of the images {difference:.1e} of [0, 1]")
    assert difference <= 5e-4
