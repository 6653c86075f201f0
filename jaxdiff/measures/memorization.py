"""How much samples copy the training images.

Nearness alone is no copying, since held-out images are near to training images too: every measure
is reported beside the same measure of held-out images, or against them. Images are rows [n, d] of
any number type in one space, in which distances are Euclidean (uint8 pixels are not copied as
floats).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Num, UInt8
from scipy import stats

from jaxdiff.estimates import Estimate
from jaxdiff.measures.artifacts import Artifacts, Images
from jaxdiff.measures.exact_knn import nearest
from jaxdiff.measures.registry import measure

Vectors = Num[np.ndarray, "_n d"]
MAX_RATIO = 1 / 3  # below this d1 / d2 a sample counts as memorized (Yoon et al. 2023)
# Fraction of held-out images that are nearer to a training image than the threshold of a copy.
COPY_QUANTILE = 0.01


def memorization_metrics(sets: Mapping[str, Vectors], train: Vectors) -> list[Estimate]:
    """How near each set of images is to the training images.

    Parameters
    ----------
    sets
        Images by name; one set should be held-out images.
    train
        At least three training images.

    Returns
    -------
    estimates
        For each set, with Wilson intervals (the median's by the binomial):
        ``memorized``: the fraction with d1 / d2 < 1/3, the distances to the nearest and second
        nearest training image; it has the values of the single images.
        ``distance_ratio``: the median of d1 / d2, 0..1; smaller is more copying.
        ``authenticity``: the fraction that is farther from its nearest training image than that is
        from another one, 0..1; larger is less copying.

    Raises
    ------
    ValueError
        For fewer than three training images.

    References
    ----------
    Yoon et al. (2023) for ``memorized``; Alaa et al. (2022) for ``authenticity``.
    """
    if len(train) < 3:
        raise ValueError(
            f"{len(train)} training images have no nearest two each; at least 3 are needed"
        )
    neighbors = {name: nearest(images, train, 2) for name, images in sets.items()}
    # Each training image that is nearest to some image, and its distance to another one.
    nearest_indices = np.concatenate([result.indices[:, 0] for result in neighbors.values()])
    train_indices = np.unique(nearest_indices)
    train_distances = nearest(train[train_indices], train, 2).values[:, 1]
    estimates = []
    for name, (distances, indices) in neighbors.items():
        n = len(distances)
        # Where two training images equal a sample both distances are 0, and so is the ratio.
        ratio = distances[:, 0] / np.maximum(distances[:, 1], 1e-12)
        memorized = ratio < MAX_RATIO
        positions = np.searchsorted(train_indices, indices[:, 0])
        authentic = distances[:, 0] > train_distances[positions]
        fraction = Estimate.proportion(int(memorized.sum()), n, "memorized", images=name)
        estimates += [
            dataclasses.replace(fraction, values=memorized.astype(float).tolist()),
            _median(ratio).named("distance_ratio", images=name),
            Estimate.proportion(int(authentic.sum()), n, "authenticity", images=name),
        ]
    return estimates


def _median(values: Float[np.ndarray, " n"]) -> Estimate:
    """The median, with the binomial interval of order statistics."""
    n = len(values)
    low, high = stats.binom.interval(0.95, n, 0.5)
    ordered = np.sort(values)
    low_value = float(ordered[max(int(low) - 1, 0)])
    high_value = float(ordered[min(int(high), n - 1)])
    return Estimate(float(np.median(values)), low_value, high_value, n, "binomial 95 %")


def nearer_to_training(samples: Vectors, train: Vectors, held_out: Vectors) -> Estimate:
    """The fraction of samples that are nearer to a training image than to any held-out one.

    It compares the distances to the closest record (Meehan et al. 2020 test the same two). Samples
    that are as near to both are left out.

    Parameters
    ----------
    samples
        Images of a model.
    train, held_out
        As many training as held-out images, with the same class mix.

    Returns
    -------
    estimate
        0.5 without copying, larger with it; Wilson interval.
    """
    train_distances = nearest(samples, train, 1).values[:, 0]
    held_out_distances = nearest(samples, held_out, 1).values[:, 0]
    nearer = int((train_distances < held_out_distances).sum())
    untied = int((train_distances != held_out_distances).sum())
    return Estimate.proportion(nearer, untied, "nearer_to_training")


def copy_spurious_novel(
    samples: Vectors, second_samples: Vectors, train: Vectors, held_out: Vectors
) -> list[Estimate]:
    """Shares of samples that are copies, spurious, or generalized; they sum to 1.

    Parameters
    ----------
    samples, second_samples
        Two sets from the same model.
    train, held_out
        Training images, and held-out images that set the threshold.

    Returns
    -------
    estimates
        ``copy``: as near to a training image as only 1 % of held-out images are.
        ``spurious``: no copy, and as near to a sample of the second set, so that the model draws
        it again and again. ``generalized``: neither. Wilson intervals; the label ``threshold`` is
        the distance.

    References
    ----------
    Pham et al. (2025), who choose their thresholds by eye; that of held-out images is the same for
    every model of a study.
    """
    held_out_distances = nearest(held_out, train, 1).values[:, 0]
    # "lower" is a distance that occurs, so that exactly these images are at or below it.
    threshold = float(np.quantile(held_out_distances, COPY_QUANTILE, method="lower"))
    is_copy = nearest(samples, train, 1).values[:, 0] <= threshold
    is_repeated = nearest(samples, second_samples, 1).values[:, 0] <= threshold
    masks = {
        "copy": is_copy,
        "spurious": is_repeated & ~is_copy,
        "generalized": ~is_repeated & ~is_copy,
    }
    return [
        Estimate.proportion(int(mask.sum()), len(samples), name, threshold=threshold)
        for name, mask in masks.items()
    ]


def flatten(images: Images) -> UInt8[np.ndarray, "_n d"]:
    """Images as rows of pixels."""
    return images.reshape(len(images), -1)


@measure(
    "memorization",
    title="Memorization",
    caption=(
        "Compare memorized (d1 / d2 < 1/3 among the training images), distance_ratio and "
        "authenticity with the same of held-out images: the last two fall with copying. "
        "nearer_to_training is 0.5 without copying; copy, spurious and generalized samples are "
        "near to a training image, to another sample, or to neither."
    ),
    needs=("samples", "train"),
    optional=("common_samples", "matched"),
    topic="memorization",
)
def memorization(artifacts: Artifacts) -> list[Estimate]:
    """Every measure of copying, in pixels."""
    samples = flatten(artifacts.samples)
    train = flatten(artifacts.train.images)
    if artifacts.matched is None:
        return memorization_metrics({"samples": samples}, train)
    matched_train = flatten(artifacts.matched.train)
    held_out = flatten(artifacts.matched.held_out)
    estimates = memorization_metrics({"samples": samples, "held_out": held_out}, train)
    estimates.append(nearer_to_training(samples, matched_train, held_out))
    common_samples = artifacts.common_samples
    if common_samples is None or not len(common_samples):
        return estimates
    # The threshold in the units of Table 3: the RMS difference a pixel of [0, 1].
    scale = 255.0 * samples.shape[1] ** 0.5
    for estimate in copy_spurious_novel(samples, flatten(common_samples), train, held_out):
        threshold = estimate.labels["threshold"] / scale
        estimates.append(estimate.labeled(threshold=threshold))
    return estimates
