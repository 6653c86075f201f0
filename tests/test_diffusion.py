"""Schedules and targets against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusion
from jaxdiff.diffusion import SCHEDULES, Schedule


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


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_first_step():
    betas = np.linspace(1e-4, 0.02, 1000)
    rescaled = Schedule.zero_terminal_snr(betas).alpha_bar
    assert rescaled[-1] == 0.0
    assert rescaled[0] == pytest.approx(1 - 1e-4, rel=1e-6)
