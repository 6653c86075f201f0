import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.datasets.image_io import pad_or_resize
from jaxdiff.datasets.mnist import embedded
from jaxdiff.datasets.registry import open_dataset
from jaxdiff.features import classifier

SIZE = 16
CLASSES = (6, 9)
REJECT = 10


def load_pool(name):
    images, labels = embedded()
    indices = open_dataset("digits", size=SIZE, channels=1).pools[name]
    return pad_or_resize(images[indices], SIZE, 1), labels[indices]


@pytest.fixture(scope="module")
def params():
    """A classifier of the study's own size, trained for a quarter of the study's steps."""
    images, labels = load_pool("classifier")
    return classifier.train(images, labels, steps=500)


@pytest.mark.slow
def test_held_out_digits_pass_the_gate_and_others_fail(params):
    images, labels = load_pool("held_out")
    predicted, probabilities = classifier.classify(params, images)
    is_class = np.isin(labels, CLASSES)
    assert np.isin(predicted[is_class], CLASSES).mean() >= 0.93
    assert np.isin(predicted[~is_class], CLASSES).mean() <= 0.05
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_noise_and_gray_are_rejected(params):
    noise = np.random.default_rng(0).integers(0, 256, (64, SIZE, SIZE, 1)).astype(np.uint8)
    gray = np.full((8, SIZE, SIZE, 1), 90, np.uint8)
    for images in (noise, gray):
        predicted, _ = classifier.classify(params, images)
        assert (predicted == REJECT).mean() >= 0.95


def test_distorted_digits_stay_in_range_and_move():
    images = jnp.full((4, SIZE, SIZE, 1), -1.0).at[:, 6:10, 6:10].set(1.0)
    distorted = classifier.distort(images, jax.random.key(0))
    assert distorted.shape == images.shape
    assert float(jnp.abs(distorted).max()) <= 1.0 + 1e-5
    assert float(jnp.abs(distorted[0] - distorted[1]).max()) > 0.1
