import jax
import numpy as np
import pytest

from jaxdiff.diffusion import Schedule
from jaxdiff.measures.artifacts import Predictions
from jaxdiff.measures.quality import mean_eps_slope, quality_gate


def test_gate_and_disagreement():
    labels = np.array([6] * 6 + [9] * 2 + [3] + [10])
    second_labels = np.array([6] * 5 + [9] * 3 + [4] + [6])
    estimates = quality_gate(Predictions(labels, np.eye(11)[labels], second_labels), (6, 9))
    assert [estimate.name for estimate in estimates] == [
        "gate",
        "other_class",
        "no_class",
        "disagreement",
    ]
    values = [estimate.value for estimate in estimates]
    assert values == pytest.approx([0.8, 0.1, 0.1, 0.2]), "3 and 4 are both neither: they agree"


@pytest.mark.parametrize(("gain", "error"), [(1.0, 1e-4), (0.0, 1e-4), (0.6, 1e-4)])
def test_the_slope_is_the_gain_of_the_mean(gain, error):
    """A network that changes nothing but the mean of eps; gain 0 cannot output it."""
    key = jax.random.key(0)
    eps = jax.random.normal(key, (30, 6, 6, 2))

    def predict_eps(xt, t):
        mean = eps.mean(axis=(1, 2), keepdims=True)
        return eps - mean + gain * mean

    slope = mean_eps_slope(predict_eps, Schedule.linear(10), 0 * eps, eps)
    assert slope.value == pytest.approx(gain, abs=error)
    assert slope.low <= slope.value <= slope.high
    assert slope.n == 30
