"""Theorem 2: what merging minima does to the shares of classes; two laws, which differ.

The law of Figure 3: a cell of the next grid has the majority's class of a window of cells, at
random in a tie. For 2 x 2 cells and two classes p -> 3 p^2 - 2 p^3, whose odds are raised to
about 1.5 near 1/2 and never to more than 2. The law of Eq. 15: odds are raised to the number S of
exclusive features, which is free. The paper takes the two for one.

Iterates of the first are exact only where cells are independent and windows do not overlap; a
grid with exact counts is drawn without replacement.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Int
from scipy.special import logit

Numbers = float | Sequence[float] | np.ndarray
Grid = Int[np.ndarray, "*grids _side _side"]


def majority_map(p: Numbers, cells: int = 4) -> np.ndarray:
    """Share of a class after the vote of independent cells of two classes, a tie by lot.

    Parameters
    ----------
    p
        Share of the class before, in 0..1.
    cells
        Number of cells that vote.

    Returns
    -------
    share
        3 p^2 - 2 p^3 for 4 cells (and for 3).

    Raises
    ------
    ValueError
        Where p is outside 0..1.

    References
    ----------
    Figure 3 of the paper.
    """
    p = np.asarray(p, np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        outside = p.min() if p.min() < 0 else p.max()
        raise ValueError(f"a share must be between 0 and 1, got {outside:g}")
    share = np.zeros_like(p)
    for votes in range((cells + 1) // 2, cells + 1):
        # Half of the ties are won.
        chance_to_win = 1.0 if 2 * votes > cells else 0.5
        share = share + scipy.stats.binom.pmf(votes, cells, p) * chance_to_win
    return np.asarray(share)


def iterates(p: Numbers, levels: int, cells: int = 4) -> np.ndarray:
    """p, its image by `majority_map`, the image's image, ...: [levels + 1, ...]."""
    shares = [np.asarray(p, np.float64)]
    for _ in range(levels):
        shares.append(majority_map(shares[-1], cells))
    return np.stack(shares)


def odds(p: float | int, q: float | int, features: float | int) -> float:
    """Odds of the majority after smoothing, (p / q)^S.

    Parameters
    ----------
    p, q
        Shares or counts of the majority and the minority.
    features
        S, the number of exclusive features.

    Returns
    -------
    odds
        Odds of the majority.

    Raises
    ------
    ValueError
        Unless p and q are positive.

    References
    ----------
    Eq. 15 of the paper.
    """
    if not (p > 0 and q > 0):
        raise ValueError(f"p and q must be positive shares or counts, got p = {p:g}, q = {q:g}")
    return (p / q) ** features


def exponent(trained: Numbers, generated: Numbers) -> np.ndarray:
    """The S that Eq. 15 would need, logit(generated) / logit(trained); nan at a share of 1/2."""
    before = logit(np.asarray(trained, np.float64))
    after = logit(np.asarray(generated, np.float64))
    undefined = np.full(np.broadcast_shapes(before.shape, after.shape), np.nan)
    return np.divide(after, before, out=undefined, where=before != 0)


def sample_grids(
    shares: Numbers, side: int, count: int, rng: np.random.Generator, *, exact: bool = False
) -> Grid:
    """Random grids of classes, [count, side, side].

    Cells are independent; or, with `exact`, each class has its rounded share of every grid.
    """
    p = np.asarray(shares, np.float64)
    cells = side * side
    if not exact:
        return rng.choice(len(p), size=(count, side, side), p=p)
    ends = np.rint(np.cumsum(p) * side * side).astype(int)
    # Cell i has the first class whose cumulated count is above i.
    labels = np.searchsorted(ends, np.arange(cells), side="right")
    return rng.permuted(np.tile(labels, (count, 1)), axis=1).reshape(count, side, side)


def coarsen(grid: Grid, classes: int, rng: np.random.Generator, window: int = 2) -> Grid:
    """Each window of window x window cells as one cell of its most frequent class, a tie by lot.

    Raises ValueError where windows do not fill the grid.
    """
    side = grid.shape[-1]
    if side % window:
        raise ValueError(
            f"a grid's side must be a multiple of the window's {window} cells, got {side}"
        )
    # [..., row of windows, row in it, column of windows, column in it]
    windows = grid.reshape(*grid.shape[:-2], side // window, window, side // window, window)
    by_class = [(windows == label).sum(axis=(-3, -1)) for label in range(classes)]
    votes = np.stack(by_class, axis=-1)
    # The lot is less than one vote: it decides ties alone.
    return np.argmax(votes + rng.random(votes.shape), axis=-1)


def coarsen_fully(
    grid: Grid, classes: int, rng: np.random.Generator, window: int = 2
) -> list[Grid]:
    """The grid and its coarser ones, as long as windows fill them."""
    grids = [grid]
    while grids[-1].shape[-1] % window == 0:
        grids.append(coarsen(grids[-1], classes, rng, window))
    return grids


def shares_by_level(levels: Sequence[Grid], label: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A class's mean share at each level over many grids, and its standard error."""
    means = []
    errors = []
    for grids in levels:
        shares = (grids == label).mean(axis=(-2, -1))
        means.append(shares.mean())
        errors.append(shares.std(ddof=1) / math.sqrt(len(shares)))
    return np.array(means), np.array(errors)
