"""What a measure may read: the samples of one model and all that they are compared with."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdiff.estimates import Estimate
from jaxdiff.progress import Progress

if TYPE_CHECKING:
    from jaxdiff.sampling import Sampler
    from jaxdiff.settings import MeasureSettings

Images = UInt8[np.ndarray, "_n _height _width _channel"]


@runtime_checkable
class LabeledImages(Protocol):
    """Images uint8 [n, height, width, channel] and the class of each."""

    images: Images
    labels: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Roles:
    """The two classes of a share and the minority's share of the training data, in 0..1."""

    majority: int
    minority: int
    trained: float

    @property
    def classes(self) -> tuple[int, int]:
        """Majority first."""
        return self.majority, self.minority

    @property
    def mix(self) -> dict[int, float]:
        """Share of each class in the training data."""
        return {self.majority: 1.0 - self.trained, self.minority: self.trained}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What two classifiers of different architecture see in n samples.

    Parameters
    ----------
    labels, second_labels
        Most probable label of each sample; the last label is the reject class.
    probabilities
        The first classifier's probability of every label.
    """

    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n label"]
    second_labels: Int[np.ndarray, " n"]

    @property
    def reject_label(self) -> int:
        """The label of images that are of no class."""
        return self.probabilities.shape[1] - 1


class MatchedSplits(NamedTuple):
    """Training and held-out images in equal numbers and the same class mix."""

    train: Images
    held_out: Images


@runtime_checkable
class Artifacts(Protocol):
    """The samples of one model, or of any origin, and what they are compared with.

    An attribute that does not exist for a set of samples is None. A measure names the attributes
    that it reads in ``needs`` and ``optional``; it runs where none of ``needs`` is None.

    Attributes
    ----------
    settings
        The settings of all measures.
    seed
        Names the noise bank of the samples.
    samples, common_samples
        Samples of the seed's own noise bank, and of the bank that all seeds share.
    roles
        The two classes of a share.
    predictions
        The classifiers' labels of `samples`.
    confusion
        Counts [true label, predicted label] of the first classifier on test images.
    denoised_confusion
        The same on held-out images that the model itself has noised and denoised.
    train
        The training images, or the reference of a set of foreign images.
    held_out
        Held-out images in the class mix of the training data.
    matched
        Training and held-out images in equal numbers.
    sampler
        Samples and predicts with the trained model.
    checkpoints
        Optimizer steps of the kept checkpoints, the last one that of `sampler`.
    """

    settings: "MeasureSettings"
    progress: Progress
    seed: int
    samples: Images
    common_samples: Images | None
    roles: Roles | None
    predictions: Predictions | None
    confusion: Int[np.ndarray, "t c"] | None
    denoised_confusion: Int[np.ndarray, "t c"] | None
    train: LabeledImages
    held_out: Images | None
    matched: MatchedSplits | None
    sampler: "Sampler | None"
    checkpoints: Sequence[int] | None

    def classify(self, images: Images) -> Int[np.ndarray, " n"]:
        """Labels by the first classifier."""

    def unseen(self, count: int) -> Images:
        """At most `count` images in the training mix that are in none of the sets above."""

    def sampler_at(self, step: int) -> "Sampler":
        """The sampler with the weights of a kept checkpoint."""

    def estimates(self, name: str) -> list[Estimate]:
        """The estimates of another measure, which has to be among the measure's ``needs``."""

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        """Write arrays beside the results; the measure lists the name in ``outputs``."""

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file beside the results; the measure lists the name in ``outputs``."""
