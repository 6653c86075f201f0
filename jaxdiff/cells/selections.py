"""Which images of a dataset's pools a model is measured on."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxdiff.datasets.dataset import Split
from jaxdiff.datasets.mixtures import match_counts, mixture
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.roles import Roles

# Pools that no model is trained on. The classifiers are trained on one of them, whose images are
# new to the models.
UNSEEN_POOLS = ("held_out", "classifier_test", "classifier")


def select_held_out(splits: Mapping[str, Split], roles: Roles) -> Split:
    """The largest set of held-out images in the class mix of the training data."""
    split = splits["held_out"]
    majority_size = int((split.labels == roles.majority).sum())
    counts = {roles.majority: majority_size}
    mix = roles.mix
    for label, share in mix.items():
        if label != roles.majority:
            target = max(round(majority_size * share / mix[roles.majority]), 1)
            counts[label] = min(target, int((split.labels == label).sum()))
    return split.select(mixture(split.labels, counts))


def select_held_out_of_classes(splits: Mapping[str, Split], roles: Roles) -> Split:
    """All held-out images of the classes of the training data."""
    split = splits["held_out"]
    return split.select(np.flatnonzero(np.isin(split.labels, roles.trained_classes)))


def select_unseen(splits: Mapping[str, Split], roles: Roles, count: int) -> Split:
    """At most `count` images in the class mix of the training data.

    They are of the pool that classifiers are tested on, so none is held out.
    """
    split = splits["classifier_test"]
    majority, *scarcer = roles.mix.items()
    # At least one image of each scarcer class, and the majority fills up to `count`.
    counts = {majority[0]: 0}
    left = count
    for label, share in scarcer:
        available = int((split.labels == label).sum())
        counts[label] = min(max(1, round(count * share)), available, left)
        left -= counts[label]
    available = int((split.labels == majority[0]).sum())
    counts[majority[0]] = min(left, available)
    return split.select(mixture(split.labels, counts))


def match_unseen(
    splits: Mapping[str, Split], groups: Int[np.ndarray, " image"] | None = None
) -> MatchedSplits | None:
    """Equally many training and unseen images of every class, see `match_counts`.

    None where no unseen image is of the most frequent class of the training data.

    Parameters
    ----------
    splits
        The training images, and the pools of their dataset.
    groups
        Group of each image of the dataset, where the training images were chosen by group: then
        groups are matched in place of classes.
    """
    train = splits["train"]
    unseen = _join([splits[name] for name in UNSEEN_POOLS])
    train_strata = train.labels if groups is None else groups[train.indices]
    unseen_strata = unseen.labels if groups is None else groups[unseen.indices]
    counts = match_counts(train_strata, unseen_strata)
    if not any(counts.values()):
        return None
    rows = mixture(train_strata, counts)
    # The unseen split may be much larger than what is taken of it: only that is read.
    unseen_images = unseen.select(mixture(unseen_strata, counts)).images
    return MatchedSplits(train.images[rows], unseen_images, train_strata[rows])


def _join(splits: Sequence[Split]) -> Split:
    """Splits of one prepared dataset as one."""
    indices = np.concatenate([split.indices for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    return Split(splits[0].source, indices, labels)
