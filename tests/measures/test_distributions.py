import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.distance import cdist

from jaxdiff.measures import distributions


def draw_features(shift=0.0, num_real=300, num_fake=250, d=6, seed=0):
    """Features of real images, and of samples with a smaller spread."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    real = rng.normal(size=(num_real, d)) @ mixing
    fake = 0.8 * (rng.normal(size=(num_fake, d)) @ mixing) + shift
    return real.astype(np.float32), fake.astype(np.float32)


def kth_distance(features, k):
    """Distance of each row to its k-th nearest other row."""
    return np.sort(cdist(features, features), axis=1)[:, k]


def test_prdc_by_all_pairs():
    real, fake = draw_features(1.0)
    k = 5
    real_radius = kth_distance(real, k)
    fake_radius = kth_distance(fake, k)
    distances = cdist(real, fake)
    in_real_ball = distances < real_radius[:, None]
    expected = {
        "precision": in_real_ball.any(axis=0).mean(),
        "recall": (distances < fake_radius[None]).any(axis=1).mean(),
        "density": in_real_ball.sum(axis=0).mean() / k,
        "coverage": (distances.min(axis=1) < real_radius).mean(),
    }
    estimates = distributions.prdc(real, fake, k)
    values = {estimate.name: estimate.value for estimate in estimates}
    assert values == pytest.approx(expected)
    assert all(estimate.low < estimate.value < estimate.high for estimate in estimates)


def test_prdc_in_blocks_is_the_same(monkeypatch):
    real, fake = draw_features()
    expected = distributions.prdc(real, fake)
    monkeypatch.setattr(distributions, "BLOCK", 64)
    assert distributions.prdc(real, fake) == expected


def test_too_few_images_get_a_sentence():
    message = "4 samples have no 5 neighbors each; at least 6 are needed"
    with pytest.raises(ValueError, match=message):
        distributions.prdc(np.zeros((9, 2)), np.zeros((4, 2)))


def test_fid_in_closed_form():
    real, fake = draw_features(0.5, num_real=4000, num_fake=3000)
    real_covariance = np.cov(real.T)
    fake_covariance = np.cov(fake.T)
    root = linalg.sqrtm(real_covariance @ fake_covariance).real
    expected = np.square(real.mean(axis=0) - fake.mean(axis=0)).sum()
    expected += np.trace(real_covariance + fake_covariance - 2 * root)
    assert distributions.fid(real, fake).value == pytest.approx(expected, rel=1e-4)
    assert distributions.fid(real, real).value == pytest.approx(0, abs=1e-4)


def test_fid_with_fewer_images_than_numbers():
    """A shift of one set changes nothing but the distance of the means."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(20, 64))
    fake = rng.normal(size=(30, 64))
    shift = rng.normal(size=64)
    value = distributions.fid(real, fake).value
    shifted_value = distributions.fid(real + shift, fake).value
    difference = real.mean(0) - fake.mean(0)
    expected = np.square(difference + shift).sum() - np.square(difference).sum()
    assert shifted_value - value == pytest.approx(expected, rel=1e-6)


def test_kid_by_all_pairs():
    real, fake = draw_features(0.3, num_real=90, num_fake=70)
    d = real.shape[1]

    def kernel(a, b):
        return (a.astype(float) @ b.T.astype(float) / d + 1) ** 3

    def mean_of_other_pairs(x):
        table = kernel(x, x)
        return (table.sum() - np.trace(table)) / (len(x) * (len(x) - 1))

    expected = mean_of_other_pairs(real) + mean_of_other_pairs(fake) - 2 * kernel(fake, real).mean()
    assert distributions.kid(real, fake).value == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_kid_is_the_jackknife():
    real, fake = draw_features(0.3, num_real=90, num_fake=70)
    estimate = distributions.kid(real, fake)
    without_fake = [distributions.kid(real, np.delete(fake, i, axis=0)).value for i in range(70)]
    without_real = [distributions.kid(np.delete(real, i, axis=0), fake).value for i in range(90)]
    error = np.sqrt(69 * np.var(without_fake) + 89 * np.var(without_real))
    assert estimate.high - estimate.value == pytest.approx(1.96 * error, rel=1e-6)


def test_kid_of_a_set_and_itself_is_below_0():
    """The unbiased estimate leaves out an image's product with itself in one of its terms."""
    for seed in (0, 2, 4):
        real, _ = draw_features(num_real=60, seed=seed)
        assert distributions.kid(real, real).value < 0


def test_kid_is_zero_on_average_and_its_interval_covers():
    rng = np.random.default_rng(0)
    estimates = [distributions.kid(*rng.normal(size=(2, 60, 4))) for _ in range(200)]
    values = np.array([estimate.value for estimate in estimates])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])
    assert covered > 0.9


def test_a_density_without_a_sample_in_any_ball_has_no_interval():
    real = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    density = {e.name: e for e in distributions.prdc(real, real + 1e3, k=3)}["density"]
    assert (density.value, density.low, density.high) == (0, None, None)
