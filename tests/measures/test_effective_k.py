import dataclasses

import numpy as np
import pytest

from jaxdiff.datasets import registry as sources
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import Estimate
from jaxdiff.landscape.memory import softmax_weights
from jaxdiff.measures import soft_knn, soft_knn_fit
from jaxdiff.measures.effective_k import Memories, compute_effective_k, explain_undefined
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.predicted_share import interpolate_rho
from jaxdiff.measures.soft_knn import GaussianDenoiser, NoiseLevel, SoftKnn
from jaxdiff.measures.soft_knn_fit import SoftKnnFit

SCHEDULE = Schedule.linear(1000)
NOISE = NoiseLevel.at(SCHEDULE, 300)
ABOVE_0 = Estimate(0.2, 0.1, 0.3)


@pytest.fixture(scope="module")
def images():
    digits = sources.open_source("digits", size=16, channels=1)
    order = np.random.default_rng(0).permutation(len(digits))[:450]
    return np.stack([digits.decode(int(i)) for i in order]).astype(np.float32) / 127.5 - 1


def add_noise(x0, noise, seed=0):
    eps = np.random.default_rng(seed).normal(size=x0.shape)
    return (noise.s * x0 + noise.sigma * eps).astype(np.float32)


def denoise(xt, memory, noise, rho):
    """x0_hat of the soft k-NN denoiser, and its weights."""
    squares = soft_knn.squared_distances(xt / noise.s, memory)
    weights = softmax_weights(squares, rho * noise.tau)
    x0_hat = soft_knn.weighted_mean(weights, memory).reshape(xt.shape)
    return x0_hat.astype(np.float32), weights


def fit(xt, x0_hat, memory, noise):
    target = x0_hat.reshape(len(x0_hat), -1)
    return soft_knn_fit.fit_soft_knn(SoftKnn.at(xt, memory, noise), target)


def compare(xt, x0_hat, train, unseen, noise):
    denoisers = [SoftKnn.at(xt, memory, noise) for memory in (train, unseen)]
    return soft_knn_fit.compare_memories(*denoisers, x0_hat.reshape(len(x0_hat), -1))


def compute_baselines(xt, x0_hat, memory, noise):
    gaussian = GaussianDenoiser.fit(memory)
    return soft_knn.baseline_r2(xt, x0_hat, memory, gaussian, noise)


def select_r2(estimates, label):
    return {e.labels[label]: e.value for e in estimates if e.name == "r2"}


@pytest.mark.parametrize(("rho", "t"), [(1.0, 300), (1.0, 500), (4.0, 200), (4.0, 400)])
def test_a_soft_k_nn_denoiser_is_recovered(images, rho, t):
    memory = images[:300]
    noise = NoiseLevel.at(SCHEDULE, t)
    xt = add_noise(images[300:364], noise)
    x0_hat, weights = denoise(xt, memory, noise, rho)
    result = fit(xt, x0_hat, memory, noise)
    assert result.rho.value == pytest.approx(rho, rel=1e-3)
    assert result.r2 == pytest.approx(1, abs=1e-6)
    gaussian = GaussianDenoiser.fit(memory).predict(xt, noise)
    gaussian_r2 = soft_knn.r_squared(gaussian, x0_hat.reshape(64, -1))
    assert explain_undefined(result, gaussian_r2, ABOVE_0) == ""
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1)
    assert result.k_eff.value == pytest.approx(np.exp(entropy.mean()), rel=1e-3)
    assert result.k_eff.low < result.k_eff.value < result.k_eff.high


def test_the_fit_is_the_minimum_by_brute_force(images):
    """A model that is no soft k-NN denoiser, on a fine grid over all rho."""
    memory = images[:100]
    xt = add_noise(images[300:332], NOISE)
    x0_hat = GaussianDenoiser.fit(memory).predict(xt, NOISE).astype(np.float32)
    log_rho = np.linspace(np.log(1 / 16), np.log(4096), 400)
    errors = []
    for value in log_rho:
        prediction, _ = denoise(xt, memory, NOISE, np.exp(value))
        errors.append(np.square(prediction.reshape(32, -1) - x0_hat).sum())
    result = fit(xt, x0_hat, memory, NOISE)
    best = np.exp(log_rho[np.argmin(errors)])
    assert result.rho.value == pytest.approx(best, rel=0.02)
    total = np.square(x0_hat - x0_hat.mean(axis=0)).sum()
    assert result.r2 == pytest.approx(1 - min(errors) / total, abs=1e-4)


