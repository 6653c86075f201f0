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
    np.testing.assert_allclose(
        Schedule.linear(1000).alpha_bar[[0, 499, 999]],
        np.cumprod(1 - betas)[[0, 499, 999]],
        rtol=1e-6,
    )


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


def chain(schedule, steps):
    alpha_bar = schedule.alpha_bar[samplers.timesteps(schedule, steps)].astype(np.float64)
    return zip(alpha_bar, np.append(alpha_bar[1:], 1.0), strict=True)


def test_ddim_is_the_closed_form_on_gaussian_data():
    """With the exact eps of N(0, v I) a DDIM step multiplies by a number: Eq. 12 of Song et al. with x0 = s v x / d."""
    schedule, variance, gain = Schedule.linear(1000), 0.04, 1.0
    for now, before in chain(schedule, 50):
        d = now * variance + 1 - now
        gain *= (np.sqrt(before * now) * variance + np.sqrt((1 - before) * (1 - now))) / d
    x_T = samplers.initial_noise(KEYS, (4, 4, 1))
    drawn = samplers.ddim(gaussian(schedule, variance), schedule, x_T, KEYS, steps=50)
    np.testing.assert_allclose(drawn, gain * x_T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim])
def test_noisy_samplers_have_the_variance_of_the_closed_form(sampler):
    """DDPM, and DDIM at eta = 1, which is the same chain: the variance of x_t follows a linear recursion."""
    schedule, variance, spread = Schedule.linear(1000), 0.04, 1.0
    for now, before in chain(schedule, 50):
        alpha, d = now / before, now * variance + 1 - now
        gain = np.sqrt(before) * (1 - alpha) / (1 - now) * np.sqrt(now) * variance / d
        gain += np.sqrt(alpha) * (1 - before) / (1 - now)
        spread = gain**2 * spread + (1 - alpha) * (1 - before) / (1 - now)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(256))
    options = {"eta": 1.0} if sampler is samplers.ddim else {}
    drawn = sampler(
        gaussian(schedule, variance),
        schedule,
        samplers.initial_noise(keys, (8, 8, 1)),
        keys,
        steps=50,
        **options,
    )
    assert float(drawn.std()) == pytest.approx(
        spread**0.5, rel=0.02
    )  # 4 standard errors of 16,384 values


def test_ddim_with_a_perfect_image_returns_it_clipped():
    schedule, image = Schedule.linear(100), jnp.linspace(-1.5, 1.5, 16).reshape(1, 4, 4, 1)
    x_T = samplers.initial_noise(KEYS[:1], (4, 4, 1))
    drawn = samplers.ddim(lambda xt, t: image, schedule, x_T, KEYS[:1], prediction="x0", steps=10)
    np.testing.assert_allclose(drawn, jnp.clip(image, -1, 1), atol=1e-6)


def test_samples_do_not_depend_on_their_neighbors():
    schedule, predict = Schedule.linear(100), gaussian(Schedule.linear(100), 0.5)
    whole = samplers.ddpm(
        predict, schedule, samplers.initial_noise(KEYS, (2, 2, 1)), KEYS, steps=10
    )
    part = samplers.ddpm(
        predict, schedule, samplers.initial_noise(KEYS[3:], (2, 2, 1)), KEYS[3:], steps=10
    )
    np.testing.assert_allclose(whole[3:], part, atol=1e-6)


def test_timesteps_are_trailing():
    np.testing.assert_array_equal(
        samplers.timesteps(Schedule.linear(1000), 4), [999, 749, 499, 249]
    )
    np.testing.assert_array_equal(samplers.timesteps(Schedule.linear(10), 10), np.arange(10)[::-1])
    assert len(samplers.timesteps(Schedule.linear(1000), 300)) == 300
    with pytest.raises(ValueError, match="11 sampling steps"):
        samplers.timesteps(Schedule.linear(10), 11)


def test_timesteps_leading_and_linspace():
    schedule = Schedule.linear(1000)
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4, "leading", 1), [751, 501, 251, 1])
    np.testing.assert_array_equal(samplers.timesteps(schedule, 4, "linspace"), [999, 666, 333, 0])
    with pytest.raises(ValueError, match="an offset of 1 puts the first of 1000 steps at 1000"):
        samplers.timesteps(schedule, 1000, "leading", 1)


@pytest.mark.parametrize("iterations", [1, 8])
def test_inversion_is_undone_by_ddim_and_iterations_bring_it_nearer(iterations):
    """On Gaussian data a DDIM step multiplies by a number, so that the exact inverse is known."""
    schedule, variance = Schedule.linear(1000), 0.5
    x0 = variance**0.5 * samplers.initial_noise(KEYS, (4, 4, 1))
    x_T, again, error = samplers.round_trip(
        gaussian(schedule, variance), schedule, x0, steps=50, iterations=iterations
    )
    gain = 1.0
    for now, before in chain(schedule, 50):
        d = now * variance + 1 - now
        gain *= (np.sqrt(before * now) * variance + np.sqrt((1 - before) * (1 - now))) / d
    np.testing.assert_allclose(
        error, jnp.sqrt(jnp.mean((again - x0) ** 2, axis=(1, 2, 3))), rtol=1e-5
    )
    exact = float(jnp.abs(x_T - x0 / gain).max())
    assert exact < (0.2 if iterations == 1 else 0.01)
    assert float(error.max()) < (0.1 if iterations == 1 else 0.005)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step():
    betas = np.linspace(1e-4, 0.02, 1000)
    rescaled = Schedule.zero_terminal_snr(betas).alpha_bar
    assert rescaled[-1] == 0.0
    assert rescaled[0] == pytest.approx(1 - 1e-4, rel=1e-6)
