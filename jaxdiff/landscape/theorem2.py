"""Theorem 2: what merging minima does to the shares of classes. Two laws, which the paper takes for one.

The law of Figure 3: a cell of the next grid has the majority's class of a window of cells, at random in a tie. For 2 x 2
cells and two classes p -> 3 p^2 - 2 p^3, whose odds are raised to about 1.5 near 1/2 and never to more than 2. The law of
Eq. 15: odds are raised to the number S of exclusive features, which is free. Iterates of the first are exact only where
cells are independent and windows do not overlap; a grid with exact counts is drawn without replacement.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats
from scipy.special import logit

Numbers = float | Sequence[float] | np.ndarray
Shares = Float[np.ndarray, " classes"]
Grid = Int[np.ndarray, "*grids _side _side"]


def majority_map(p: Numbers, cells: int = 4) -> np.ndarray:
    """The share of a class of share p after the vote of `cells` independent cells of two classes, a tie by lot.

    3 p^2 - 2 p^3 for 4 cells (and for 3). Raises ValueError where p is outside 0..1.
    """
    p = np.asarray(p, np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(
            f"a share of {p.min() if p.min() < 0 else p.max():g} is none; it must be between 0 and 1"
        )
    return _vote(lambda k: stats.binom.pmf(k, cells, p), cells)


def exact_count_map(count: int, total: int, cells: int = 4) -> float:
    """The expected share after one vote where exactly `count` of `total` cells are of the class: drawn without replacement."""
    return float(_vote(lambda k: stats.hypergeom.pmf(k, total, count, cells), cells))


def _vote(probability: Callable[[int], np.ndarray], cells: int) -> np.ndarray:
    return np.asarray(
        sum(
            probability(k) * (1.0 if 2 * k > cells else 0.5)
            for k in range((cells + 1) // 2, cells + 1)
        )
    )


def plurality_map(shares: Numbers, cells: int = 4) -> Shares:
    """The shares of any number of classes after the vote: the sum over every count of classes, ties by lot."""
    p = np.asarray(shares, np.float64)
    found = np.zeros(len(p))
    for counts in _compositions(cells, len(p)):
        first = counts == counts.max()
        found += first / first.sum() * stats.multinomial.pmf(counts, cells, p)
    return found


def _compositions(total: int, parts: int) -> Iterator[np.ndarray]:
    if parts == 1:
        yield np.array([total])
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield np.concatenate([[first], rest])


def iterates(p: Numbers, levels: int, cells: int = 4) -> np.ndarray:
    """p, its image, the image's image, ...: [levels + 1, ...]."""
    found = [np.asarray(p, np.float64)]
    for _ in range(levels):
        found.append(majority_map(found[-1], cells))
    return np.stack(found)


def odds(p: float | int, q: float | int, features: float | int) -> float:
    """(p / q)^S, the odds of the majority after smoothing (Eq. 15). Raises ValueError unless p and q are positive."""
    if not (p > 0 and q > 0):
        raise ValueError(f"p is {p:g} and q is {q:g}; odds need two positive shares or counts")
    return (p / q) ** features


def exponent(trained: Numbers, generated: Numbers) -> np.ndarray:
    """S = logit(generated) / logit(trained), the number of features that Eq. 15 would need; nan at a share of 1/2."""
    before, after = logit(np.asarray(trained, np.float64)), logit(np.asarray(generated, np.float64))
    return np.divide(
        after,
        before,
        out=np.full(np.broadcast_shapes(before.shape, after.shape), np.nan),
        where=before != 0,
    )


def grids(
    shares: Numbers, side: int, count: int, rng: np.random.Generator, exact: bool = False
) -> Grid:
    """`count` grids of classes [count, side, side]: cells independent, or (exact) each class its rounded share of every grid."""
    p = np.asarray(shares, np.float64)
    if not exact:
        return rng.choice(len(p), size=(count, side, side), p=p)
    ends = np.rint(np.cumsum(p) * side * side).astype(int)
    labels = np.searchsorted(ends, np.arange(side * side), side="right")
    return rng.permuted(np.tile(labels, (count, 1)), axis=1).reshape(count, side, side)


def coarsen(grid: Grid, classes: int, rng: np.random.Generator, window: int = 2) -> Grid:
    """Each window of window x window cells as one cell of its most frequent class, a tie by lot."""
    side = grid.shape[-1]
    if side % window:
        raise ValueError(
            f"a grid of {side} x {side} cells has no whole windows of {window} x {window}"
        )
    parts = grid.reshape(*grid.shape[:-2], side // window, window, side // window, window)
    votes = np.stack([(parts == c).sum(axis=(-3, -1)) for c in range(classes)], axis=-1)
    return np.argmax(
        votes + rng.random(votes.shape), axis=-1
    )  # less than one vote: it decides ties alone


def hierarchy(grid: Grid, classes: int, rng: np.random.Generator, window: int = 2) -> list[Grid]:
    """The grid and its coarser ones, as far as whole windows go."""
    found = [grid]
    while found[-1].shape[-1] % window == 0:
        found.append(coarsen(found[-1], classes, rng, window))
    return found


def shares_by_level(levels: list[Grid], of: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A class's mean share at each level over many grids, and its standard error."""
    each = [(level == of).mean(axis=(-2, -1)) for level in levels]
    return np.array([x.mean() for x in each]), np.array(
        [x.std(ddof=1) / math.sqrt(len(x)) for x in each]
    )
