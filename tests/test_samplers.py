"""Samplers against closed forms: with the exact eps of Gaussian data, a step is linear."""

import dataclasses
import itertools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusers_scheduler, multistep, samplers
from jaxdiff.diffusion import Prediction, Schedule

KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(6))


def gaussian(schedule, variance):
    """The exact eps of data N(0, variance I): sigma x_t / (s^2 variance + sigma^2)."""

    def predict(xt, t):
        s, sigma = schedule.signal_and_noise(t, xt.ndim)
        return sigma * xt / (s**2 * variance + sigma**2)

    return predict


def single_image(schedule, image, prediction):
    """The exact output of a network trained on a single image."""

    def predict(xt, t):
        s, sigma = schedule.signal_and_noise(t, xt.ndim)
        eps = (xt - s * image) / sigma
        return {"eps": eps, "v": s * eps - sigma * image, "x0": jnp.broadcast_to(image, xt.shape)}[
            prediction
        ]

    return predict


def alpha_bar_pairs(schedule, steps):
    """alpha_bar at both ends of each step, in double precision."""
    alpha_bar = schedule.alpha_bar[samplers.timesteps(schedule, steps)].astype(np.float64)
    return zip(alpha_bar, np.append(alpha_bar[1:], 1.0), strict=True)


def ddim_gain(schedule, variance, steps):
    """What DDIM multiplies x_T by: Eq. 12 of Song et al. with x0 = s v x / d."""
    gain = 1.0
    for start, end in alpha_bar_pairs(schedule, steps):
        d = start * variance + 1 - start
        gain *= (np.sqrt(end * start) * variance + np.sqrt((1 - end) * (1 - start))) / d
    return gain


def test_ddim_is_the_closed_form_on_gaussian_data():
    schedule = Schedule.linear(1000)
    variance = 0.04
    x_T = samplers.initial_noise(KEYS, (4, 4, 1))
    x0 = samplers.ddim(gaussian(schedule, variance), schedule, x_T, KEYS, steps=50)
    expected = ddim_gain(schedule, variance, 50) * x_T
    np.testing.assert_allclose(x0, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("sampler", "options"), [(samplers.ddpm, {}), (samplers.ddim, {"eta": 1.0})]
)
def test_noisy_samplers_have_the_variance_of_the_closed_form(sampler, options):
    """DDIM at eta = 1 is DDPM's chain: the variance of x_t follows a linear recursion."""
    schedule = Schedule.linear(1000)
    data_variance = 0.04
    variance = 1.0
    for start, end in alpha_bar_pairs(schedule, 50):
        alpha = start / end
        d = start * data_variance + 1 - start
        gain = np.sqrt(end) * (1 - alpha) / (1 - start) * np.sqrt(start) * data_variance / d
        gain += np.sqrt(alpha) * (1 - end) / (1 - start)
        variance = gain**2 * variance + (1 - alpha) * (1 - end) / (1 - start)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(256))
    x_T = samplers.initial_noise(keys, (8, 8, 1))
    x0 = sampler(gaussian(schedule, data_variance), schedule, x_T, keys, steps=50, **options)
    # 4 standard errors of 16,384 values
    assert float(x0.std()) == pytest.approx(variance**0.5, rel=0.02)


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_a_perfect_image_is_returned_clipped(name):
    schedule = Schedule.linear(100)
    image = jnp.linspace(-1.5, 1.5, 16).reshape(1, 4, 4, 1)
    method = samplers.SamplerSpec(name).build("x0")
    x_T = samplers.initial_noise(KEYS[:1], (4, 4, 1))
    predict = single_image(schedule, image, "x0")
    x0 = samplers.run_sampler(method, predict, schedule, x_T, keys=KEYS[:1], steps=10)
    np.testing.assert_allclose(x0, jnp.clip(image, -1, 1), atol=1e-6)


def test_samples_do_not_depend_on_their_neighbors():
    schedule = Schedule.linear(100)
    predict = gaussian(schedule, 0.5)
    x_T = samplers.initial_noise(KEYS, (2, 2, 1))
    batch = samplers.ddpm(predict, schedule, x_T, KEYS, steps=10)
    part = samplers.ddpm(predict, schedule, x_T[3:], KEYS[3:], steps=10)
    np.testing.assert_allclose(batch[3:], part, atol=1e-6)


