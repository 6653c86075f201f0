"""How much samples copy the training images.

Nearness alone is no copying, since unseen images, on which no model was trained, are near to
training images too: every measure is reported beside the same measure of unseen images, or against
them. Images are rows [n, d] of any number type in one space, in which distances are Euclidean
(uint8 pixels are not copied as floats).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Num, UInt8

from jaxdiff.datasets.mixtures import draw_subset
from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, Images
from jaxdiff.measures.exact_knn import nearest, two_nearest
from jaxdiff.measures.nearer import nearer_by_chance, nearer_to_training
from jaxdiff.measures.registry import measure

Vectors = Num[np.ndarray, "_n d"]
MAX_RATIO = 1 / 3  # below this d1 / d2 a sample counts as memorized (Yoon et al. 2023)
# Training images that are nearer to each other count as one, as a share of their spread: a few
# gray levels a pixel, as another JPEG of the same image differs.
MAX_REPEAT_DISTANCE = 0.05
REPEATED = "training images that are there more than once count as one"
# Fraction of unseen images that are nearer to a training image than the threshold of a copy.
COPY_QUANTILE = 0.01
MIN_QUANTILE_IMAGES = 200  # with fewer, one or no image is below the quantile
KINDS = ("copy", "spurious", "generalized")


def memorization_metrics(sets: Mapping[str, Vectors], train: Vectors) -> list[Estimate]:
    """How near each set of images is to the training images.

    Parameters
    ----------
    sets
        Images by name; one set should be unseen images.
    train
        At least three training images.

    Returns
    -------
    estimates
        For each set, with Wilson intervals (the median's by the binomial):
        ``memorized``: the fraction with d1 / d2 < 1/3, the distances to the nearest and second
        nearest training image; it has the values of the single images.
        ``distance_ratio``: the median of d1 / d2, 0..1; smaller is more copying.
        ``authenticity``: the fraction whose nearest training image is nearer to another training
        image than to the sample, 0..1; larger is less copying.
        Training images at nearly no distance from each other count as one, which the label
        ``note`` says where it matters.

    Raises
    ------
    ValueError
        For fewer than three training images, or where all are the same.

    References
    ----------
    Yoon et al. (2023) for ``memorized``; Alaa et al. (2022) for ``authenticity``.
    """
    if len(train) < 3:
        raise ValueError(
            f"at least 3 training images are needed, got {len(train)}: each needs two neighbors "
            "among the others; give more"
        )
    # A copied image that is there twice would be near to itself alone: d1 / d2 would be 1.
    tolerance = MAX_REPEAT_DISTANCE * _spread(train)
    neighbors = {name: two_nearest(images, train, tolerance) for name, images in sets.items()}
    # Each training image that is nearest to some image, and its distance to another one.
    nearest_indices = np.concatenate([result.indices[:, 0] for result in neighbors.values()])
    train_indices = np.unique(nearest_indices)
    train_distances = two_nearest(train[train_indices], train, tolerance).distances[:, 1]
    estimates = []
    for name, (distances, indices, is_repeated) in neighbors.items():
        n = len(distances)
        labels: dict[str, Any] = {"images": name}
        if is_repeated.any():
            labels["note"] = REPEATED
        ratio = distances[:, 0] / np.maximum(distances[:, 1], 1e-12)
        memorized = ratio < MAX_RATIO
        # train_indices are sorted, and every nearest index is among them.
        positions = np.searchsorted(train_indices, indices[:, 0])
        authentic = distances[:, 0] > train_distances[positions]
        fraction = Estimate.proportion(int(memorized.sum()), n, "memorized", **labels)
        estimates += [
            dataclasses.replace(fraction, values=memorized.astype(float).tolist()),
            _median(ratio).named("distance_ratio", **labels),
            Estimate.proportion(int(authentic.sum()), n, "authenticity", **labels),
        ]
    return estimates


def _spread(images: Vectors) -> float:
    """Root mean square distance of images from their mean."""
    # A thousand images estimate it well enough; all of them as floats might not fit in RAM.
    rows = images[:: 1 + len(images) // 1000].astype(np.float64)
    return float(np.sqrt(rows.var(axis=0).sum()))


def _median(values: Float[np.ndarray, " n"]) -> Estimate:
    """The median, with the binomial interval of order statistics; of five and fewer without one."""
    n = len(values)
    low, high = scipy.stats.binom.interval(0.95, n, 0.5)
    if low == 0:  # the smallest and the largest value do not cover it in .95 of cases
        return Estimate(float(np.median(values)), n=n)
    ordered = np.sort(values)
    # Counted from 1, the low-th smallest value and the one after the high-th.
    low_value = float(ordered[max(int(low) - 1, 0)])
    high_value = float(ordered[min(int(high), n - 1)])
    return Estimate(float(np.median(values)), low_value, high_value, n, "binomial 95 %")


def copy_spurious_generalized(
    samples: Vectors, second_samples: Vectors, references: Vectors, unseen: Vectors
) -> list[Estimate]:
    """Shares of samples that are copies, spurious, or generalized; they sum to 1.

    Parameters
    ----------
    samples, second_samples
        Two sets from the same model.
    references
        As many training images as second samples, since the larger set would be nearer by its
        size alone.
    unseen
        Images that the model was not trained on, which set the threshold.

    Returns
    -------
    estimates
        ``copy``: as near to one of the references as only 1 % of unseen images are.
        ``spurious``: no copy, and as near to a sample of the second set, so that the model draws
        it again and again. ``generalized``: neither. Wilson intervals; the label ``threshold`` is
        the distance. All are undefined, with the label ``why``, for fewer than 200 unseen images,
        of which 1 % is no quantile.

    Raises
    ------
    ValueError
        Where references and second samples are not equally many.

    References
    ----------
    Pham et al. (2025), who choose their thresholds by eye; that of unseen images is the same for
    every model of a study.
    """
    if len(references) != len(second_samples):
        raise ValueError(
            f"{len(references)} training images and {len(second_samples)} second samples are not "
            "equally near for their number alone; give as many of both"
        )
    if len(unseen) < MIN_QUANTILE_IMAGES:
        why = (
            f"{len(unseen)} unseen images set no threshold at their {COPY_QUANTILE:.0%} quantile; "
            f"{MIN_QUANTILE_IMAGES} are needed"
        )
        return [Estimate.undefined(name, len(samples), why=why) for name in KINDS]
    unseen_distances = nearest(unseen, references, 1).values[:, 0]
    # "lower" is a distance that occurs, so that exactly these images are at or below it.
    threshold = float(np.quantile(unseen_distances, COPY_QUANTILE, method="lower"))
    is_copy = nearest(samples, references, 1).values[:, 0] <= threshold
    is_repeated = nearest(samples, second_samples, 1).values[:, 0] <= threshold
    masks = (is_copy, is_repeated & ~is_copy, ~is_repeated & ~is_copy)
    return [
        Estimate.proportion(int(mask.sum()), len(samples), name, threshold=threshold)
        for name, mask in zip(KINDS, masks, strict=True)
    ]


def flatten(images: Images) -> UInt8[np.ndarray, "_n d"]:
    """Images as rows of pixels."""
    return images.reshape(len(images), -1)


@measure(
    "memorization",
    title="Memorization",
    caption=(
        "Measures of copying in pixels, for samples and for unseen images. Samples that are copies "
        "raise memorized (the fraction with d1 / d2 < 1/3, where d1 and d2 are the distances to "
        "the two nearest training images) and lower distance_ratio (the median of d1 / d2) and "
        "authenticity; compare all three with those of unseen images. The fraction "
        "nearer_to_training, of samples nearer to training images than to as many unseen ones, is "
        "0.5 without copying; its interval is over samples and over the images of both sets. Its "
        "null, nearer_by_chance, compares two halves of the unseen images. Copy, spurious and "
        "generalized are the fractions of samples that are near to a training image, near only to "
        "another sample, or near to neither, with as many training images as other samples."
    ),
    needs=("samples", "train"),
    optional=("common_samples", "matched"),
    topic="memorization",
)
def memorization(artifacts: Artifacts) -> list[Estimate]:
    """Every measure of copying, in pixels."""
    samples = flatten(artifacts.samples)
    train = flatten(artifacts.train.images)
    matched = artifacts.matched
    if matched is None:
        return memorization_metrics({"samples": samples}, train)
    unseen = flatten(matched.unseen)
    strata = matched.strata
    estimates = [
        *memorization_metrics({"samples": samples, "unseen": unseen}, train),
        nearer_to_training(samples, flatten(matched.train), unseen, strata),
        nearer_by_chance(samples, unseen, strata),
    ]
    common_samples = artifacts.common_samples  # read from disk
    if common_samples is not None and len(common_samples):
        estimates += _kinds_of_samples(artifacts, common_samples, unseen)
    return estimates


def _kinds_of_samples(
    artifacts: Artifacts, common_samples: Images, unseen: Vectors
) -> list[Estimate]:
    """Copies, spurious and generalized samples; the threshold is in the units of Table 3."""
    samples = flatten(artifacts.samples)
    count = min(len(artifacts.train.images), len(common_samples))
    subset = draw_subset(artifacts.train.labels, count)
    references = flatten(artifacts.train.images[subset])
    scale = 255.0 * samples.shape[1] ** 0.5  # to the RMS difference a pixel of [0, 1]
    estimates = []
    for estimate in copy_spurious_generalized(
        samples, flatten(common_samples[:count]), references, unseen
    ):
        threshold = estimate.labels.get("threshold")
        labels = {} if threshold is None else {"threshold": threshold / scale}
        estimates.append(estimate.labeled(**labels))
    return estimates
