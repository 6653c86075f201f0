"""What a measure may read: the samples of one model and all that they are compared with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from jaxdiff.estimates import Estimate
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.roles import Roles
from jaxdiff.progress import Progress

if TYPE_CHECKING:
    from jaxdiff.sampling import Sampler
    from jaxdiff.settings import MeasureSettings

Images = UInt8[np.ndarray, "_n _height _width _channel"]
Value = TypeVar("Value")


@runtime_checkable
class LabeledImages(Protocol):
    """Images and the class of each."""

    @property
    def images(self) -> Images:
        """uint8 [n, height, width, channel]."""

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """Index of each image's class."""


@runtime_checkable  # the test suite checks the types of arguments
class Artifacts(Protocol):
    """The samples of one model, or of any origin, and what they are compared with.

    What does not exist for a set of samples is None. A measure names what it reads in ``needs``
    and ``optional``; it runs where nothing of ``needs`` is None.
    """

    @property
    def settings(self) -> "MeasureSettings":
        """The settings of all measures."""

    @property
    def progress(self) -> Progress:
        """Is called with how far long work has come."""

    @property
    def seed(self) -> int:
        """Names the noise bank of the samples."""

    @property
    def samples(self) -> Images:
        """Samples of the seed's own noise bank."""

    @property
    def common_samples(self) -> Images | None:
        """Samples of the noise bank that all seeds share."""

    @property
    def roles(self) -> Roles | None:
        """The two classes of a share."""

    @property
    def predictions(self) -> Predictions | None:
        """The classifiers' labels of `samples`."""

    @property
    def confusion(self) -> Int[np.ndarray, "t c"] | None:
        """Counts [true label, predicted label] of the first classifier on test images."""

    @property
    def denoised_confusion(self) -> Int[np.ndarray, "t c"] | None:
        """The same on held-out images that the model itself has noised and denoised."""

    @property
    def train(self) -> LabeledImages:
        """The training images, or the reference of a set of foreign images."""

    @property
    def held_out(self) -> Images | None:
        """Held-out images in the class mix of the training data."""

    @property
    def held_out_of_classes(self) -> Images | None:
        """All held-out images of the classes of the training data."""

    @property
    def matched(self) -> MatchedSplits | None:
        """All training and unseen images that can be had in equal numbers, class by class.

        The unseen ones may hold images that ``unseen`` returns.
        """

    @property
    def sampler(self) -> "Sampler | None":
        """Samples and predicts with the trained model."""

    @property
    def leveled_sampler(self) -> "Sampler | None":
        """The same, where its network can be entered at its levels (`LeveledDenoiser`)."""

    @property
    def random_sampler(self) -> "Sampler | None":
        """`sampler` with random weights of its network: what holds there too was not learned."""

    @property
    def checkpoints(self) -> Sequence[int] | None:
        """Optimizer steps of the kept checkpoints, the last one that of `sampler`."""

    def predict(self, images: Images) -> Predictions:
        """What both classifiers see in images."""

    def unseen(self, count: int) -> Images:
        """At most `count` images in the training mix that no model is trained on.

        None of them is in `train` or in `held_out`; `matched` may hold some of them.
        """

    def sampler_at(self, step: int) -> "Sampler":
        """The sampler with the weights of a kept checkpoint."""

    def estimates(self, name: str) -> list[Estimate]:
        """The estimates of another measure, which has to be among the measure's ``needs``."""

    def write_npz(self, name: str, **arrays: np.ndarray) -> None:
        """Write arrays beside the results; the measure lists the name in ``outputs``."""

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file beside the results; the measure lists the name in ``outputs``."""


def require(artifact: Value | None) -> Value:
    """An artifact that the measure names in its ``needs``, which is never None."""
    assert artifact is not None
    return artifact
