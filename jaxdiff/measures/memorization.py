"""How much samples copy the training images.

Nearness alone is no copying, since unseen images, on which no model was trained, are near to
training images too: every measure is reported beside the same measure of unseen images, or against
them. Images are rows [n, d] of any number type in one space, in which distances are Euclidean
(uint8 pixels are not copied as floats).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int, Num, UInt8

from jaxdiff.datasets.mixtures import draw_subset, mixture
from jaxdiff.estimates import NORMAL_QUANTILE, Estimate, wilson
from jaxdiff.measures.artifacts import Artifacts, Images
from jaxdiff.measures.exact_knn import nearest, two_nearest
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
MIN_REFERENCES = 10  # of either kind: with fewer, intervals cover too rarely
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


def nearer_to_training(
    samples: Vectors,
    train: Vectors,
    unseen: Vectors,
    strata: Int[np.ndarray, " r"] | None = None,
) -> Estimate:
    """The fraction of samples that are nearer to a training image than to any unseen one.

    It compares the distances to the closest record (Meehan et al. 2020 test the same two). A sample
    that is as near to both counts half.

    Parameters
    ----------
    samples
        Images of a model.
    train, unseen
        r images each.
    strata
        Class of the i-th image of both sets; by default all are of one class.

    Returns
    -------
    estimate
        0.5 without copying, larger with it. The interval is over references of either kind and
        over samples: Wilson's at the number of independent samples that would be as uncertain.
        Undefined, with the label ``why``, for fewer than 10 references of either kind.

    Raises
    ------
    ValueError
        Where the two sets are not equally large.

    References
    ----------
    Korn & Graubard (1998) for intervals at an effective sample size.
    """
    if len(train) != len(unseen):
        raise ValueError(
            f"{len(train)} training and {len(unseen)} unseen images were given, and the larger "
            "set is nearer by its size alone; give as many of both, as `Artifacts.matched` has them"
        )
    if len(train) < MIN_REFERENCES:
        why = f"{len(train)} references of either kind; {MIN_REFERENCES} are needed"
        return Estimate.undefined("nearer_to_training", len(samples), why=why)
    nearest_train = nearest(samples, train, 1)
    nearest_unseen = nearest(samples, unseen, 1)
    # 1 where a training image is nearer, 0 where an unseen one is, 1/2 where neither.
    sides = np.sign(nearest_unseen.values[:, 0] - nearest_train.values[:, 0])
    is_nearer = (1.0 + sides.astype(float)) / 2
    count = len(samples)
    to_train = np.bincount(nearest_train.indices[:, 0], is_nearer / count, len(train))
    to_unseen = np.bincount(nearest_unseen.indices[:, 0], (1.0 - is_nearer) / count, len(unseen))
    value = float(is_nearer.mean())
    if strata is None:
        strata = np.zeros(len(train), int)
    strata = _merge_single_strata(strata)
    deviations = _Deviations(_deviate(to_train, strata), _deviate(to_unseen, strata))
    trials = _effective_trials(value, count, deviations)
    low, high = wilson(value * trials, trials)
    method = "Wilson 95 % over references and samples"
    return Estimate(value, low, high, count, method, name="nearer_to_training")


class _Deviations(NamedTuple):
    """How far each reference's fraction of the samples is from the mean of its class.

    A few references are nearest to many samples (hubs), and whether these few are training images
    is chance. So references are what is resampled, each with the samples that are nearest to it:
    the fraction nearer to training images is a ratio of totals over references, of which every
    class has a fixed number of either kind, and the sum of the squares of its influences is its
    variance (Cochran 1977, section 6.11). The chance that is in drawing samples is part of it,
    since it is in the references' counts.
    """

    train: Float[np.ndarray, " r"]
    unseen: Float[np.ndarray, " r"]

    def influences(self, nearer: float) -> Float[np.ndarray, " n"]:
        """What each reference adds to the fraction of samples nearer to training images.

        Of the totals of both kinds, whose sum is 1, the fraction a / (a + b) has the derivatives
        1 - nearer and -nearer; the sign is lost in the squares.
        """
        return np.concatenate([(1.0 - nearer) * self.train, nearer * self.unseen])


def _deviate(
    fractions: Float[np.ndarray, " r"], strata: Int[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """Deviations from the mean of each stratum, whose squares estimate its variance."""
    deviations = np.empty(len(fractions))
    for label in np.unique(strata):
        members = strata == label
        size = int(members.sum())
        scale = math.sqrt(size / (size - 1))
        deviations[members] = scale * (fractions[members] - fractions[members].mean())
    return deviations


def _merge_single_strata(strata: Int[np.ndarray, " r"]) -> Int[np.ndarray, " r"]:
    """Strata of two references and more: those of one join the smallest other, to show a spread."""
    labels, sizes = np.unique(strata, return_counts=True)
    num_single = int((sizes == 1).sum())
    if num_single == 0:
        return strata
    smallest = labels[np.argsort(sizes, kind="stable")][: num_single + 1]
    return np.where(np.isin(strata, smallest), smallest[0], strata)


def _effective_trials(value: float, count: int, deviations: _Deviations) -> float:
    """The number of independent samples whose fraction is as uncertain, at most `count`.

    p (1 - p) / V (z / t)^2, with the variance V of the fraction p, the normal quantile z, and the
    t quantile at Satterthwaite's degrees of freedom (Korn & Graubard 1998). A few hubs make up most
    of V, so that V is itself uncertain; t allows for that. At p = 0 or 1 there is no V, and near
    them it is too small: it is never more than the number at p = 1/2, which is 1 where a single
    reference is nearest to all samples.
    """
    influences = deviations.influences(value)
    squares = influences**2
    variance = float(squares.sum())
    variance_at_half = float(np.square(deviations.influences(0.5)).sum())
    # Where all references are equally near, samples alone are chance.
    largest = min(count, 0.25 / variance_at_half) if variance_at_half > 0 else count
    binomial_variance = value * (1 - value)  # of one independent sample
    if binomial_variance * variance <= 0:
        return float(largest)
    variance_of_squares = float(np.square(squares).sum()) - variance**2 / len(squares)
    quantile = NORMAL_QUANTILE
    if variance_of_squares > 0:
        # 2 V^2 over the variance of V, which is a sum of as many squares as there are references.
        quantile = float(scipy.stats.t.ppf(0.975, 2 * variance**2 / variance_of_squares))
    return min(largest, binomial_variance / variance) * (NORMAL_QUANTILE / quantile) ** 2


def nearer_by_chance(
    samples: Vectors, unseen: Vectors, strata: Int[np.ndarray, " r"] | None = None
) -> Estimate:
    """The same fraction between two random halves of the unseen images.

    It is 0.5 up to chance, and shows what `nearer_to_training` may be without copying; chance is
    larger here, since halves have half as many references.

    Parameters
    ----------
    samples
        Images of a model.
    unseen
        Images that it was not trained on.
    strata
        Class of each unseen image, of which either half gets as many.

    Returns
    -------
    estimate
        Undefined where no class has two unseen images.
    """
    if strata is None:
        strata = np.zeros(len(unseen), int)
    labels, sizes = np.unique(strata, return_counts=True)
    # An odd image of a class is left out.
    counts = {int(label): int(size) // 2 for label, size in zip(labels, sizes, strict=True)}
    first, second = (mixture(strata, counts, part=part, parts=2) for part in (0, 1))
    if not len(first):
        why = f"{len(unseen)} unseen images have no halves"
        return Estimate.undefined("nearer_by_chance", len(samples), why=why)
    estimate = nearer_to_training(samples, unseen[first], unseen[second], strata[first])
    return estimate.named("nearer_by_chance")


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
