"""Training and unseen images that are compared with samples in equal numbers.

It computes, and so is part of the fingerprint of what reads it, unlike the declarations of
`jaxdiff.measures.artifacts`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxdiff.datasets.mixtures import draw_subset


class MatchedSplits(NamedTuple):
    """As many training as unseen images, class by class.

    Parameters
    ----------
    train, unseen
        Images of the training set, and images that nothing but a classifier was trained on.
    labels
        Class of the i-th image of either set; None where the classes are not known.
    """

    train: UInt8[np.ndarray, "_n _height _width _channel"]
    unseen: UInt8[np.ndarray, "_n _height _width _channel"]
    labels: Int[np.ndarray, " _n"] | None = None

    def limit(self, count: int) -> "MatchedSplits":
        """At most `count` images of either set, a random subset in the same mix of classes."""
        rows = draw_subset(self.strata, count)
        labels = None if self.labels is None else self.labels[rows]
        return MatchedSplits(self.train[rows], self.unseen[rows], labels)

    @property
    def strata(self) -> Int[np.ndarray, " _n"]:
        """The labels; one class where they are not known."""
        return np.zeros(len(self.train), int) if self.labels is None else self.labels
