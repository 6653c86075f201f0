"""Class mixtures at exact proportions: which images of a pool make a training set."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Num


def exact_counts(n: int, proportions: Sequence[float]) -> list[int]:
    """Split n by proportions into whole numbers.

    Raises
    ------
    ValueError
        Where the proportions do not sum to 1 or do not give whole images.
    """
    if abs(sum(proportions) - 1.0) > 1e-9 or min(proportions) < 0:
        raise ValueError(
            f"proportions {tuple(proportions)} sum to {sum(proportions):g}; "
            "they must be >= 0 and sum to 1"
        )
    counts = [round(n * share) for share in proportions]
    # 300 x 0.9 is not exactly 270 in floating point
    errors = [abs(n * share - count) for share, count in zip(proportions, counts, strict=True)]
    if max(errors) > 1e-6:
        raise ValueError(
            f"{n} images cannot be split as {tuple(proportions)} exactly; "
            "choose n so that n x each share is whole"
        )
    return counts


def group_counts(n: int, shares: Sequence[float]) -> list[int]:
    """Split n by shares into whole numbers by the largest remainders.

    Raises
    ------
    ValueError
        Where the shares do not sum to 1, or a share above 0 is left without an image.
    """
    if abs(sum(shares) - 1.0) > 1e-9 or min(shares) < 0:
        raise ValueError(
            f"shares {tuple(shares)} sum to {sum(shares):g}; they must be >= 0 and sum to 1"
        )
    # n x share is often a hair below a whole number in floating point
    counts = [int(n * share + 1e-9) for share in shares]
    # By minus the remainder: the largest come first, and get the images that are missing.
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - n * shares[i])
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    if any(share and not count for share, count in zip(shares, counts, strict=True)):
        raise ValueError(
            f"{n} images split as {tuple(shares)} leave a group without an image; choose a larger n"
        )
    return counts


def max_mixture_size(sizes: Sequence[int], proportions: Sequence[float], parts: int = 1) -> int:
    """The largest n that `exact_counts` splits and the pools of the classes can serve.

    Parameters
    ----------
    sizes
        Images of each class.
    proportions
        Share of each class in the mixture.
    parts
        Number of disjoint parts into which each pool is cut.
    """
    limits = [
        int(size // parts / share) for size, share in zip(sizes, proportions, strict=True) if share
    ]
    for n in range(min(limits), 0, -1):
        if all(abs(n * share - round(n * share)) < 1e-6 for share in proportions):
            return n
    return 0


def mixture(
    labels: Int[np.ndarray, " n"],
    counts: Mapping[int, int],
    *,
    part: int = 0,
    parts: int = 1,
    seed: int = 0,
) -> Int[np.ndarray, " selected"]:
    """Indices of a mixture with exactly ``counts[c]`` images of class c.

    Classes stand in the order of `counts`. Parts with the same seed are disjoint (part i of `parts`
    equal ones); with equal part and seed a smaller mixture is contained in a larger one.

    Raises
    ------
    ValueError
        Naming class and number, where a part has too few images.
    """
    selected = []
    for label, count in counts.items():
        pool = np.flatnonzero(labels == label)
        order = shuffled_part(pool, count, label, part=part, parts=parts, seed=seed)
        selected.append(order[:count])
    return np.concatenate(selected)


def match_counts(
    labels: Int[np.ndarray, " n"], other_labels: Int[np.ndarray, " m"]
) -> dict[int, int]:
    """Images of each class in the largest sets that two pools can both give at the first's mix.

    The most frequent class of the first pool comes in whole: all that both pools have of it. The
    others follow in the mix of the first pool, each with at least one image; where a pool has too
    few, with all that both have, so that a scarce class shrinks itself and not the sets. Where the
    other pool has none of the most frequent class, nothing can be matched: all counts are 0.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    available = [
        min(int(size), int((other_labels == label).sum()))
        for label, size in zip(classes, sizes, strict=True)
    ]
    largest = int(np.argmax(sizes))
    scale = available[largest] / sizes[largest]
    if scale == 0:
        return dict.fromkeys(classes.tolist(), 0)
    counts = {}
    for label, size, limit in zip(classes, sizes, available, strict=True):
        counts[int(label)] = min(limit, max(1, round(scale * size)))
    return counts


def draw_subset(
    labels: Int[np.ndarray, " n"], count: int, seed: int = 0
) -> Int[np.ndarray, " selected"]:
    """Sorted indices of at most `count` random images with the same mix of classes."""
    count = min(count, len(labels))
    shuffle = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffle[np.argsort(labels[shuffle], kind="stable")]
    # Equal steps through the images sorted by class: each class's count is its share, rounded.
    middles = 2 * np.arange(count) + 1
    positions = middles * len(labels) // max(2 * count, 1)
    return np.sort(by_class[positions])


def draw_images(images: Num[np.ndarray, "_n ..."], count: int) -> Num[np.ndarray, "_selected ..."]:
    """At most `count` random images in their order; the first ones may be of one class."""
    return images[draw_subset(np.zeros(len(images), int), count)]


def shuffled_part(
    pool: Int[np.ndarray, " pool"], count: int, label: int, *, part: int, parts: int, seed: int
) -> Int[np.ndarray, " part"]:
    """A part of a class's pool in the seed's order.

    Raises
    ------
    ValueError
        Naming class and number, where the part has fewer than `count` images.
    """
    size = len(pool) // parts
    if count > size:
        raise ValueError(
            f"{count} images of class {label} were asked for and {size} can be had "
            f"({len(pool)} in the pool, split into {parts})"
        )
    # A stream of its own: a class's order depends on no other class, nor on the number asked for.
    order = np.random.default_rng([seed, label]).permutation(pool)
    return order[part * size : (part + 1) * size]
