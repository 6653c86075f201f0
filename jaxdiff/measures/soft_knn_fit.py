"""Fitting rho: the soft k-NN denoiser that predicts a model best, and whether that is recall.

A fit carries its uncertainty over queries. Whether the model recalls the images of its memory is
decided against as many images that the model never saw.
"""

import dataclasses
import math

import numpy as np
import scipy
from jaxtyping import Float

from jaxdiff.estimates import Estimate
from jaxdiff.measures.soft_knn import SoftKnn, Vectors, total_deviation

RHO_GRID = 2.0 ** np.arange(-4, 12.01, 0.5)  # a fit at its edge is no fit
COARSE_RHO_GRID = RHO_GRID[::2]  # enough for R^2, which is flat around the best rho
NUM_REFINED = 65  # values of rho around the best ones of the grid
NUM_RESAMPLES = 1000  # of the queries
NUM_HALVES = 20  # of either memory
GENERATOR_SEED = 0  # equal inputs give equal intervals


@dataclasses.dataclass(frozen=True)
class SoftKnnFit:
    """The soft k-NN denoiser that predicts a model best.

    Parameters
    ----------
    rho
        Its temperature over that of the memory's exact denoiser.
    k_eff
        exp(entropy of the weights), 1 to the size of the memory; geometric mean over queries.
    r2
        R^2 of its prediction, see `jaxdiff.measures.soft_knn.r_squared`.
    at_edge
        Whether rho is at the end of the grid.
    """

    rho: Estimate
    k_eff: Estimate
    r2: float
    at_edge: bool


@dataclasses.dataclass(frozen=True)
class MemoryComparison:
    """How well training images and as many unseen ones explain a model.

    Parameters
    ----------
    train, unseen
        R^2 of the best soft k-NN denoiser of either set.
    difference
        The first minus the second; above 0 where the training images explain the model better.
    train_halves, unseen_halves
        Mean R^2 of random halves of either set.
    """

    train: Estimate
    unseen: Estimate
    difference: Estimate
    train_halves: float
    unseen_halves: float


def fit_soft_knn(denoiser: SoftKnn, target: Vectors) -> SoftKnnFit:
    """Fit rho so that the soft k-NN denoiser of a memory predicts a model best.

    Parameters
    ----------
    denoiser
        The soft k-NN denoisers of the memory at the queries.
    target
        What the model predicts of the queries; squared errors are summed over all.

    Returns
    -------
    fit
        The intervals of rho and k_eff are from a bootstrap over queries in which rho is fitted
        again. The memory and the model are held.
    """
    grid = np.log(RHO_GRID)
    counts = _resample_queries(len(target))
    # A query's error at every rho is computed once: that of a resample is a weighted sum.
    best = np.argmin(counts @ _trace_errors(denoiser, target, grid).T, axis=1)
    # The error has several minima, and resamples may differ in the best one: all are refined.
    first = max(int(best.min()) - 1, 0)
    last = min(int(best.max()) + 1, len(grid) - 1)
    refined = np.linspace(grid[first], grid[last], NUM_REFINED)
    log_rho = _find_minima(refined, counts @ _trace_errors(denoiser, target, refined).T)
    entropies = np.stack([denoiser.entropies(math.exp(value)) for value in refined])
    curves = counts @ entropies.T / len(target)
    log_k = [np.interp(value, refined, row) for value, row in zip(log_rho, curves, strict=True)]
    error = float(denoiser.errors(math.exp(log_rho[0]), target).sum())
    k_eff = _bootstrap_estimate("k_eff", np.array(log_k), len(target))
    num_images = len(denoiser.rows)
    return SoftKnnFit(
        _bootstrap_estimate("rho", log_rho, len(target)).map(math.exp),
        # The t interval of the logarithm knows nothing of the size of the memory.
        k_eff.map(lambda log: min(max(math.exp(log), 1.0), num_images)),
        r2=1.0 - error / total_deviation(target),
        at_edge=not 0 < best[0] < len(grid) - 1,
    )


def _resample_queries(num_queries: int) -> Float[np.ndarray, "resample q"]:
    """How often each query is in a resample; the first one is the queries themselves."""
    rng = np.random.default_rng(GENERATOR_SEED)
    shares = np.full(num_queries, 1.0 / num_queries)
    counts = rng.multinomial(num_queries, shares, size=NUM_RESAMPLES)
    return np.concatenate([np.ones((1, num_queries)), counts])