@pytest.mark.parametrize(("method", "order"), [(samplers.DDIM, 1), (samplers.Heun, 2)])
def test_order_of_convergence(method, order):
    """Against the probability-flow ODE of Gaussian data, whose solution is known.

    x / sqrt(alpha_bar) is proportional to sqrt(variance + sigma^2). The chain ends at t = 0, where
    sigma is small but not 0: the Euler step to sigma = 0 that Heun's method ends with otherwise has
    an error of first order in the smallest alpha_bar.
    """
    schedule = Schedule.linear(1921)
    variance = 0.3
    sampler = method(clip=False, spacing="linspace", to_one=False)
    x_T = jnp.ones((6, 1))
    alpha_bar = schedule.alpha_bar[[-1, 0]].astype(np.float64)
    sigma_squared = (1 - alpha_bar) / alpha_bar
    ratio = (variance + sigma_squared[1]) / (variance + sigma_squared[0])
    exact = np.sqrt(alpha_bar[1] / alpha_bar[0] * ratio)
    errors = []
    for steps in (21, 41, 81):
        x0 = samplers.run_sampler(
            sampler, gaussian(schedule, variance), schedule, x_T, keys=KEYS, steps=steps
        )
        errors.append(abs(float(x0[0, 0]) / exact - 1))
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.1)


def test_heun_is_nearer_than_ddim_with_as_many_calls_of_the_network():
    """From pure noise to the clean image, the Euler step at the end included."""
    schedule = Schedule.linear(1000)
    predict = gaussian(schedule, 0.3)
    x_T = jnp.ones((6, 1))

    def sample(method, steps):
        x0 = samplers.run_sampler(method, predict, schedule, x_T, keys=KEYS, steps=steps)
        return float(x0[0, 0])

    exact = sample(samplers.DDIM(clip=False), 1000)
    error = abs(sample(samplers.Heun(clip=False), 20) - exact)
    assert error < 0.5 * abs(sample(samplers.DDIM(clip=False), 40) - exact)


def test_heun_from_a_very_large_sigma_stays_in_bounds():
    """The cosine schedule begins at sigma = 20,000, from where the correction overshoots."""
    schedule = Schedule.cosine(1000)
    x_T = samplers.initial_noise(KEYS, (2, 2, 1))
    predict = gaussian(schedule, 0.1)
    method = samplers.Heun()
    x0 = samplers.run_sampler(method, predict, schedule, x_T, keys=KEYS, steps=20)
    reference = samplers.ddim(predict, schedule, x_T, KEYS, steps=500)
    assert float(jnp.abs(x0 - reference).max()) < 0.05


def test_heun_refuses_an_infinite_sigma():
    schedule = Schedule.zero_terminal_snr(np.linspace(1e-4, 0.02, 100))
    with pytest.raises(ValueError, match="needs alpha_bar > 0 at its first step"):
        samplers.Heun(prediction="v").chain(schedule, 10)
    assert samplers.Heun(spacing="leading").chain(schedule, 10).t[0] == 90


def test_pndm_weights_sum_to_one_and_the_first_step_is_repeated():
    np.testing.assert_allclose(multistep.WEIGHTS.sum(axis=1), 1.0, atol=1e-6)
    chain = samplers.PNDM(offset=1).chain(Schedule.scaled_linear(), 10)
    assert chain.t.tolist() == [901, 801, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert chain.is_repeated.tolist() == [False, True] + [False] * 9


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_pndm_is_ddim_where_the_network_sees_one_image(prediction):
    """The exact eps of a single image is constant along the path, so are its sums; v turns."""
    schedule = Schedule.scaled_linear()
    predict = single_image(schedule, jnp.full((1, 2, 2, 1), 0.3), prediction)
    x_T = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 1)), jnp.float32)
    options = {"prediction": prediction, "spacing": "leading", "offset": 1, "to_one": False}
    expected = samplers.ddim(
        predict, schedule, x_T, KEYS[:1], steps=10, clip=0.0, stride=True, **options
    )
    method = samplers.PNDM(**options)
    x0 = samplers.run_sampler(method, predict, schedule, x_T, keys=KEYS[:1], steps=10)
    np.testing.assert_allclose(x0, expected, atol=1e-4 if prediction == "eps" else 1e-2)
    with pytest.raises(ValueError, match="predicts x0; choose ddim"):
        samplers.PNDM(prediction="x0")


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
@pytest.mark.parametrize("prediction", get_args(Prediction))
def test_a_chain_may_be_entered_in_the_middle(name, prediction):
    """Every sampler turns a noised image into the only one that the network has seen."""
    if (name, prediction) == ("pndm", "x0"):
        pytest.skip("refused")
    schedule = Schedule.linear(100)
    image = jnp.full((1, 2, 2, 1), 0.3)
    method = samplers.SamplerSpec(name, 20).build(prediction)
    start = int(method.chain(schedule, 20).t[10])
    s, sigma = schedule.signal_and_noise(jnp.array([start]), 4)
    xt = s * image + sigma * samplers.initial_noise(KEYS[:1], (2, 2, 1))
    predict = single_image(schedule, image, prediction)
    x0 = samplers.run_sampler(method, predict, schedule, xt, keys=KEYS[:1], steps=20, start=start)
    np.testing.assert_allclose(x0, image, atol=0.02)


