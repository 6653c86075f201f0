"""How often the classifiers mistake one class for another once a model has denoised images."""

import numpy as np
from jaxtyping import Int

from jaxdiff.cells.classifiers import Classifiers
from jaxdiff.datasets.dataset import Split
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.measures.confusion import confusion_matrix
from jaxdiff.sampling import Sampler

DENOISED_FROM = 0.3  # noise level, as a share of T, from which images are denoised


def denoised_confusion(
    sampler: Sampler, classifiers: Classifiers, images: Split, seed: int
) -> Int[np.ndarray, "t c"]:
    """Counts [true label, predicted label] of images that the model has noised and denoised."""
    t = round(DENOISED_FROM * sampler.model.schedule.steps)
    denoised = to_uint8(sampler.denoise(to_float(images.images), t, seed))
    labels = classifiers.classify(denoised)
    return confusion_matrix(images.labels, labels, len(classifiers.confusion))
