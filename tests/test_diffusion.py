"""Schedules, targets and samplers against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusion, samplers
from jaxdiff.diffusion import SCHEDULES, Schedule

KEYS = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(6))


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_from_signal_to_noise(name):
    schedule = getattr(Schedule, name)(1000)
    assert schedule.name == name
    assert schedule.alpha_bar.shape == (1000,)
    assert (np.diff(schedule.alpha_bar) < 0).all()
    assert schedule.alpha_bar[0] > 0.99
    assert schedule.alpha_bar[-1] < 0.01


def test_linear_schedule_is_ho_et_al():
    betas = np.linspace(1e-4, 0.02, 1000)
    steps = [0, 499, 999]
    expected = np.cumprod(1 - betas)[steps]
    np.testing.assert_allclose(Schedule.linear(1000).alpha_bar[steps], expected, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_target_gives_back_image_and_noise(prediction):
    schedule = Schedule.linear(1000)
    t = jnp.array([0, 300, 999])
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
    xt = diffusion.add_noise(schedule, x0, eps, t)
    target = diffusion.target(schedule, prediction, x0, eps, t)
    x0_hat, eps_hat = diffusion.to_x0_and_eps(schedule, prediction, target, xt, t)
    np.testing.assert_allclose(x0_hat[:2], x0[:2], atol=1e-4)
    np.testing.assert_allclose(eps_hat[1:], eps[1:], atol=1e-4)
    with pytest.raises(Exception, match=r"noise|Literal|violates"):
        diffusion.target(schedule, "noise", x0, eps, t)


def gaussian_predictor(schedule, variance):
    """The exact eps of data N(0, variance I): sigma x_t / (s^2 variance + sigma^2)."""

    def predict(xt, t):
        s, sigma = schedule.signal_and_noise(t, xt.ndim)
        return sigma * xt / (s**2 * variance + sigma**2)

    return predict


def alpha_bar_pairs(schedule, sampling_steps):
    """alpha_bar at each step of the chain and at the step after it."""
    t = samplers.timesteps(schedule, sampling_steps)
    alpha_bar = schedule.alpha_bar[t].astype(np.float64)
    return list(zip(alpha_bar, np.append(alpha_bar[1:], 1.0), strict=True))


def ddim_gain(schedule, variance, sampling_steps):
    """What DDIM with the exact eps of N(0, v I) multiplies x_T by.

    Eq. 12 of Song et al. with x0 = s v x / d, d = s^2 v + sigma^2.
    """
    gain = 1.0
    for alpha_bar, next_alpha_bar in alpha_bar_pairs(schedule, sampling_steps):
        d = alpha_bar * variance + 1 - alpha_bar
        signal = np.sqrt(next_alpha_bar * alpha_bar) * variance
        gain *= (signal + np.sqrt((1 - next_alpha_bar) * (1 - alpha_bar))) / d
    return gain


def ddpm_variance(schedule, variance, sampling_steps):
    """The variance of DDPM's samples with the exact eps of N(0, v I): a linear recursion."""
    spread = 1.0
    for alpha_bar, next_alpha_bar in alpha_bar_pairs(schedule, sampling_steps):
        alpha = alpha_bar / next_alpha_bar
        d = alpha_bar * variance + 1 - alpha_bar
        x0_weight = np.sqrt(next_alpha_bar) * (1 - alpha) / (1 - alpha_bar)
        xt_weight = np.sqrt(alpha) * (1 - next_alpha_bar) / (1 - alpha_bar)
        gain = x0_weight * np.sqrt(alpha_bar) * variance / d + xt_weight
        noise = (1 - alpha) * (1 - next_alpha_bar) / (1 - alpha_bar)
        spread = gain**2 * spread + noise
    return spread


def test_ddim_is_the_closed_form_on_gaussian_data():
    schedule = Schedule.linear(1000)
    x_T = samplers.initial_noise(KEYS, (4, 4, 1))
    samples = samplers.ddim(gaussian_predictor(schedule, 0.04), schedule, x_T, KEYS, steps=50)
    expected = ddim_gain(schedule, 0.04, 50) * x_T
    np.testing.assert_allclose(samples, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim])
