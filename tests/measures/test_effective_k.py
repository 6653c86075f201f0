import numpy as np
import pytest

from jaxdiff.datasets import registry as sources
from jaxdiff.diffusion import Schedule
from jaxdiff.measures import effective_k as ek

SCHEDULE = Schedule.linear(1000)
T = 300


@pytest.fixture(scope="module")
def images():
    digits = sources.open_source("digits", size=16, channels=1)
    order = np.random.default_rng(0).permutation(len(digits))[:450]
    return np.stack([digits.decode(int(i)) for i in order]).astype(np.float32) / 127.5 - 1


def noised(x0, t, seed=0):
    s, sigma = ek.noise_to_signal(SCHEDULE, t)
    return (
        (s * x0 + sigma * np.random.default_rng(seed).normal(size=x0.shape)).astype(np.float32),
        s,
        sigma,
    )


def soft(xt, memory, s, sigma, rho):
    weight = ek.weights(ek.square_distances(xt / s, memory), rho * 2 * (sigma / s) ** 2)
    return ek.recalled(weight, memory).reshape(xt.shape), weight


@pytest.mark.parametrize(("rho", "t"), [(1.0, 300), (1.0, 500), (4.0, 200), (4.0, 400)])
def test_a_soft_k_nn_denoiser_is_recovered(images, rho, t):
    memory, queries = images[:300], images[300:364]
    xt, s, sigma = noised(queries, t)
    x0_hat, weight = soft(xt, memory, s, sigma, rho)
    found = ek.fit(xt, x0_hat.astype(np.float32), memory, s, sigma)
    assert found.rho == pytest.approx(rho, rel=0.05)
    assert (
        ek.reason(found, ek.ladder(xt, x0_hat.astype(np.float32), memory, s, sigma)["gaussian"][0])
        == ""
    )
    assert found.r2 == pytest.approx(1, abs=1e-6)
    own = np.exp(-np.sum(weight * np.log(np.maximum(weight, 1e-300)), axis=1))
    np.testing.assert_allclose(found.k_eff, own, rtol=0.05)


def test_weights_are_softmax_by_brute_force(images):
    xt, s, _ = noised(images[:3], 100)
    squares = ek.square_distances(xt / s, images[:40])
    brute = np.array([[np.square(a.astype(float) / s - b).sum() for b in images[:40]] for a in xt])
    np.testing.assert_allclose(squares, brute, rtol=1e-6)
    raw = np.exp(-brute / 30.0)
    np.testing.assert_allclose(
        ek.weights(squares, 30.0), raw / raw.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-12
    )


@pytest.mark.parametrize("t", [100, 300, 700])
def test_a_gaussian_denoiser_has_no_effective_k(images, t):
    memory, (xt, s, sigma) = images[:300], noised(images[300:364], t)
    x0_hat = ek.gaussian(xt, memory, s, sigma).reshape(xt.shape).astype(np.float32)
    rows = ek.effective_k(xt, x0_hat, memory, {}, s, sigma)
    found = {row["name"]: row for row in rows if row["name"] != "r2"}
    r2 = {row["denoiser"]: row["value"] for row in rows if row["name"] == "r2"}
    assert found["k_eff"]["value"] is None
    assert found["rho"]["value"] is None
    assert "the Gaussian explains more" in found["k_eff"]["why"]
    assert r2["gaussian"] == pytest.approx(1, abs=1e-6)
    assert max(r2, key=lambda name: r2[name]) == "gaussian"


def test_the_gaussian_denoiser_is_the_conditional_mean(images):
    """Of a Gaussian with the memory's mean and covariance, by the dense formula."""
    memory, (xt, s, sigma) = images[:80], noised(images[80:90], T)
    rows = memory.reshape(80, -1).astype(float)
    mean, covariance = rows.mean(axis=0), np.cov(rows.T)
    gain = s * covariance @ np.linalg.inv(s**2 * covariance + sigma**2 * np.eye(len(mean)))
    expected = mean + (xt.reshape(10, -1) - s * mean) @ gain.T
    np.testing.assert_allclose(ek.gaussian(xt, memory, s, sigma), expected, atol=1e-6)


def test_the_local_denoiser_with_patches_over_all_is_exact(images):
    memory, (xt, s, sigma) = images[:60, :5, :5], noised(images[60:64, :5, :5], T)
    whole = soft(xt, memory, s, sigma, 1.0)[0]
    np.testing.assert_allclose(
        ek.local_patch(xt, memory, s, sigma, 9).reshape(xt.shape), whole, atol=1e-4
    )


def test_a_local_denoiser_is_told_from_an_exact_one(images):
    memory, (xt, s, sigma) = images[:300], noised(images[300:340], T)
    x0_hat = ek.local_patch(xt, memory, s, sigma, 3).reshape(xt.shape)
    found = ek.ladder(xt, x0_hat, memory, s, sigma)
    assert found["local_patch"] == (pytest.approx(1, abs=1e-5), 3)
    assert found["exact"][0] < found["local_patch"][0]


def test_a_memory_never_seen_explains_less(images):
    """The control: the exact denoiser of one memory is explained less well by another of the same size."""
    memory, other, (xt, s, sigma) = images[:200], images[200:400], noised(images[400:450], 200)
    x0_hat = soft(xt, memory, s, sigma, 1.0)[0].astype(np.float32)
    rows = ek.effective_k(xt, x0_hat, memory, {"held_out": other}, s, sigma)
    r2 = {
        row["memory"]: row["value"]
        for row in rows
        if row["name"] == "r2" and row["denoiser"] == "soft_knn"
    }
    assert r2["train"] > r2["held_out"] + 0.3


def test_why_there_is_no_effective_k():
    def fit(**changes):
        return ek.Fit(**{"rho": 2.0, "r2": 0.8, "k_eff": np.ones(2), "edge": False} | changes)

    assert ek.reason(fit(), 0.5) == ""
    assert ek.reason(fit(r2=0.3), 0.1) == "R^2 is 0.30, below 0.5"
    assert ek.reason(fit(edge=True), 0.1) == "rho is 2, at the grid's edge"
