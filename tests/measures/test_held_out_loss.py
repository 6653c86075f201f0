"""The loss of unseen images, of predictors whose loss has a closed form."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from jaxdiff.datasets.images import to_float
from jaxdiff.diffusion import Schedule
from jaxdiff.measures.held_out_loss import (
    STRATA,
    draw_timesteps,
    held_out_loss,
    stratified_losses,
    summarize_losses,
)
from tests.measures.fake_artifacts import FakeSettings, draw_split, make_artifacts

SCHEDULE = Schedule.linear(1000)
X0 = to_float(draw_split(45, 15, seed=0).images)
STEPS = draw_timesteps(SCHEDULE, len(X0))


def predict_zero(xt, t):
    return np.zeros(xt.shape, np.float32)


def predict_off_by(constant, x0):
    """The true eps of these images, and a constant too much."""

    def predict_eps(xt, t):
        alpha_bar = np.asarray(SCHEDULE.alpha_bar)[np.asarray(t)][:, None, None, None]
        eps = (np.asarray(xt) - np.sqrt(alpha_bar) * np.asarray(x0)) / np.sqrt(1 - alpha_bar)
        return (eps + constant).astype(np.float32)

    return predict_eps


def test_every_image_has_a_step_in_each_stratum():
    assert STEPS.shape == (STRATA, 60)
    edges = np.linspace(0, 1000, STRATA + 1)[:, None]
    steps = draw_timesteps(SCHEDULE, 60)
    assert (steps >= np.floor(edges[:-1])).all()
    assert (steps < edges[1:]).all()
    assert len(np.unique(STEPS[0])) > 20
    few = draw_timesteps(Schedule.linear(4), 5)
    assert few.min() == 0
    assert few.max() == 3


def test_a_predictor_of_zeros_loses_1():
    losses = stratified_losses(predict_zero, SCHEDULE, X0, STEPS)
    assert losses.dtype == np.float32
    # Mean of 16 x 60 x 64 squares of normal numbers, whose variance is 2.
    assert losses.mean() == pytest.approx(1, abs=4 * math.sqrt(2 / losses.size / 64))
    loss = summarize_losses(losses, STEPS, SCHEDULE)[0]
    assert loss.low < 1 < loss.high
    assert loss.n == 60


def test_a_predictor_that_is_off_by_a_constant():
    losses = stratified_losses(predict_off_by(0.5, X0), SCHEDULE, X0, STEPS)
    np.testing.assert_allclose(losses, 0.25, rtol=1e-2)  # float32 at little noise
    loss, *bands, x0_loss = summarize_losses(losses, STEPS, SCHEDULE)
    assert float(loss) == pytest.approx(0.25, rel=1e-3)
    assert [band.labels["t"] for band in bands] == [125, 375, 625, 875]
    assert [float(band) for band in bands] == pytest.approx([0.25] * 4, rel=1e-3)
    alpha_bar = np.asarray(SCHEDULE.alpha_bar, np.float64)[STEPS]
    # x0 is off by sigma / s times as much.
    expected = 0.25 * np.mean((1 - alpha_bar) / alpha_bar)
    assert x0_loss.name == "x0_loss"
    assert float(x0_loss) == pytest.approx(expected, rel=1e-3)


def test_the_noise_is_the_same_at_every_call_and_for_any_number_of_images():
    seen = []

    def predict_eps(xt, t):
        seen.append((np.asarray(xt), np.asarray(t)))
        return np.zeros(xt.shape, np.float32)

    for count in (60, 60, 7):
        steps = draw_timesteps(SCHEDULE, count)
        stratified_losses(predict_eps, SCHEDULE, X0[:count], steps)
    for first, second, few in zip(seen[:16], seen[16:32], seen[32:], strict=True):
        for a, b, c in zip(first, second, few, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(a[:7], c, rtol=1e-6)


def test_the_measure_takes_as_many_unseen_images_as_its_setting_says():
    artifacts = make_artifacts(settings=FakeSettings(held_out=12))
    x0 = to_float(artifacts.unseen_images[:12])
    artifacts.sampler = SimpleNamespace(
        model=SimpleNamespace(schedule=SCHEDULE),
        predict=lambda xt, t: (None, predict_off_by(0.1, x0)(xt, t)),
    )
    estimates = held_out_loss(artifacts)
    assert artifacts.unseen_counts == [12]
    assert float(estimates[0]) == pytest.approx(0.01, rel=1e-2)
    arrays = artifacts.arrays["held_out_loss.npz"]
    assert arrays["losses"].shape == arrays["t"].shape == (STRATA, 12)
    assert arrays["losses"].dtype == np.float32
    assert arrays["t"].dtype.kind == "i"
