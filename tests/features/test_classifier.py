import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.datasets import mnist as digits
from jaxdiff.datasets.images import to_size
from jaxdiff.datasets.registry import describe
from jaxdiff.features import classifier


@pytest.fixture(scope="module")
def pools():
    return describe("digits", size=16, channels=1).pools


@pytest.fixture(scope="module")
def judge(pools):
    """A classifier of the study's own size, trained for a quarter of the study's steps."""
    images, labels = digits.embedded()
    chosen = pools["classifier"]
    return classifier.train(to_size(images[chosen], 16, 1), labels[chosen], steps=500)


def test_the_gate_passes_held_out_digits_and_fails_the_rest(judge, pools):
    images, labels = digits.embedded()
    held_out = pools["held_out"]
    called, probabilities = classifier.classify(judge, to_size(images[held_out], 16, 1))
    mine = np.isin(labels[held_out], (6, 9))
    assert np.isin(called[mine], (6, 9)).mean() >= 0.93
    assert np.isin(called[~mine], (6, 9)).mean() <= 0.05
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    rng = np.random.default_rng(0)
    for fake in (rng.integers(0, 256, (64, 16, 16, 1)), np.full((8, 16, 16, 1), 90)):
        assert (classifier.classify(judge, fake.astype(np.uint8))[0] == 10).mean() >= 0.95


def test_distorted_digits_stay_in_range_and_move():
    images = jnp.full((4, 16, 16, 1), -1.0).at[:, 6:10, 6:10].set(1.0)
    moved = classifier.distort(images, jax.random.key(0))
    assert moved.shape == images.shape
    assert float(jnp.abs(moved).max()) <= 1.0 + 1e-5
    assert float(jnp.abs(moved[0] - moved[1]).max()) > 0.1
