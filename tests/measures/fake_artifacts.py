"""Artifacts in memory, and a sampler whose model is the denoiser of a memory."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxdiff.datasets.images import to_float
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape.memory import softmax_weights
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.registry import MEASURES
from jaxdiff.measures.roles import Roles
from jaxdiff.measures.soft_knn import NoiseLevel, squared_distances, weighted_mean

CLASSES = (0, 1)
REJECT_LABEL = 3
NUM_LABELS = 4


@dataclasses.dataclass(frozen=True)
class FakeSettings:
    """The settings of all measures; LPIPS, early samples and the like are off."""

    share: str = "forced_choice"
    lpips: str = "none"
    weights_dir: str = ""
    spaces: tuple[str, ...] = ("pixels",)
    k: tuple[int, ...] = (1, 3)
    checkpoints: int = 0
    held_out: int = 0
    queries: int = 0
    inception: str = ""


@dataclasses.dataclass(frozen=True)
class FakeSplit:
    """Images and their classes."""

    images: np.ndarray
    labels: np.ndarray


class MemorySampler:
    """Predicts as the soft k-NN denoiser of a memory; its samples are the memory's images.

    images: uint8 [n, height, width, channel]; rho: 1 is the memory's exact denoiser.
    """

    def __init__(self, images, rho=1.0, sampling_steps=25):
        self.memory = np.asarray(to_float(images))
        self.rho = rho
        self.image_shape = images.shape[1:]
        self.model = SimpleNamespace(schedule=Schedule.cosine(100), prediction="eps")
        self.spec = SimpleNamespace(steps=sampling_steps)

    def predict(self, xt, t):
        """x0_hat and eps_hat; all t are the same."""
        xt = np.asarray(xt)
        noise = NoiseLevel.at(self.model.schedule, int(t[0]))
        squares = squared_distances(xt / noise.s, self.memory)
        weights = softmax_weights(squares, self.rho * noise.tau)
        x0_hat = weighted_mean(weights, self.memory).reshape(xt.shape)
        return x0_hat, (xt - noise.s * x0_hat) / noise.sigma

    def sample(self, indices, seed):
        """The memory's images by their index."""
        return self.memory[indices % len(self.memory)]

    def trajectory(self, indices, seed, levels):
        """x_t of the samples with noise that depends on t and the seed."""
        states = {}
        for t in levels:
            noise = NoiseLevel.at(self.model.schedule, t)
            x0 = self.sample(indices, seed)
            eps = np.random.default_rng((seed, t)).normal(size=x0.shape)
            states[t] = (noise.s * x0 + noise.sigma * eps).astype(np.float32)
        return states


def draw_images(count, label, rng, size=8):
    """Noisy gray images: class 0 is bright on the left, class 1 on the right."""
    images = rng.integers(0, 60, (count, size, size, 1))
    half = slice(0, size // 2) if label == 0 else slice(size // 2, size)
    images[:, :, half] += rng.integers(100, 190, (count, size, size // 2, 1))
    return images.astype(np.uint8)


def draw_split(num_majority, num_minority, seed, size=8):
    """Images of both classes, the majority first."""
    rng = np.random.default_rng(seed)
    counts = (num_majority, num_minority)
    parts = [draw_images(n, label, rng, size) for label, n in enumerate(counts)]
    return FakeSplit(np.concatenate(parts), np.repeat(CLASSES, counts))


def predict_labels(labels):
    """Predictions of two classifiers that agree and are fairly sure."""
    probabilities = np.full((len(labels), NUM_LABELS), 0.05)
    probabilities[np.arange(len(labels)), labels] = 0.85
    return Predictions(labels, probabilities, labels)


@dataclasses.dataclass
class FakeArtifacts:
    """What measures read; the dataclass's fields are the attributes of `Artifacts`."""

    train: FakeSplit
    samples: np.ndarray
    settings: FakeSettings = dataclasses.field(default_factory=FakeSettings)
    seed: int = 0
    common_samples: np.ndarray | None = None
    roles: Roles | None = None
    predictions: Predictions | None = None
    confusion: np.ndarray | None = None
    denoised_confusion: np.ndarray | None = None
    held_out: np.ndarray | None = None
    held_out_of_classes: np.ndarray | None = None
    matched: MatchedSplits | None = None
    sampler: MemorySampler | None = None
    leveled_sampler: MemorySampler | None = None
    random_sampler: MemorySampler | None = None
    checkpoints: list[int] | None = None
    samplers: dict[int, MemorySampler] = dataclasses.field(default_factory=dict)
    unseen_images: np.ndarray | None = None
    unseen_counts: list[int] = dataclasses.field(default_factory=list)
    arrays: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    json: dict[str, Any] = dataclasses.field(default_factory=dict)
    reports: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    def progress(self, task, done, total, note):
        """Record a report."""
        self.reports.append((task, done, total))

    def predict(self, images):
        """The class of the brighter half."""
        left, right = np.split(images.astype(float), 2, axis=2)
        labels = np.where(left.mean((1, 2, 3)) >= right.mean((1, 2, 3)), *CLASSES)
        return predict_labels(labels)

    def unseen(self, count):
        """The first unseen images; records how many were asked for."""
        self.unseen_counts.append(count)
        return self.unseen_images[:count]

    def sampler_at(self, step):
        """The sampler of a checkpoint."""
        return self.samplers[step]

    def estimates(self, name):
        """Compute the other measure."""
        return MEASURES[name].compute(self)

    def write_npz(self, name, **arrays):
        """Keep the arrays."""
        self.arrays[name] = arrays

    def write_json(self, name, value):
        """Keep the value."""
        self.json[name] = value


def make_artifacts(size=8, **changes):
    """Samples of which three quarters are the majority, of a training set that has as many."""
    train = draw_split(45, 15, seed=0, size=size)
    samples = draw_split(30, 10, seed=1, size=size)
    held_out = draw_split(45, 15, seed=2, size=size)
    artifacts = FakeArtifacts(
        train,
        samples.images,
        common_samples=draw_split(9, 3, seed=3, size=size).images,
        roles=Roles(majority=0, minority=1, trained=0.25),
        predictions=predict_labels(samples.labels),
        confusion=100 * np.eye(NUM_LABELS, dtype=int),
        held_out=held_out.images,
        held_out_of_classes=held_out.images,
        matched=MatchedSplits(train.images, held_out.images, train.labels),
        unseen_images=draw_split(15, 5, seed=4, size=size).images,
    )
    return dataclasses.replace(artifacts, **changes)