def test_timesteps_are_trailing():
    schedule = Schedule.linear(1000)
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4), [999, 749, 499, 249])
    np.testing.assert_array_equal(samplers.timesteps(Schedule.linear(10), 10), np.arange(10)[::-1])
    assert len(samplers.timesteps(schedule, 300)) == 300
    with pytest.raises(ValueError, match="must be 1 to 10, the schedule's, got 11"):
        samplers.timesteps(Schedule.linear(10), 11)


def test_timesteps_leading_and_linspace():
    schedule = Schedule.linear(1000)
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4, "leading", 1), [751, 501, 251, 1])
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4, "linspace"), [999, 666, 333, 0])
    with pytest.raises(ValueError, match="must be below 1000, got 1000 with an offset of 1"):
        samplers.timesteps(schedule, 1000, "leading", 1)


@pytest.mark.parametrize(("iterations", "nearness"), [(1, 0.2), (8, 0.01)])
def test_inversion_is_undone_by_ddim_and_iterations_bring_it_nearer(iterations, nearness):
    schedule = Schedule.linear(1000)
    variance = 0.5
    x0 = variance**0.5 * samplers.initial_noise(KEYS, (4, 4, 1))
    inversion = samplers.round_trip(
        gaussian(schedule, variance), schedule, x0, steps=50, iterations=iterations
    )
    rms = jnp.sqrt(jnp.mean((inversion.x0 - x0) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(inversion.error, rms, rtol=1e-5)
    exact_x_T = x0 / ddim_gain(schedule, variance, 50)
    assert float(jnp.abs(inversion.x_T - exact_x_T).max()) < nearness
    assert float(inversion.error.max()) < nearness / 2
    with pytest.raises(TypeError, match="clip"):
        samplers.ddim_invert(gaussian(schedule, variance), schedule, x0, clip=0.0)


def test_a_spec_takes_the_options_of_its_sampler_from_flat_settings():
    settings = {"method": "ddpm", "steps": 7, "clip": False, "eta": 0.5, "batch": 64, "offset": 1}
    spec = samplers.SamplerSpec.from_settings(settings)
    assert spec == samplers.SamplerSpec("ddpm", 7, {"offset": 1, "clip": False})
    assert spec.build("v") == samplers.DDPM(prediction="v", clip=False, offset=1)
    with pytest.raises(ValueError, match=r"one of spacing, .*, got 'eta'; remove it"):
        samplers.SamplerSpec("ddpm", options={"eta": 0.5})
    with pytest.raises(ValueError, match="the sampler must be one of ddim, ddpm"):
        samplers.SamplerSpec("euler")


def test_a_name_is_registered_by_one_module():
    class Other(samplers.SamplingMethod):
        pass

    assert samplers.register_sampler("ddim")(samplers.DDIM) is samplers.SAMPLERS["ddim"]
    with pytest.raises(ValueError, match=r"is also in jaxdiff\.samplers; choose another name"):
        samplers.register_sampler("ddim")(Other)


def test_options_are_the_fields_of_a_dataclass():
    assert dataclasses.is_dataclass(samplers.Heun)
    assert samplers.Heun.option_names() == ("spacing", "offset", "to_one", "stride", "clip")


def test_a_sampler_without_a_diffusers_scheduler_is_not_converted():
    settings = {"schedule": "linear", "steps": 100, "prediction": "eps"}
    with pytest.raises(ValueError, match="one of ddpm, ddim to become a diffusers scheduler"):
        diffusers_scheduler.from_settings(settings, {"method": "heun", "clip": True})
