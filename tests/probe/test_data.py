"""The images that the probe takes, and their order."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdiff.datasets.dataset import Split
from jaxdiff.datasets.prepare import Prepared
from jaxdiff.probe.data import QUERIES, ProbeData
from tests.probe.small import IMAGES


class InMemory(Prepared):
    """A prepared dataset without files."""

    def __init__(self, images):
        object.__setattr__(self, "images", images)

    def read(self, indices):
        return self.images[indices]


def label_images(labels):
    """Images of constant brightness, each its own index, with these labels."""
    indices = np.arange(len(labels), dtype=np.uint8)
    images = np.broadcast_to(indices[:, None, None, None], (len(labels), 2, 2, 1))
    return SimpleNamespace(images=images, labels=np.array(labels))


def indices_of(scaled):
    return ((scaled[:, 0, 0, 0] + 1) * 127.5).round().astype(int).tolist()


def test_images_of_one_set_are_probed_or_memory():
    data = ProbeData.from_images(IMAGES, 4)
    assert (data.num_probe, len(data.memory)) == (4, 20)
    distances = np.abs(data.images[:, None] - data.memory[None]).max(axis=(2, 3, 4))
    assert distances.min() > 0
    assert len(ProbeData.from_images(IMAGES[:2], 4).memory) == 0


def test_unseen_images_are_shuffled_and_training_images_remembered():
    """The memory is in the order of the classes, the minority as class 1."""
    unseen = label_images([0] * 6).images
    train = label_images([6, 9, 6, 9, 6, 6])
    data = ProbeData.from_unseen(unseen, train, (6, 9), num_probe=4, max_memory=3)
    assert data.num_probe == 4
    assert indices_of(data.images) == np.random.default_rng(0).permutation(6).tolist()
    assert indices_of(data.memory) == [0, 4, 3]
    assert data.memory_labels.tolist() == [0, 0, 1]
    assert ProbeData.from_unseen(unseen, train, (6, 9), num_probe=40).num_probe == 6
    others = ProbeData.from_unseen(unseen, label_images([9, 1, 6, 3]), (6, 9), num_probe=1)
    assert others.memory_labels.tolist() == [2, 2, 0, 1]


def test_splits_give_two_classes_or_all():
    images = label_images(np.arange(100) % 5)
    held_out = Split(InMemory(images.images), np.arange(100), images.labels)
    data = ProbeData.from_splits(held_out, held_out, (1, 3), 4, max_memory=4)
    assert data.num_probe == 4
    assert {i % 5 for i in indices_of(data.images)} == {1, 3}
    assert data.memory_labels.tolist() == [0, 0, 1, 1]
    everything = ProbeData.from_splits(held_out, held_out, (), 4, max_memory=4)
    assert len(everything.images) == QUERIES
    assert everything.memory_labels is None


def test_the_digest_is_of_all_arrays():
    data = ProbeData.from_images(IMAGES, 4)
    assert data.digest() == ProbeData.from_images(IMAGES, 4).digest()
    changed = IMAGES.copy()
    changed[-1, 0, 0, 0] ^= 1
    assert ProbeData.from_images(changed, 4).digest() != data.digest()
    assert ProbeData.from_images(IMAGES, 5).digest() != data.digest()


def test_scaled_to_minus_one_to_one():
    data = ProbeData.from_images(IMAGES, 4)
    assert data.images.dtype == np.float32
    assert data.images.min() >= -1
    assert data.images.max() <= 1
    np.testing.assert_array_equal(data.probed, data.images[:4])
    assert data.image_shape == pytest.approx((8, 8, 1))
