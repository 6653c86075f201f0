"""The images that the probe takes: those that are probed, the queries and the memory."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdiff.datasets.dataset import Split

Images = UInt8[np.ndarray, "_n _height _width _channel"]

# At most; the activations of all queries and of the memory are held at once.
QUERIES = 64
MEMORY = 256


@runtime_checkable
class LabeledImages(Protocol):
    """Images uint8 [n, height, width, channel] and the class of each."""

    @property
    def images(self) -> Images: ...

    @property
    def labels(self) -> Int[np.ndarray, " n"]: ...


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Clean images in [-1, 1].

    Parameters
    ----------
    images
        The first `num_probe` are probed; all of them are queries of the memory.
    num_probe
        Number of images that are probed.
    memory
        Images of the memory; empty where there is none.
    memory_labels
        Class of each memory image, 0 or 1, and 2 for any other; None where they are not known.
    """

    images: Float[np.ndarray, "q h w c"]
    num_probe: int
    memory: Float[np.ndarray, "m h w c"]
    memory_labels: Int[np.ndarray, " m"] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def probed(self) -> Float[np.ndarray, "n h w c"]:
        """The images that are probed."""
        return self.images[: self.num_probe]

    @property
    def has_memory(self) -> bool:
        """Whether there is a memory: a nearest neighbor needs two images."""
        return len(self.memory) > 1

    def digest(self) -> str:
        """SHA-256 of all arrays."""
        # The same bytes whatever the arrays' layout in memory.
        labels = np.array([]) if self.memory_labels is None else self.memory_labels
        arrays = (self.images, np.array(self.num_probe), self.memory, labels)
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    @classmethod
    def from_unseen(
        cls,
        unseen: Images,
        train: LabeledImages,
        classes: tuple[int, int],
        num_probe: int,
        max_memory: int = MEMORY,
    ) -> "ProbeData":
        """Probe images that a model never saw; its training images are the memory.

        Parameters
        ----------
        unseen
            Images in the class mix of the training data, in any order.
        train
            The training images.
        classes
            The labels that count as class 0 and class 1 of the memory.
        num_probe, max_memory
            Numbers of probed images and of memory images, at most.
        """
        # Equal steps through the classes keep their mix.
        by_class = np.argsort(train.labels, kind="stable")
        indices = _space_evenly(by_class, max_memory)
        labels = np.full(len(indices), 2)
        for i, label in enumerate(classes):
            labels[train.labels[indices] == label] = i
        num_probe = min(num_probe, len(unseen))
        return cls(_scale(_shuffle(unseen)), num_probe, _scale(train.images[indices]), labels)

    @classmethod
    def from_splits(
        cls,
        held_out: Split,
        train: Split,
        classes: Sequence[int],
        num_probe: int,
        max_memory: int = MEMORY,
    ) -> "ProbeData":
        """Probe held-out images of a dataset; images of its training pool are the memory.

        Parameters
        ----------
        held_out, train
            Splits of the dataset.
        classes
            The two classes that are taken; all of them where empty.
        num_probe, max_memory
            Numbers of probed images and of memory images, at most.
        """
        queries = _select(held_out, classes, max(num_probe, QUERIES))
        memory = _select(train, classes, max_memory)
        labels = (memory.labels == classes[1]).astype(np.int64) if classes else None
        num_probe = min(num_probe, len(queries))
        return cls(_scale(_shuffle(queries.images)), num_probe, _scale(memory.images), labels)

    @classmethod
    def from_images(cls, images: Images, num_probe: int, max_memory: int = MEMORY) -> "ProbeData":
        """Probe some images of one set; the rest is the memory, which needs two images or more."""
        order = np.arange(len(images))
        probed = _space_evenly(order, num_probe)
        rest = np.setdiff1d(order, probed)
        memory = _space_evenly(rest, max_memory) if len(rest) > 1 else rest[:0]
        return cls(_scale(images[probed]), len(probed), _scale(images[memory]))


def _select(split: Split, classes: Sequence[int], count: int) -> Split:
    """At most `count` images of these classes, in equal steps through the classes."""
    candidates = np.arange(len(split))
    if classes:
        candidates = np.flatnonzero(np.isin(split.labels, classes))
    by_class = candidates[np.argsort(split.labels[candidates], kind="stable")]
    indices = _space_evenly(by_class, count)
    return Split(split.source, split.indices[indices], split.labels[indices])


def _space_evenly(order: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " m"]:
    """At most `count` entries in equal steps."""
    if not len(order):
        return order
    steps = np.linspace(0, len(order) - 1, min(count, len(order)))
    return order[steps.round().astype(int)]


def _shuffle(images: Images) -> Images:
    """Without the order of the classes, since the first images are probed."""
    return images[np.random.default_rng(0).permutation(len(images))]


def _scale(images: Images) -> Float[np.ndarray, "_n _h _w _c"]:
    """From 0..255 to float32 in [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0
