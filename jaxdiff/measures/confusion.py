"""How often a classifier takes an image of one class for another."""

import numpy as np
from jaxtyping import Int

Labels = Int[np.ndarray, " n"]
Confusion = Int[np.ndarray, "t c"]


def confusion_matrix(true: Labels, predicted: Labels, num_labels: int) -> Confusion:
    """Counts [true label, predicted label]."""
    matrix = np.zeros((num_labels, num_labels), int)
    np.add.at(matrix, (true, predicted), 1)
    return matrix