def test_the_interval_of_k_eff_carries_that_of_rho(images):
    """Half of the queries are denoised at a smaller rho: no rho fits all, and none is certain."""
    memory = images[:300]
    xt = add_noise(images[300:332], NOISE)
    alike, _ = denoise(xt, memory, NOISE, 2.0)
    mixed = np.concatenate([denoise(xt[:16], memory, NOISE, 0.5)[0], alike[16:]])
    certain = fit(xt, alike, memory, NOISE)
    uncertain = fit(xt, mixed, memory, NOISE)
    assert np.log(certain.rho.high / certain.rho.low) < 0.01
    assert np.log(uncertain.rho.high / uncertain.rho.low) > 0.3
    spreads = [np.log(result.k_eff.high / result.k_eff.low) for result in (certain, uncertain)]
    assert spreads[1] > 1.2 * spreads[0]


def test_a_parabola_is_exact_between_the_points_of_a_grid():
    grid = np.linspace(-1.0, 2.0, 13)
    minima = np.array([-0.9, 0.3, 1.9])
    errors = np.square(grid - minima[:, None])
    np.testing.assert_allclose(soft_knn_fit._find_minima(grid, errors), minima)
    slopes = np.stack([grid, -grid])
    ends = soft_knn_fit._find_minima(grid, slopes)
    np.testing.assert_allclose(ends, [-1, 2], err_msg="a straight line has its minimum at an end")