def _trace_errors(
    denoiser: SoftKnn, target: Vectors, log_rho: Float[np.ndarray, " rho"]
) -> Float[np.ndarray, "rho q"]:
    """Each query's squared error at every rho."""
    return np.stack([denoiser.errors(math.exp(value), target) for value in log_rho])


def _find_minima(
    grid: Float[np.ndarray, " rho"], errors: Float[np.ndarray, "resample rho"]
) -> Float[np.ndarray, " resample"]:
    """Where each row is smallest on an even grid, between its points by a parabola."""
    index = np.clip(np.argmin(errors, axis=1), 1, len(grid) - 2)
    rows = np.arange(len(errors))
    before, at, after = (errors[rows, index + offset] for offset in (-1, 0, 1))
    fall = before - after
    bend = before - 2.0 * at + after
    # Without a bend the minimum is at the end of the grid toward which the error falls.
    shift = np.divide(0.5 * fall, bend, out=np.sign(fall), where=bend > 0)
    return grid[index] + (grid[1] - grid[0]) * np.clip(shift, -1.0, 1.0)


def _bootstrap_estimate(
    name: str, logarithms: Float[np.ndarray, " resample"], num_queries: int
) -> Estimate:
    """The first logarithm, with the t interval of the SD of the others."""
    # With few queries quantiles of resamples cover .90 where this covers .95: a resample of q
    # queries varies by (q - 1) / q too little.
    dof = max(num_queries - 1, 1)
    standard_error = logarithms[1:].std(ddof=1) * math.sqrt(num_queries / dof)
    half = float(scipy.stats.t.ppf(0.975, dof) * standard_error)
    value = float(logarithms[0])
    method = "bootstrap over queries, t 95 % of the log"
    return Estimate(value, value - half, value + half, num_queries, method, name=name)


def compare_memories(train: SoftKnn, unseen: SoftKnn, target: Vectors) -> MemoryComparison:
    """Whether training images explain a model better than as many unseen ones.

    Parameters
    ----------
    train, unseen
        The soft k-NN denoisers of equally many training and unseen images at the queries.
    target
        What the model predicts of the queries.

    Returns
    -------
    comparison
        The SD over random halves of both sets, drawn without replacement, is the standard error:
        that is the delete-half jackknife. Where both sets are from one population, the interval
        of the difference is above 0 in 1 to 4 % of simulations. For small sets, whose R^2 still
        grows with the number of images, it is too long, which is on the safe side.

    References
    ----------
    Shao & Wu (1989), A general theory for jackknife variance estimation.
    """
    rng = np.random.default_rng(GENERATOR_SEED)
    halves = np.array(
        [
            [_r2_of_half(memory, target, rng) for memory in (train, unseen)]
            for _ in range(NUM_HALVES)
        ]
    )
    train_r2 = _best_r2(train, target)
    unseen_r2 = _best_r2(unseen, target)
    return MemoryComparison(
        _jackknife_estimate("r2", train_r2, halves[:, 0], len(target)),
        _jackknife_estimate("r2", unseen_r2, halves[:, 1], len(target)),
        _jackknife_estimate(
            "r2_difference", train_r2 - unseen_r2, halves[:, 0] - halves[:, 1], len(target)
        ),
        *halves.mean(axis=0).tolist(),
    )


def _best_r2(memory: SoftKnn, target: Vectors) -> float:
    """R^2 of the best soft k-NN denoiser of a memory on the coarse grid."""
    error = min(float(memory.errors(rho, target).sum()) for rho in COARSE_RHO_GRID)
    return 1.0 - error / total_deviation(target)


def _r2_of_half(memory: SoftKnn, target: Vectors, rng: np.random.Generator) -> float:
    size = max(len(memory.rows) // 2, 1)
    return _best_r2(memory.subset(rng.permutation(len(memory.rows))[:size]), target)


def _jackknife_estimate(
    name: str, value: float, halves: Float[np.ndarray, " half"], num_queries: int
) -> Estimate:
    """A statistic of whole sets with the t interval of its values on halves of them."""
    # Half of the images are left out, so that the jackknife's factor, kept over left out, is 1.
    standard_error = float(halves.std(ddof=1))
    half = float(scipy.stats.t.ppf(0.975, NUM_HALVES - 1)) * standard_error
    method = f"delete-half jackknife, t 95 % over {NUM_HALVES} halves"
    return Estimate(
        value, value - half, value + half, num_queries, method, standard_error, name=name
    )
