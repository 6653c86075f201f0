"""Training sets of a dataset: mixtures of classes or groups, and the largest that can be had.

The two forms of an image of a paired dataset never stand in one mixture. Group g is class g // 2,
without (even) or with (odd) the dataset's attribute.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jaxdiff.datasets.dataset import Dataset
from jaxdiff.datasets.mixtures import group_counts, max_mixture_size, mixture, shuffled_part


def training_set(
    dataset: Dataset,
    counts: Mapping[int, int],
    *,
    part: int,
    parts: int,
    seed: int,
    grouped: bool = False,
) -> Int[np.ndarray, " n"]:
    """Indices of a mixture of the generator's pool with exact numbers of images.

    Parameters
    ----------
    dataset
        Where the images come from.
    counts
        Images of each class; of each group where `grouped`.
    part, parts, seed
        Parts with the same seed are disjoint; with equal part and seed a smaller mixture is
        contained in a larger one.
    grouped
        Whether the keys of `counts` are groups.

    Returns
    -------
    numpy.ndarray
        Indices, ascending.

    Raises
    ------
    ValueError
        Where a part has too few images, or the dataset has no groups.
    """
    if dataset.paired_offset:
        groups = counts if grouped else _halve_classes(counts)
        return _paired_training_set(dataset, groups, part=part, parts=parts, seed=seed)
    keys = dataset.groups if grouped else dataset.labels
    if keys is None:
        raise ValueError(f"{dataset.name} has no groups; name the attribute that makes them")
    generator = dataset.pools["generator"]
    indices = mixture(keys[generator], counts, part=part, parts=parts, seed=seed)
    # in the dataset's order, which reads the files from front to back
    return np.sort(generator[indices])


def _halve_classes(counts: Mapping[int, int]) -> dict[int, int]:
    """Counts of groups from counts of classes: half of each class in either form."""
    groups = {}
    for label, count in counts.items():
        groups[2 * label] = (count + 1) // 2
        groups[2 * label + 1] = count // 2
    return groups


def _paired_training_set(
    dataset: Dataset, groups: Mapping[int, int], *, part: int, parts: int, seed: int
) -> Int[np.ndarray, " n"]:
    offset = dataset.paired_offset
    generator = dataset.pools["generator"]
    first_forms = generator[generator < offset]
    selected = []
    for label in sorted({group // 2 for group in groups}):
        first_count = groups.get(2 * label, 0)
        second_count = groups.get(2 * label + 1, 0)
        order = shuffled_part(
            first_forms[dataset.labels[first_forms] == label],
            first_count + second_count,
            label,
            part=part,
            parts=parts,
            seed=seed,
        )
        # First forms are taken from the front of the order and second ones from its end, so that
        # no image stands in both and a smaller set is contained in a larger one.
        selected.append(order[:first_count])
        selected.append(order[::-1][:second_count] + offset)
    return np.sort(np.concatenate(selected))


def max_train_size(
    dataset: Dataset, classes: Sequence[int], proportions: Sequence[float], parts: int
) -> int:
    """The largest n that the generator's pool has at these proportions of these classes."""
    labels = dataset.labels[dataset.pools["generator"]]
    sizes = [_count_images(dataset, labels, label) for label in classes]
    return max_mixture_size(sizes, proportions, parts)


def max_grouped_train_size(
    dataset: Dataset, classes: Sequence[int], shares: Sequence[float], parts: int, below: int
) -> int:
    """The largest n below a bound that the pool has at these shares of the groups.

    Parameters
    ----------
    dataset
        Where the images come from.
    classes
        The two classes, majority first.
    shares
        Share of each group: each class without and with the attribute.
    parts
        Number of disjoint parts of the pool.
    below
        n is smaller than this.
    """
    if dataset.paired_offset or dataset.groups is None:
        # of a pair either form can be had, so that the class alone limits the count
        keys = dataset.labels
        values = list(classes)
    else:
        keys = dataset.groups
        values = [2 * label + i for label in classes for i in (0, 1)]
    keys = keys[dataset.pools["generator"]]
    available = [_count_images(dataset, keys, value) // parts for value in values]
    for n in range(below - 1, 0, -1):
        try:
            counts = group_counts(n, shares)
        except ValueError:
            return 0
        if dataset.paired_offset:
            counts = [counts[0] + counts[1], counts[2] + counts[3]]
        if all(count <= limit for count, limit in zip(counts, available, strict=True)):
            return n
    return 0


def _count_images(dataset: Dataset, keys: Int[np.ndarray, " n"], value: int) -> int:
    """Images of a class or group, each pair counted once."""
    count = int((keys == value).sum())
    return count // 2 if dataset.paired_offset else count