def test_noisy_samplers_have_the_variance_of_the_closed_form(sampler):
    """DDPM, and DDIM at eta = 1, which is the same chain."""
    schedule = Schedule.linear(1000)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(256))
    x_T = samplers.initial_noise(keys, (8, 8, 1))
    options = {"eta": 1.0} if sampler is samplers.ddim else {}
    predict = gaussian_predictor(schedule, 0.04)
    samples = sampler(predict, schedule, x_T, keys, steps=50, **options)
    expected = ddpm_variance(schedule, 0.04, 50) ** 0.5
    # 4 standard errors of 16,384 values
    assert float(samples.std()) == pytest.approx(expected, rel=0.02)


def test_ddim_with_a_perfect_image_returns_it_clipped():
    schedule = Schedule.linear(100)
    image = jnp.linspace(-1.5, 1.5, 16).reshape(1, 4, 4, 1)
    x_T = samplers.initial_noise(KEYS[:1], (4, 4, 1))
    sample = samplers.ddim(lambda xt, t: image, schedule, x_T, KEYS[:1], prediction="x0", steps=10)
    np.testing.assert_allclose(sample, jnp.clip(image, -1, 1), atol=1e-6)


def test_samples_do_not_depend_on_their_neighbors():
    schedule = Schedule.linear(100)
    predict = gaussian_predictor(schedule, 0.5)

    def sample(keys):
        x_T = samplers.initial_noise(keys, (2, 2, 1))
        return samplers.ddpm(predict, schedule, x_T, keys, steps=10)

    np.testing.assert_allclose(sample(KEYS)[3:], sample(KEYS[3:]), atol=1e-6)


def test_timesteps_are_trailing():
    schedule = Schedule.linear(1000)
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4), [999, 749, 499, 249])
    np.testing.assert_array_equal(samplers.timesteps(Schedule.linear(10), 10), np.arange(10)[::-1])
    assert len(samplers.timesteps(schedule, 300)) == 300
    with pytest.raises(ValueError, match="11 sampling steps"):
        samplers.timesteps(Schedule.linear(10), 11)


def test_timesteps_leading_and_linspace():
    schedule = Schedule.linear(1000)
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4, "leading", 1), [751, 501, 251, 1])
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4, "linspace"), [999, 666, 333, 0])
    with pytest.raises(ValueError, match="an offset of 1 puts the first of 1000 steps at 1000"):
        samplers.timesteps(schedule, 1000, "leading", 1)


@pytest.mark.parametrize(
    ("iterations", "largest_error", "largest_round_trip_error"), [(1, 0.2, 0.1), (8, 0.01, 0.005)]
)
def test_inversion_is_undone_by_ddim(iterations, largest_error, largest_round_trip_error):
    """On Gaussian data the exact inverse is known; iterations bring the inversion nearer to it."""
    schedule = Schedule.linear(1000)
    predict = gaussian_predictor(schedule, 0.5)
    x0 = 0.5**0.5 * samplers.initial_noise(KEYS, (4, 4, 1))
    x_T, decoded, rms = samplers.round_trip(predict, schedule, x0, steps=50, iterations=iterations)
    expected_rms = jnp.sqrt(jnp.mean((decoded - x0) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(rms, expected_rms, rtol=1e-5)
    error = jnp.abs(x_T - x0 / ddim_gain(schedule, 0.5, 50)).max()
    assert float(error) < largest_error
    assert float(rms.max()) < largest_round_trip_error


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_first_step():
    betas = np.linspace(1e-4, 0.02, 1000)
    rescaled = Schedule.zero_terminal_snr(betas).alpha_bar
    assert rescaled[-1] == 0.0
    assert rescaled[0] == pytest.approx(1 - 1e-4, rel=1e-6)
