"""What two classifiers see in images."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int


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

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Predictions":
        """From the arrays of classes.npz."""
        return cls(arrays["label"], arrays["probability"], arrays["second"])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of classes.npz."""
        return {
            "label": self.labels,
            "probability": self.probabilities,
            "second": self.second_labels,
        }

    @property
    def reject_label(self) -> int:
        """The label of images that are of no class."""
        return self.probabilities.shape[1] - 1
