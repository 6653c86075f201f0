"""Models that were made in a notebook are saved and loaded again with equal outputs."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import checkpoints, models
from jaxdiff.denoiser import get_params
from jaxdiff.diffusion import SCHEDULES, Schedule
from jaxdiff.models import Model
from jaxdiff.unet import UNet
from jaxdiff.unet_bypass import BypassedUNet
from tests.conftest import MINIMAL_CONFIG, TINY_CONFIG

CUSTOM = Schedule(np.linspace(0.999, 0.01, 70) ** 2)


def assert_equal_models(loaded, model):
    assert loaded.prediction == model.prediction
    loaded_levels = jnp.asarray(loaded.schedule.alpha_bar)
    np.testing.assert_array_equal(loaded_levels, jnp.asarray(model.schedule.alpha_bar))
    xt = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    t = jnp.array([3, 60])
    np.testing.assert_array_equal(loaded.unet(xt, t), model.unet(xt, t))


def test_a_custom_schedule_is_saved_with_the_model(minimal_unet, tmp_path):
    model = Model(minimal_unet, CUSTOM, "v", {}, image_shape=(8, 8, 1))
    models.save(model, tmp_path / "saved")
    loaded = models.load(tmp_path / "saved")
    assert_equal_models(loaded, model)
    assert loaded.shape == (8, 8, 1)
    assert loaded.config["sample"]["steps"] == 50, "so that experiments.sample can read it"
    models.save(loaded, tmp_path / "again")
    first, second = tmp_path / "saved" / "config.json", tmp_path / "again" / "config.json"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_named_schedule_is_saved_by_its_name(minimal_unet, tmp_path, name):
    model = Model(minimal_unet, getattr(Schedule, name)(70), "eps")
    models.save(model, tmp_path)
    spec = models.load_spec(tmp_path)
    assert spec.settings["diffusion"] == {"schedule": name, "steps": 70, "prediction": "eps"}
    np.testing.assert_array_equal(spec.schedule.alpha_bar, model.schedule.alpha_bar)


def test_other_betas_are_not_saved_by_the_name(minimal_unet, tmp_path):
    schedule = Schedule.linear(70, high=0.1)
    assert schedule.name is None
    renamed = dataclasses.replace(schedule, name="linear")
    models.save(Model(minimal_unet, renamed, "eps"), tmp_path)
    loaded = models.load_spec(tmp_path).schedule
    np.testing.assert_array_equal(loaded.alpha_bar, schedule.alpha_bar)


def test_what_differs_from_the_settings_is_saved(minimal_unet, tiny, tmp_path):
    models.save(Model(tiny, Schedule.linear(100), "v", image_shape=(8, 8, 1)), tmp_path / "tiny")
    loaded = models.load(tmp_path / "tiny")
    changed = dataclasses.replace(loaded, unet=minimal_unet, schedule=CUSTOM, prediction="x0")
    models.save(changed, tmp_path / "changed")
    assert_equal_models(models.load(tmp_path / "changed"), changed)
    assert models.load(tmp_path / "changed").unet.config == MINIMAL_CONFIG


def test_diffusers_folders_hold_custom_schedules_too(tiny, tmp_path):
    model = Model(tiny, CUSTOM, "v", image_shape=(8, 8, 1))
    models.save(model, tmp_path, "diffusers")
    loaded = models.load(tmp_path)
    np.testing.assert_allclose(loaded.schedule.alpha_bar, CUSTOM.alpha_bar, rtol=1e-5)
    assert (loaded.prediction, loaded.shape) == ("v", (8, 8, 1))


def test_the_image_shape_is_that_of_the_model_its_settings_or_its_network(minimal_unet):
    schedule = Schedule.linear(10)
    with_size = UNet(dataclasses.replace(MINIMAL_CONFIG, sample_size=(8, 16)), rngs=nnx.Rngs(0))
    assert Model(with_size, schedule, "v").shape == (8, 16, 1)
    assert Model(with_size, schedule, "v", {"data": {"size": 32}}).shape == (32, 32, 1)
    settings = {"data": {"size": 32}}
    assert Model(minimal_unet, schedule, "v", settings, image_shape=(4, 4, 1)).shape == (4, 4, 1)
    with pytest.raises(ValueError, match=r"give image_shape=\(height, width, channels\)"):
        _ = Model(minimal_unet, schedule, "v").shape
    # Settings know the sides of images alone: a network without in_channels says all by itself.
    fixed = types.SimpleNamespace(input_shape=(4, 2, 1))
    assert Model(fixed, schedule, "v", settings).shape == (4, 2, 1)


def test_a_network_that_cannot_be_loaded_is_not_saved(tiny, tmp_path):
    mlp = Model(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), CUSTOM, "v")
    with pytest.raises(ValueError, match="must be a UNet with a UNetConfig, got a Linear"):
        models.save(mlp, tmp_path / "mlp")
    bypassed = Model(BypassedUNet(tiny, 0.5, 70), CUSTOM, "v")
    with pytest.raises(ValueError, match=r"got a BypassedUNet .* save its unet instead"):
        models.save(bypassed, tmp_path / "bypassed")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_another_model_is_not_written(minimal_unet, tmp_path):
    checkpoints.save(tmp_path / "trained" / "checkpoints", 40, {"ema": get_params(minimal_unet)})
    models.save(
        Model(minimal_unet, CUSTOM, "v", image_shape=(8, 8, 1)), tmp_path / "pipe", "diffusers"
    )
    for name in ("trained", "pipe"):
        with pytest.raises(ValueError, match="must not hold another model"):
            models.save(Model(minimal_unet, CUSTOM, "v"), tmp_path / name)


def test_a_pipeline_is_not_written_over_a_cell(minimal_unet, tmp_path):
    model = Model(minimal_unet, CUSTOM, "v", image_shape=(8, 8, 1))
    models.save(model, tmp_path)
    with pytest.raises(ValueError, match="must not hold another model, and has checkpoints"):
        models.save(model, tmp_path, "diffusers")
    assert not (tmp_path / "unet").exists()


def test_a_converted_cell_keeps_its_sampler(minimal_unet, tmp_path):
    own = {"method": "ddim", "steps": 20, "eta": 0.5, "clip": True, "batch": 8}
    model = Model(minimal_unet, CUSTOM, "v", {"sample": own}, image_shape=(8, 8, 1))
    models.save(model, tmp_path, "diffusers")
    sample = models.load(tmp_path).config["sample"]
    assert (sample["method"], sample["steps"], sample["eta"]) == ("ddim", 20, 0.5)
    assert (sample["rederive"], sample["stride"]) == (True, False)


def test_a_variance_is_kept_under_another_schedule(minimal_unet, tmp_path):
    own = {"method": "ddpm", "steps": 50, "clip": True, "variance": "fixed_large", "batch": 8}
    model = Model(minimal_unet, CUSTOM, "v", {"sample": own}, image_shape=(8, 8, 1))
    models.save(model, tmp_path, "diffusers")
    assert models.load(tmp_path).config["sample"]["variance"] == "fixed_large"


def test_configs_are_hashable():
    assert hash(dataclasses.replace(TINY_CONFIG)) == hash(TINY_CONFIG)


def test_a_damaged_last_checkpoint_is_refused_and_an_older_one_can_be_named(minimal_unet, tmp_path):
    models.save(Model(minimal_unet, CUSTOM, "v"), tmp_path)
    changed = {name: value + 1 for name, value in get_params(minimal_unet).items()}
    checkpoints.save(tmp_path / "checkpoints", 5, {"ema": changed})
    (tmp_path / "checkpoints" / "5.json").write_text("{}")
    with pytest.raises(ValueError, match=r"checkpoint 5 .*differs from its manifest"):
        models.load(tmp_path)
    older = models.load(tmp_path, step=0)
    assert_equal_models(older, Model(minimal_unet, CUSTOM, "v"))


def test_a_diffusers_folder_has_no_steps(minimal_unet, tmp_path):
    model = Model(minimal_unet, CUSTOM, "v", image_shape=(8, 8, 1))
    models.save(model, tmp_path, "diffusers")
    with pytest.raises(ValueError, match="has no steps"):
        models.load(tmp_path, step=3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_cell_with_weights_that_are_not_finite_is_refused(minimal_unet, tmp_path, bad):
    models.save(Model(minimal_unet, CUSTOM, "v"), tmp_path)
    params = get_params(minimal_unet)
    params["conv_in.bias"] = params["conv_in.bias"].at[1].set(bad)
    checkpoints.save(tmp_path / "checkpoints", 0, {"ema": params})
    with pytest.raises(ValueError, match=r"finite .* and conv_in.bias in .*checkpoints/0 has"):
        models.load(tmp_path)
