import numpy as np
import pytest

from jaxdiff.datasets import registry as sources
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape.memory import softmax_weights
from jaxdiff.measures import soft_knn
from jaxdiff.measures.effective_k import compute_effective_k, explain_undefined
from jaxdiff.measures.predicted_share import interpolate_rho
from jaxdiff.measures.soft_knn import NoiseLevel, SoftKnnFit

SCHEDULE = Schedule.linear(1000)
NOISE = NoiseLevel.at(SCHEDULE, 300)


@pytest.fixture(scope="module")
def images():
    digits = sources.open_source("digits", size=16, channels=1)
    order = np.random.default_rng(0).permutation(len(digits))[:450]
    return np.stack([digits.decode(int(i)) for i in order]).astype(np.float32) / 127.5 - 1


def add_noise(x0, noise):
    eps = np.random.default_rng(0).normal(size=x0.shape)
    return (noise.s * x0 + noise.sigma * eps).astype(np.float32)


def denoise(xt, memory, noise, rho):
    """x0_hat of the soft k-NN denoiser, and its weights."""
    squares = soft_knn.squared_distances(xt / noise.s, memory)
    weights = softmax_weights(squares, rho * noise.tau)
    x0_hat = soft_knn.weighted_mean(weights, memory).reshape(xt.shape)
    return x0_hat.astype(np.float32), weights


def r2_by_denoiser(estimates):
    return {e.labels["denoiser"]: e.value for e in estimates if e.name == "r2"}


@pytest.mark.parametrize(("rho", "t"), [(1.0, 300), (1.0, 500), (4.0, 200), (4.0, 400)])
def test_a_soft_k_nn_denoiser_is_recovered(images, rho, t):
    memory = images[:300]
    noise = NoiseLevel.at(SCHEDULE, t)
    xt = add_noise(images[300:364], noise)
    x0_hat, weights = denoise(xt, memory, noise, rho)
    fit = soft_knn.fit_soft_knn(xt, x0_hat, memory, noise)
    assert fit.rho == pytest.approx(rho, rel=0.05)
    assert fit.r2 == pytest.approx(1, abs=1e-6)
    baselines = soft_knn.baseline_r2(xt, x0_hat, memory, noise)
    assert explain_undefined(fit, baselines["gaussian"].r2) == ""
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1)
    np.testing.assert_allclose(fit.k_eff, np.exp(entropy), rtol=0.05)


def test_weights_are_softmax_by_brute_force(images):
    memory = images[:40]
    noise = NoiseLevel.at(SCHEDULE, 100)
    queries = add_noise(images[:3], noise).astype(float) / noise.s
    squares = soft_knn.squared_distances(queries, memory)
    expected = np.array([[np.square(q - x).sum() for x in memory] for q in queries])
    np.testing.assert_allclose(squares, expected, rtol=1e-6)
    exponentials = np.exp(-expected / 30.0)
    weights = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax_weights(squares, 30.0), weights, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("t", [100, 300, 700])
def test_a_gaussian_denoiser_has_no_effective_k(images, t):
    memory = images[:300]
    noise = NoiseLevel.at(SCHEDULE, t)
    xt = add_noise(images[300:364], noise)
    x0_hat = soft_knn.gaussian_denoiser(xt, memory, noise).reshape(xt.shape).astype(np.float32)
    estimates = compute_effective_k(xt, x0_hat, memory, noise, {})
    rho, k_eff, *_ = estimates
    assert (rho.name, k_eff.name) == ("rho", "k_eff")
    assert rho.value is None
    assert k_eff.value is None
    assert "the Gaussian explains more" in k_eff.labels["why"]
    r2 = r2_by_denoiser(estimates)
    assert r2["gaussian"] == pytest.approx(1, abs=1e-6)
    assert max(r2, key=r2.get) == "gaussian"


def test_the_gaussian_denoiser_is_the_conditional_mean(images):
    """Of a Gaussian with the memory's mean and covariance, by the dense formula."""
    memory = images[:80]
    xt = add_noise(images[80:90], NOISE)
    s, sigma = NOISE
    rows = memory.reshape(80, -1).astype(float)
    mean = rows.mean(axis=0)
    covariance = np.cov(rows.T)
    precision = np.linalg.inv(s**2 * covariance + sigma**2 * np.eye(len(mean)))
    gain = s * covariance @ precision
    expected = mean + (xt.reshape(10, -1) - s * mean) @ gain.T
    result = soft_knn.gaussian_denoiser(xt, memory, NOISE)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_the_local_denoiser_with_patches_over_all_is_exact(images):
    memory = images[:60, :5, :5]
    xt = add_noise(images[60:64, :5, :5], NOISE)
    expected, _ = denoise(xt, memory, NOISE, rho=1.0)
    result = soft_knn.local_patch_denoiser(xt, memory, NOISE, side=9)
    np.testing.assert_allclose(result.reshape(xt.shape), expected, atol=1e-4)


def test_a_local_denoiser_differs_from_an_exact_one(images):
    memory = images[:300]
    xt = add_noise(images[300:340], NOISE)
    x0_hat = soft_knn.local_patch_denoiser(xt, memory, NOISE, side=3).reshape(xt.shape)
    baselines = soft_knn.baseline_r2(xt, x0_hat, memory, NOISE)
    assert baselines["local_patch"] == (pytest.approx(1, abs=1e-5), 3)
    assert baselines["exact"].r2 < baselines["local_patch"].r2


def test_a_memory_never_seen_explains_less(images):
    """The control: one memory's exact denoiser is explained less well by another memory."""
    memory = images[:200]
    held_out = images[200:400]
    noise = NoiseLevel.at(SCHEDULE, 200)
    xt = add_noise(images[400:450], noise)
    x0_hat, _ = denoise(xt, memory, noise, rho=1.0)
    estimates = compute_effective_k(xt, x0_hat, memory, noise, {"held_out": held_out})
    r2 = {
        estimate.labels["memory"]: estimate.value
        for estimate in estimates
        if estimate.labels.get("denoiser") == "soft_knn"
    }
    assert r2["train"] > r2["held_out"] + 0.3


def test_why_there_is_no_effective_k():
    good = SoftKnnFit(2.0, 0.8, np.ones(2), at_edge=False)
    poor = SoftKnnFit(2.0, 0.3, np.ones(2), at_edge=False)
    at_edge = SoftKnnFit(2.0, 0.8, np.ones(2), at_edge=True)
    assert explain_undefined(good, 0.5) == ""
    assert explain_undefined(poor, 0.1) == "R^2 is 0.30, below 0.5"
    assert explain_undefined(at_edge, 0.1) == "rho is 2, at the grid's edge"


def test_rho_is_interpolated_in_its_logarithm():
    rho = interpolate_rho([(1, 1.0), (3, 4.0)], 6)
    np.testing.assert_allclose(rho, [1, 1, 2, 4, 4, 4], rtol=1e-6)