def test_weights_are_softmax_by_brute_force(images):
    memory = images[:40]
    noise = NoiseLevel.at(SCHEDULE, 100)
    xt = add_noise(images[:3], noise)
    queries = xt.astype(float) / noise.s
    squares = soft_knn.squared_distances(queries, memory)
    expected = np.array([[np.square(q - x).sum() for x in memory] for q in queries])
    np.testing.assert_allclose(squares, expected, rtol=1e-6)
    exponentials = np.exp(-expected / 30.0)
    weights = exponentials / exponentials.sum(axis=1, keepdims=True)
    denoiser = SoftKnn(squares, memory.reshape(40, -1), tau=15.0)
    np.testing.assert_allclose(denoiser.weights(2.0), weights, rtol=1e-4, atol=1e-12)
    part = denoiser.subset(np.array([7, 2]))
    pair = exponentials[:, [7, 2]]
    pair /= pair.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(part.weights(2.0), pair, rtol=1e-4, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("t", [100, 300, 700])
def test_a_gaussian_denoiser_has_no_effective_k(images, t):
    memory = images[:200]
    noise = NoiseLevel.at(SCHEDULE, t)
    xt = add_noise(images[400:432], noise)
    x0_hat = GaussianDenoiser.fit(memory).predict(xt, noise)
    x0_hat = x0_hat.reshape(xt.shape).astype(np.float32)
    memories = Memories(memory, memory, images[200:400])
    estimates = compute_effective_k(xt, x0_hat, memories, noise)
    rho, k_eff, *_ = estimates
    assert (rho.name, k_eff.name) == ("rho", "k_eff")
    for estimate in (rho, k_eff):
        assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
        assert "the Gaussian explains more" in estimate.labels["why"]
    r2 = select_r2(estimates, "denoiser")
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
    result = GaussianDenoiser.fit(memory).predict(xt, NOISE)
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
    baselines = compute_baselines(xt, x0_hat, memory, NOISE)
    assert baselines["local_patch"] == (pytest.approx(1, abs=1e-5), 3)
    assert baselines["exact"].r2 < baselines["local_patch"].r2


def test_a_memory_never_seen_explains_less(images):
    """The control: one memory's denoiser is explained less well by another memory."""
    train = images[:200]
    noise = NoiseLevel.at(SCHEDULE, 200)
    xt = add_noise(images[400:432], noise)
    x0_hat, _ = denoise(xt, train, noise, rho=4.0)
    estimates = compute_effective_k(xt, x0_hat, Memories(train, train, images[200:400]), noise)
    rho, k_eff, *_ = estimates
    assert rho.value == pytest.approx(4.0, rel=1e-3)
    assert k_eff.labels["why"] == ""
    r2 = select_r2(estimates, "memory")
    assert r2["matched train"] > r2["unseen"] + 0.1
    (difference,) = (e for e in estimates if e.name == "r2_difference")
    assert difference.value == pytest.approx(r2["matched train"] - r2["unseen"])
    assert difference.low > 0.05


def test_what_unseen_images_explain_as_well_is_no_recall(images):
    """A model that recalls as many images of either set."""
    train, unseen = np.split(images[:400], 2)
    noise = NoiseLevel.at(SCHEDULE, 200)
    xt = add_noise(images[400:432], noise)
    x0_hat, _ = denoise(xt, np.concatenate([train[::2], unseen[::2]]), noise, rho=4.0)
    memories = Memories(train, train, unseen)
    rho, k_eff, *estimates = compute_effective_k(xt, x0_hat, memories, noise)
    (difference,) = (e for e in estimates if e.name == "r2_difference")
    assert difference.low < 0 < difference.high
    assert rho.value is None
    assert k_eff.value is None
    assert (
        k_eff.labels["why"] == f"unseen images may explain it as well (R^2 differs by {difference})"
    )


def test_halves_of_one_set_differ_by_nothing_but_chance(images):
    """The same images on both sides: the difference is 0, its standard error that of two sets."""
    xt = add_noise(images[400:432], NOISE)
    x0_hat, _ = denoise(xt, images[:200], NOISE, rho=4.0)
    comparison = compare(xt, x0_hat, images[200:400], images[200:400], NOISE)
    assert comparison.difference.value == 0
    assert comparison.difference.low < 0 < comparison.difference.high
    assert comparison.train_halves < comparison.train.value, "R^2 grows with the memory"
    assert comparison.train.low < comparison.train.value < comparison.train.high


def test_queries_are_no_part_of_the_unseen_memory():
    """A noised image is predicted best by itself: the control would hold the answer."""
    rng = np.random.default_rng(0)
    train, unseen = rng.integers(0, 256, (2, 30, 4, 4, 1)).astype(np.uint8)
    memories = Memories.build(train, MatchedSplits(train, unseen), unseen[5:12])
    assert memories.train.shape == (30, 4, 4, 1)
    assert len(memories.matched_train) == len(memories.unseen) == 23
    expected = np.concatenate([unseen[:5], unseen[12:]]) / 127.5 - 1
    np.testing.assert_allclose(memories.unseen, expected, atol=1e-6)
    everything = Memories.build(train, MatchedSplits(train, unseen))
    assert len(everything.matched_train) == len(everything.unseen) == 30


def test_without_unseen_images_there_is_no_effective_k(images):
    train = images[:200]
    xt = add_noise(images[400:432], NOISE)
    x0_hat, _ = denoise(xt, train, NOISE, rho=2.0)
    uint8 = np.zeros((3, 16, 16, 1), np.uint8)
    control = Memories.build(uint8, MatchedSplits(uint8, uint8), uint8)
    assert len(control.unseen) == 0
    memories = dataclasses.replace(control, train=train)
    rho, k_eff, *others = compute_effective_k(xt, x0_hat, memories, NOISE)
    assert (rho.value, k_eff.value) == (None, None)
    assert rho.labels["why"] == "there are too few unseen images to compare with"
    assert all(estimate.labels["memory"] == "train" for estimate in others)


def test_why_there_is_no_effective_k():
    rho = Estimate(2.0, 1.0, 4.0)
    good = SoftKnnFit(rho, Estimate(1.0), 0.8, at_edge=False)
    poor = dataclasses.replace(good, r2=0.3)
    at_edge = dataclasses.replace(good, at_edge=True)
    assert explain_undefined(good, 0.5, ABOVE_0) == ""
    assert explain_undefined(poor, 0.1, ABOVE_0) == "R^2 is 0.30, below 0.5"
    assert explain_undefined(at_edge, 0.1, ABOVE_0) == "rho is 2, at the grid's edge"
    around_0 = Estimate(0.02, -0.03, 0.07)
    why = "unseen images may explain it as well (R^2 differs by 0.02 [-0.03, 0.07])"
    assert explain_undefined(good, 0.5, around_0) == why


def load_pair_of_digits():
    """The 1,000 embedded 6s and 9s, float in [-1, 1]."""
    digits = sources.open_source("digits", size=16, channels=1)
    labels = np.asarray(digits.annotations.labels)
    indices = np.flatnonzero(np.isin(labels, (6, 9)))
    return np.stack([digits.decode(int(i)) for i in indices]).astype(np.float32) / 127.5 - 1


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(("size", "t"), [(300, 100), (300, 300), (62, 200)])
def test_sets_of_one_population_are_rarely_told_apart(size, t):
    """The null of the control, by random splits of the digits: a false one in 20 at most.

    The model recalls 200 other images, so that neither set is its memory. The interval is
    two-sided, so that 2.5 % are expected; the standard error is near the SD over splits for large
    sets, and larger for small ones, whose R^2 still grows with their size.
    """
    noise = NoiseLevel.at(SCHEDULE, t)
    images = load_pair_of_digits()
    rng = np.random.default_rng(1)
    comparisons = []
    for seed in range(120):
        parts = np.split(rng.permutation(len(images)), np.cumsum([32, 200, size, size]))
        queries, others, train, unseen = (images[part] for part in parts[:4])
        xt = add_noise(queries, noise, seed)
        x0_hat, _ = denoise(xt, others, noise, rho=4.0)
        comparisons.append(compare(xt, x0_hat, train, unseen, noise).difference)
    false_rate = np.mean([difference.low > 0 for difference in comparisons])
    assert false_rate <= 0.05
    spread = np.std([difference.value for difference in comparisons])
    error = np.mean([difference.standard_error**2 for difference in comparisons]) ** 0.5
    assert 0.85 < error / spread < (1.25 if size == 300 else 2)


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("rho", "t", "num_queries"), [(2.0, 300, 32), (4.0, 400, 32), (2.0, 200, 16)]
)
def test_the_interval_covers_the_rho_of_a_noisy_soft_k_nn_denoiser(rho, t, num_queries):
    """95 % intervals of rho and k_eff over 300 sets of queries; 3 standard errors are .038.

    The model errs by a part of another digit, by a factor that differs between queries.
    """
    noise = NoiseLevel.at(SCHEDULE, t)
    images = load_pair_of_digits()
    rng = np.random.default_rng(2)
    memory = images[rng.permutation(len(images))[:300]]
    deviations = images - images.mean(axis=0)
    queries = images[rng.integers(0, len(images), 2000)]
    _, weights = denoise(add_noise(queries, noise, seed=1000), memory, noise, rho)
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1)
    k_eff = np.exp(entropy.mean())
    covers = []
    for seed in range(300):
        xt = add_noise(images[rng.integers(0, len(images), num_queries)], noise, seed)
        x0_hat, _ = denoise(xt, memory, noise, rho)
        scale = 0.3 * rng.gamma(1.0, size=(num_queries, 1, 1, 1))
        sign = rng.choice([-1, 1], (num_queries, 1, 1, 1))
        errors = sign * scale * deviations[rng.integers(0, len(images), num_queries)]
        result = fit(xt, (x0_hat + errors).astype(np.float32), memory, noise)
        covers.append(
            [
                result.rho.low <= rho <= result.rho.high,
                result.k_eff.low <= k_eff <= result.k_eff.high,
            ]
        )
    coverage = np.mean(covers, axis=0)
    assert (coverage >= 0.912).all(), coverage
    assert (coverage <= 0.99).all(), coverage


def test_rho_is_interpolated_in_its_logarithm():
    rho = interpolate_rho([(1, 1.0), (3, 4.0)], 6)
    np.testing.assert_allclose(rho, [1, 1, 2, 4, 4, 4], rtol=1e-6)


@pytest.mark.parametrize("limit", ["MAX_GAUSSIAN_IMAGES", "MAX_PATCH_IMAGES"])
def test_denoisers_of_a_part_of_the_memory_see_all_its_classes(monkeypatch, limit):
    """Dark images, then as many bright ones: of pure noise either denoiser makes their mean."""
    monkeypatch.setattr(soft_knn, limit, 64)
    memory = np.repeat(np.float32([-1, 1]), 128)[:, None, None, None] * np.ones((1, 3, 3, 1))
    memory = memory.astype(np.float32)
    noise = NoiseLevel(1e-3, 1.0)
    xt = np.zeros((1, 3, 3, 1), np.float32)
    if limit == "MAX_GAUSSIAN_IMAGES":
        prediction = GaussianDenoiser.fit(memory).predict(xt, noise)
    else:
        prediction = soft_knn.local_patch_denoiser(xt, memory, noise, side=3)
    np.testing.assert_allclose(prediction, 0, atol=0.3)
