"""Class mixtures at exact proportions: which images of a pool make a training set."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int


def exact_counts(n: int, proportions: Sequence[float]) -> list[int]:
    """n split by `proportions`. Raises ValueError where they do not sum to 1 or do not give whole images."""
    if abs(sum(proportions) - 1.0) > 1e-9 or min(proportions) < 0:
        raise ValueError(
            f"proportions {tuple(proportions)} sum to {sum(proportions):g}; they must be >= 0 and sum to 1"
        )
    counts = [round(n * p) for p in proportions]
    if any(abs(n * p - c) > 1e-6 for p, c in zip(proportions, counts, strict=True)):
        raise ValueError(
            f"{n} images cannot be split as {tuple(proportions)} exactly; choose n so that n x each share is whole"
        )
    return counts


def group_counts(n: int, shares: Sequence[float]) -> list[int]:
    """n split by `shares` to whole images by the largest remainders. Raises ValueError where a share is left without one."""
    if abs(sum(shares) - 1.0) > 1e-9 or min(shares) < 0:
        raise ValueError(
            f"shares {tuple(shares)} sum to {sum(shares):g}; they must be >= 0 and sum to 1"
        )
    counts = [int(n * share + 1e-9) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - n * shares[i])
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    if any(share and not count for share, count in zip(shares, counts, strict=True)):
        raise ValueError(
            f"{n} images split as {tuple(shares)} leave a group without one; choose a larger n"
        )
    return counts


def most_images(sizes: Sequence[int], proportions: Sequence[float], parts: int = 1) -> int:
    """The largest n that `exact_counts` splits and pools of `sizes` images a class, cut into `parts`, can serve."""
    limit = min(int(size // parts / p) for size, p in zip(sizes, proportions, strict=True) if p)
    for n in range(limit, 0, -1):
        if all(abs(n * p - round(n * p)) < 1e-6 for p in proportions):
            return n
    return 0


def mixture(
    labels: Int[np.ndarray, " n"],
    counts: Mapping[int, int],
    *,
    part: int = 0,
    parts: int = 1,
    seed: int = 0,
) -> Int[np.ndarray, " chosen"]:
    """Indices of a mixture with exactly `counts[c]` images of class c, classes in the order of `counts`.

    Parts with the same seed are disjoint (part i of `parts` equal ones); with equal part and seed a smaller mixture
    is contained in a larger one. Raises ValueError, naming class and number, where a part has too few images.
    """
    options = {"part": part, "parts": parts, "seed": seed}
    return np.concatenate(
        [
            part_of(np.flatnonzero(labels == label), count, label, **options)[:count]
            for label, count in counts.items()
        ]
    )


def part_of(
    pool: Int[np.ndarray, " pool"], count: int, label: int, *, part: int, parts: int, seed: int
) -> Int[np.ndarray, " part"]:
    """The pool's part in the seed's order. Raises ValueError, naming class and number, where it has fewer than `count` images."""
    share = len(pool) // parts
    if count > share:
        raise ValueError(
            f"{count} images of class {label} were asked for and {share} can be had "
            f"({len(pool)} in the pool, split into {parts})"
        )
    return np.random.default_rng([seed, label]).permutation(pool)[part * share : (part + 1) * share]
