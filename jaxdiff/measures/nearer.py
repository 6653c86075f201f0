"""Whether samples are nearer to the training images than to as many unseen images.

Images are rows [n, d] of any number type in one space, in which distances are Euclidean.
"""

import math
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int, Num

from jaxdiff.datasets.mixtures import mixture
from jaxdiff.estimates import NORMAL_QUANTILE, Estimate, wilson
from jaxdiff.measures.exact_knn import nearest

Vectors = Num[np.ndarray, "_n d"]
MIN_REFERENCES = 10  # of either kind: with fewer, intervals cover too rarely


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
