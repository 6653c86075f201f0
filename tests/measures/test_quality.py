import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import diffusion
from jaxdiff.diffusion import Schedule
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.quality import linear_eps, mean_eps_slope, quality_gate
from jaxdiff.measures.soft_knn import GaussianDenoiser

SCHEDULE = Schedule.linear(1000)


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

    slope = mean_eps_slope(predict_eps, Schedule.linear(10), 0 * eps, eps, 9)
    assert slope.value == pytest.approx(gain, abs=error)
    assert slope.low <= slope.value <= slope.high
    assert slope.n == 30


@pytest.mark.parametrize("t", [100, 300, 999])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_slope_of_a_network_whose_output_is_zero(prediction, t):
    """At T - 1 it is 1 for v and x0, which says nothing of the network; at low t it is not."""
    x0 = jax.random.uniform(jax.random.key(0), (40, 6, 6, 1), minval=-1, maxval=1)
    eps = jax.random.normal(jax.random.key(1), x0.shape)

    def predict_eps(xt, t):
        return diffusion.to_x0_and_eps(SCHEDULE, prediction, 0 * xt, xt, t)[1]

    slope = mean_eps_slope(predict_eps, SCHEDULE, 0 * x0, eps, t).value
    expected = {"eps": 0.0, "v": 1.0 - SCHEDULE.alpha_bar[t], "x0": 1.0}[prediction]
    assert slope == pytest.approx(expected, abs=1e-5)
    if t == 999:
        # With images, whose means differ from each other.
        slope = mean_eps_slope(predict_eps, SCHEDULE, x0, eps, t).value
        assert slope == pytest.approx(0.0 if prediction == "eps" else 1.0, abs=5e-3)


def test_the_linear_denoiser_has_the_slope_of_the_closed_form():
    """Flat images of normal brightness: their mean m is the only thing that there is to know.

    With x_t's mean y = s m + sigma e, Var m = v and Var e = 1 / d, the eps of the conditional mean
    has the gain sigma^2 / d / (s^2 v + sigma^2 / d) of e.
    """
    d = 16
    v = 0.3
    rng = np.random.default_rng(0)
    brightness = v**0.5 * rng.normal(size=(4000, 1, 1, 1))
    images = np.broadcast_to(brightness, (4000, 4, 4, 1)).astype(np.float32)
    predict_eps = linear_eps(GaussianDenoiser.fit(images), SCHEDULE)
    eps = jnp.asarray(rng.normal(size=images.shape), jnp.float32)
    for t in (100, 300):
        slope = mean_eps_slope(predict_eps, SCHEDULE, jnp.asarray(images), eps, t)
        s_square = float(SCHEDULE.alpha_bar[t])
        noise = (1 - s_square) / d
        expected = noise / (s_square * v + noise)
        assert slope.value == pytest.approx(expected, abs=0.02)
