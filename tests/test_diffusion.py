import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusion, samplers
from jaxdiff.diffusion import Schedule

KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(6))


@pytest.mark.parametrize("make", [Schedule.linear, Schedule.scaled_linear, Schedule.cosine])
def test_schedules_fall_from_signal_to_noise(make):
    alpha_bar = make(1000).alpha_bar
    assert alpha_bar.shape == (1000,)
    assert (np.diff(alpha_bar) < 0).all()
    assert alpha_bar[0] > 0.99
    assert alpha_bar[-1] < 0.01


def test_linear_schedule_is_ho_et_al():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(Schedule.linear(1000).alpha_bar[[0, 499, 999]], np.cumprod(1 - betas)[[0, 499, 999]], rtol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_target_gives_back_image_and_noise(prediction):
    schedule, t = Schedule.linear(1000), jnp.array([0, 300, 999])
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
    xt = diffusion.add_noise(schedule, x0, eps, t)
    wanted = diffusion.target(schedule, prediction, x0, eps, t)
    x0_hat, eps_hat = diffusion.to_x0_and_eps(schedule, prediction, wanted, xt, t)
    np.testing.assert_allclose(x0_hat[:2], x0[:2], atol=1e-4)
    np.testing.assert_allclose(eps_hat[1:], eps[1:], atol=1e-4)
    with pytest.raises(Exception, match=r"noise|Literal|violates"):
        diffusion.target(schedule, "noise", x0, eps, t)


def gaussian(schedule, variance):
    """The exact eps of data N(0, variance I): sigma x_t / (s^2 variance + sigma^2)."""

    def predict(xt, t):
        s, sigma = schedule.signal_and_noise(t, xt.ndim)
        return sigma * xt / (s**2 * variance + sigma**2)

    return predict


def test_samplers_reach_the_variance_of_gaussian_data():
    """With the exact denoiser of N(0, v I) every sampler must return about N(0, v I)."""
    schedule, variance = Schedule.linear(1000), 0.04
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(64))
    x_T = samplers.initial_noise(keys, (8, 8, 1))
    predict = gaussian(schedule, variance)
    for run, options, tolerance in (
        (samplers.ddim, {"steps": 200}, 0.06), (samplers.ddim, {"steps": 200, "eta": 1.0}, 0.06),
        (samplers.ddpm, {"steps": 500}, 0.06),
    ):  # fmt: skip
        drawn = jax.jit(lambda x, k, run=run, options=options: run(predict, schedule, x, k, **options))(x_T, keys)
        assert abs(float(drawn.std()) / variance**0.5 - 1) < tolerance


def test_ddim_with_a_perfect_image_returns_it_clipped():
    schedule, image = Schedule.linear(100), jnp.linspace(-1.5, 1.5, 16).reshape(1, 4, 4, 1)
    x_T = samplers.initial_noise(KEYS[:1], (4, 4, 1))
    drawn = samplers.ddim(lambda xt, t: image, schedule, x_T, KEYS[:1], prediction="x0", steps=10)
    np.testing.assert_allclose(drawn, jnp.clip(image, -1, 1), atol=1e-6)


def test_samples_do_not_depend_on_their_neighbors():
    schedule, predict = Schedule.linear(100), gaussian(Schedule.linear(100), 0.5)
    whole = samplers.ddpm(predict, schedule, samplers.initial_noise(KEYS, (2, 2, 1)), KEYS, steps=10)
    part = samplers.ddpm(predict, schedule, samplers.initial_noise(KEYS[3:], (2, 2, 1)), KEYS[3:], steps=10)
    np.testing.assert_allclose(whole[3:], part, atol=1e-6)


def test_timesteps_are_trailing():
    np.testing.assert_array_equal(samplers.timesteps(Schedule.linear(1000), 4), [999, 749, 499, 249])
    np.testing.assert_array_equal(samplers.timesteps(Schedule.linear(10), 10), np.arange(10)[::-1])
    assert len(samplers.timesteps(Schedule.linear(1000), 300)) == 300
    with pytest.raises(ValueError, match="11 sampling steps"):
        samplers.timesteps(Schedule.linear(10), 11)
