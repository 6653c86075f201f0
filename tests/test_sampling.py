"""Samples of a model in batches, by the smallest U-Net and by a network of another kind."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import diffusion, samplers
from jaxdiff.diffusion import Schedule
from jaxdiff.models import Model
from jaxdiff.noise_bank import noise_bank
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.unet import UNet

DDIM = SamplerSpec("ddim", 6)


class MLP(nnx.Module):
    """A network with nothing in common with a U-Net but how it is called."""

    def __init__(self, rngs: nnx.Rngs):
        self.input_shape = (4, 2, 1)
        self.num_classes = 3
        self.embedding = nnx.Embed(3, 8, rngs=rngs)
        self.layer = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, xt, t, labels=None, keys=None):
        features = self.layer(xt.reshape(len(xt), 8)) + self.embedding(labels)
        return jnp.tanh(features + t[:, None] / 20.0).reshape(xt.shape)


def with_network(model, network):
    """The model with another network, without a check of its type."""
    changed = copy.copy(model)
    object.__setattr__(changed, "unet", network)
    return changed


@pytest.fixture
def model(minimal_unet: UNet) -> Model:
    return Model(minimal_unet, Schedule.linear(20), "v", {"data": {"size": 8}})


@pytest.fixture
def sampler(model) -> Sampler:
    return Sampler(model, DDIM, batch=8)


def test_a_sample_depends_on_its_index_and_the_seed_alone(model):
    sampler = Sampler(model, SamplerSpec("ddpm", 6), batch=8)
    samples = sampler.sample(np.arange(11), 0)
    assert samples.dtype == np.float32
    assert samples.shape == (11, 8, 8, 1)
    np.testing.assert_array_equal(sampler.sample(np.arange(3), 0), samples[:3])
    np.testing.assert_array_equal(sampler.sample(np.array([9, 2]), 0), samples[[9, 2]])
    assert np.abs(sampler.sample(np.arange(11), 1) - samples).max() > 0.1
    other_batch = Sampler(model, SamplerSpec("ddpm", 6), batch=6)
    assert np.abs(other_batch.sample(np.arange(11), 0) - samples).max() < 1e-3


@pytest.mark.parametrize("name", ["pndm", "heun"])
def test_a_sampler_of_any_carry_is_the_same_in_one_scan_and_in_batches(name, model, minimal_unet):
    spec = SamplerSpec(name, 6)
    samples = Sampler(model, spec, batch=8).sample(np.arange(3), 0)
    keys = noise_bank(0, np.arange(3))
    method = spec.build("v")
    x_T = samplers.initial_noise(keys, (8, 8, 1))
    expected = samplers.run_sampler(method, minimal_unet, model.schedule, x_T, keys=keys, steps=6)
    np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_a_trajectory_leads_from_the_noise_to_the_sample(sampler):
    states = sampler.trajectory(np.arange(11), 0, [19, 10, 0])
    assert list(states) == [2, 9, 19], "the chain's own steps, none above the level, or its last"
    x_T = np.asarray(samplers.initial_noise(noise_bank(0, np.arange(11)), sampler.image_shape))
    np.testing.assert_array_equal(states[19], x_T)
    samples = sampler.sample(np.arange(11), 0)
    np.testing.assert_allclose(sampler.decode(x_T, 0), samples, atol=1e-6)


def test_a_step_that_is_taken_twice_is_one_state_of_a_trajectory(model):
    sampler = Sampler(model, SamplerSpec("pndm", 5), batch=2)
    states = sampler.trajectory(np.arange(3), 0, [12, 16])
    assert {t: xt.shape for t, xt in states.items()} == {12: (3, 8, 8, 1), 16: (3, 8, 8, 1)}


def test_predictions_explain_xt(sampler):
    """x_t = s x0_hat + sigma eps_hat, whatever the network says."""
    xt = np.random.default_rng(0).normal(size=(11, *sampler.image_shape)).astype(np.float32)
    t = np.arange(11) % 20
    x0_hat, eps_hat = sampler.predict(xt, t)
    explained = diffusion.add_noise(
        sampler.model.schedule, jnp.asarray(x0_hat), jnp.asarray(eps_hat), jnp.asarray(t)
    )
    np.testing.assert_allclose(explained, xt, atol=1e-5)


def test_denoising_starts_at_the_chains_step_that_is_not_above(sampler):
    x0 = jax.random.uniform(jax.random.key(0), (5, 8, 8, 1), minval=-1.0)
    np.testing.assert_array_equal(sampler.denoise(x0, 12, 0), sampler.denoise(x0, 15, 0))
    assert np.abs(sampler.denoise(x0, 12, 0) - sampler.denoise(x0, 18, 0)).max() > 1e-3


@pytest.mark.slow
def test_images_return_through_their_noise(model):
    sampler = Sampler(model, SamplerSpec("ddim", 20), batch=4)
    x0 = 0.1 * np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype(np.float32)
    x_T, sampled, error = sampler.invert(x0, iterations=8)
    assert x_T.shape == sampled.shape == x0.shape
    rms = np.sqrt(np.mean((sampled - x0) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(error, rms, rtol=1e-4)
    rough = sampler.invert(x0, iterations=1)[2]
    assert error.max() < rough.max()


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_samples_of_a_network_in_bfloat16(model, method):
    """A product of bfloat16 is off by 2^-8 at most, and so the samples: the sums are float32."""
    spec = SamplerSpec(method, 6)
    exact = Sampler(model, spec, batch=8)
    sampler = Sampler(model, spec, batch=8, dtype="bfloat16")
    indices = np.arange(5)
    samples = sampler.sample(indices, 0)
    assert samples.dtype == np.float32
    difference = samples - exact.sample(indices, 0)
    assert 1e-5 < np.sqrt(np.mean(np.square(difference))) < 2**-8
    assert np.abs(difference).max() < 2**-5
    x0_hat, eps_hat = sampler.predict(samples, np.full(5, 7))
    for predicted, expected in zip(
        (x0_hat, eps_hat), exact.predict(samples, np.full(5, 7)), strict=True
    ):
        np.testing.assert_array_equal(predicted, expected)  # what is measured is float32


def test_another_dtype_is_refused_in_a_sentence(model):
    with pytest.raises(ValueError, match="must be one of float32, bfloat16, got 'float16'"):
        Sampler(model, DDIM, dtype="float16")


def test_other_params_give_other_samples(sampler, minimal_unet):
    samples = sampler.sample(np.arange(3), 0)
    sampler.set_params(UNet(minimal_unet.config, rngs=nnx.Rngs(1)))
    assert np.abs(sampler.sample(np.arange(3), 0) - samples).max() > 1e-3
    sampler.set_params(minimal_unet)
    np.testing.assert_array_equal(sampler.sample(np.arange(3), 0), samples)


@pytest.mark.parametrize(("count", "batch"), [(11, 8), (3, 8), (8, 4)])
def test_progress_rises_and_reaches_its_end_once(count, batch, model):
    reports = []

    def progress(task, done, total, note):
        reports.append((task, done, total))

    Sampler(model, DDIM, batch=batch, progress=progress).sample(np.arange(count), 0)
    done = [report[1] for report in reports]
    assert {report[::2] for report in reports} == {("sample", count)}
    assert done == sorted(set(done)), "nothing is reported twice"
    assert done[0] > 0, "nothing is reported before work is done"
    assert done[-1] == count


def test_a_network_of_any_kind_is_sampled_from(minimal_unet):
    network = MLP(nnx.Rngs(0))
    model = with_network(Model(minimal_unet, Schedule.linear(20), "eps", {}), network)
    sampler = Sampler(model, DDIM, batch=4)
    samples = sampler.sample(np.arange(6), 0)
    assert samples.shape == (6, 4, 2, 1)
    fixed = Sampler(model, DDIM, batch=4, label=2).sample(np.arange(6), 0)
    np.testing.assert_array_equal(fixed[2::3], samples[2::3])
    assert np.abs(fixed[:2] - samples[:2]).max() > 1e-3
    with pytest.raises(ValueError, match="number of classes, 3, got 3"):
        Sampler(model, DDIM, label=3)


@pytest.mark.parametrize("network", [object(), nnx.Linear(2, 2, rngs=nnx.Rngs(0)), jnp.tanh])
def test_what_is_no_network_is_refused_in_a_sentence(network, model):
    with pytest.raises(ValueError, match=r"must be an nnx\.Module that is called") as raised:
        Sampler(with_network(model, network), DDIM)
    assert "\n" not in str(raised.value)


def test_the_image_size_may_be_the_models_or_the_networks_own(minimal_unet):
    shaped = Model(minimal_unet, Schedule.linear(20), "v", {}, image_shape=(4, 8, 1))
    assert Sampler(shaped, DDIM, batch=4).sample(np.arange(2), 0).shape == (2, 4, 8, 1)
    sized = UNet(dataclasses.replace(minimal_unet.config, sample_size=(8, 4)), rngs=nnx.Rngs(0))
    assert Sampler(Model(sized, Schedule.linear(20), "v", {}), DDIM).image_shape == (8, 4, 1)
    with pytest.raises(ValueError, match=r"give image_shape=\(height, width, channels\)"):
        Sampler(Model(minimal_unet, Schedule.linear(20), "v", {}), DDIM)
