import numpy as np
import pytest
from scipy import linalg, spatial

from jaxdiff.measures import distributions


def sets(apart=0.0, n=300, m=250, d=6, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(d, d))
    real, fake = (rng.normal(size=(k, d)) @ mixed for k in (n, m))
    return real.astype(np.float32), (0.8 * fake + apart).astype(np.float32)


def test_prdc_by_all_pairs():
    real, fake = sets(1.0)
    k = 5
    own, other, cross = (
        spatial.distance.cdist(a, b) for a, b in ((real, real), (fake, fake), (real, fake))
    )
    balls, reach = np.sort(own, axis=1)[:, k], np.sort(other, axis=1)[:, k]
    inside = cross < balls[:, None]
    expected = {
        "precision": inside.any(axis=0).mean(), "recall": (cross < reach[None]).any(axis=1).mean(),
        "density": inside.sum(axis=0).mean() / k, "coverage": (cross.min(axis=1) < balls).mean(),
    }  # fmt: skip
    found = {row["name"]: row for row in distributions.prdc(real, fake, k)}
    assert {name: row["value"] for name, row in found.items()} == pytest.approx(expected)
    assert all(row["low"] < row["value"] < row["high"] for row in found.values())


def test_prdc_in_blocks_is_the_same(monkeypatch):
    real, fake = sets()
    whole = distributions.prdc(real, fake)
    monkeypatch.setattr(distributions, "BLOCK", 64)
    assert distributions.prdc(real, fake) == whole


def test_fid_in_closed_form():
    real, fake = sets(0.5, n=4000, m=3000)
    means, covariances = [x.mean(axis=0) for x in (real, fake)], [np.cov(x.T) for x in (real, fake)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * root
    )
    assert distributions.fid(real, fake)["value"] == pytest.approx(expected, rel=1e-4)
    assert distributions.fid(real, real)["value"] == pytest.approx(0, abs=1e-4)


def test_fid_with_fewer_images_than_numbers():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(20, 64)), rng.normal(size=(30, 64))
    shared = rng.normal(size=64)
    once, moved = (
        distributions.fid(real, fake)["value"],
        distributions.fid(real + shared, fake)["value"],
    )
    between = (
        np.square(real.mean(0) + shared - fake.mean(0)).sum()
        - np.square(real.mean(0) - fake.mean(0)).sum()
    )
    assert moved - once == pytest.approx(between, rel=1e-6)


def test_kid_by_all_pairs_and_its_interval():
    real, fake = sets(0.3, n=90, m=70)
    d = real.shape[1]

    def kernel(a, b):
        return (a.astype(float) @ b.T.astype(float) / d + 1) ** 3

    own = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
        for k in (kernel(real, real), kernel(fake, fake))
    ]
    found = distributions.kid(real, fake)
    assert found["value"] == pytest.approx(sum(own) - 2 * kernel(fake, real).mean(), rel=1e-9)
    without = [distributions.kid(real, np.delete(fake, i, axis=0))["value"] for i in range(70)]
    without_real = [distributions.kid(np.delete(real, i, axis=0), fake)["value"] for i in range(90)]
    error = np.sqrt(69 * np.var(without) + 89 * np.var(without_real))
    assert found["high"] - found["value"] == pytest.approx(1.96 * error, rel=1e-6)


def test_kid_is_zero_on_average_and_its_interval_covers():
    found = [
        distributions.kid(*(sets(seed=i, n=60, m=60)[0] for i in pair))
        for pair in ((2 * i, 2 * i) for i in range(3))
    ]
    assert all(row["value"] < 0 for row in found), (
        "of a set and itself the unbiased estimate is below 0"
    )
    rng = np.random.default_rng(0)
    rows = [distributions.kid(*rng.normal(size=(2, 60, 4))) for _ in range(200)]
    values = np.array([row["value"] for row in rows])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    covered = np.mean([row["low"] <= 0 <= row["high"] for row in rows])
    assert covered > 0.9


def test_too_few_images_get_a_sentence():
    with pytest.raises(
        ValueError, match="4 samples have no 5 neighbors each; at least 6 are needed"
    ):
        distributions.prdc(np.zeros((9, 2)), np.zeros((4, 2)))
