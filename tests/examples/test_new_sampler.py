import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from examples.new_sampler import DPMSolver2M
from jaxdiff import samplers
from jaxdiff.diffusion import Schedule
from jaxdiff.models import Model
from jaxdiff.sampling import Sampler
from tests.test_samplers import KEYS, gaussian


def test_it_is_of_second_order_on_gaussian_data():
    """Against the probability-flow ODE: x / sqrt(alpha_bar) goes as sqrt(variance + sigma^2).

    Its steps are those of log(SNR) / 2, which falls evenly with t here.
    """
    half_log_snr = np.linspace(3.0, -3.0, 1921)
    schedule = Schedule(1.0 / (1.0 + np.exp(-2.0 * half_log_snr)))
    variance = 0.3
    method = DPMSolver2M(clip=False, spacing="linspace", to_one=False)
    predict = gaussian(schedule, variance)
    sigma_squared = np.exp(-2.0 * half_log_snr)
    growth = schedule.alpha_bar * (variance + sigma_squared)
    exact = np.sqrt(growth[0] / growth[-1])
    errors = []
    for steps in (21, 41, 81):
        x0 = samplers.run_sampler(
            method, predict, schedule, jnp.ones((6, 1)), keys=KEYS, steps=steps
        )
        errors.append(abs(float(x0[0, 0]) / exact - 1))
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4.0, rel=0.15)


def test_a_model_samples_by_its_name(minimal_unet):
    spec = samplers.SamplerSpec("dpmpp_2m", 6, {"spacing": "leading"})
    model = Model(minimal_unet, Schedule.linear(20), "v", {"data": {"size": 8}})
    samples = Sampler(model, spec, batch=2).sample(np.arange(3), 0)
    assert samples.shape == (3, 8, 8, 1)
    assert np.abs(samples).max() <= 1.0


def test_it_may_start_without_any_signal():
    schedule = Schedule.zero_terminal_snr(np.linspace(1e-4, 0.02, 100))
    x_T = samplers.initial_noise(KEYS, (2, 2, 1))

    def predict(xt, t):
        return jnp.full_like(xt, 0.5)

    method = DPMSolver2M(prediction="x0")
    x0 = samplers.run_sampler(method, predict, schedule, x_T, keys=KEYS, steps=2)
    np.testing.assert_allclose(x0, 0.5, atol=1e-6)
