"""The soft k-NN denoiser of a memory of images, and other denoisers to compare it with.

At noise step t, x_t = s x + sigma eps and q = x_t / s. The soft k-NN denoiser weighs memory image i
by exp(-|q - x_i|^2 / tau), tau = rho 2 sigma^2 / s^2 (Eq. 2 of the paper): rho = 1 is the exact
denoiser of the memory, and a larger rho attends to more of it. Images are float
[n, height, width, channel] in [-1, 1].
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import optimize

from jaxdiff.diffusion import Schedule
from jaxdiff.landscape.memory import softmax_weights

Queries = Float[np.ndarray, "q h w c"]
Memory = Float[np.ndarray, "m h w c"]
Vectors = Float[np.ndarray, "q d"]

RHO_GRID = 2.0 ** np.arange(-4, 12.01, 0.5)  # a fit at its edge is no fit
PATCH_SIDES = (3, 5, 7, 9)  # of the local-patch denoiser
MAX_GAUSSIAN_IMAGES = 4096  # behind the Gaussian denoiser
MAX_PATCH_IMAGES = 1024  # behind the local-patch denoiser
BLOCK = 1024  # memory images whose distances are computed at once


class NoiseLevel(NamedTuple):
    """x_t = s x0 + sigma eps."""

    s: float
    sigma: float

    @classmethod
    def at(cls, schedule: Schedule, t: int) -> "NoiseLevel":
        """The noise level of a step of a schedule."""
        alpha_bar = float(schedule.alpha_bar[t])
        return cls(alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5)

    @property
    def tau(self) -> float:
        """The temperature of the memory's exact denoiser, 2 sigma^2 / s^2."""
        return 2.0 * (self.sigma / self.s) ** 2


@dataclasses.dataclass(frozen=True)
class SoftKnnFit:
    """The soft k-NN denoiser that predicts a model best.

    Parameters
    ----------
    rho
        Its temperature over that of the memory's exact denoiser.
    r2
        R^2 of its prediction, see `r_squared`.
    k_eff
        exp(entropy of the weights) of each query, 1 to the size of the memory.
    at_edge
        Whether rho is at the end of the grid.
    """

    rho: float
    r2: float
    k_eff: Float[np.ndarray, " q"]
    at_edge: bool


class Baseline(NamedTuple):
    """R^2 of a denoiser, and the side of its patches, which only the local one has."""

    r2: float
    side: int | None = None


def squared_distances(queries: Queries, memory: Memory) -> Float[np.ndarray, "q m"]:
    """|q - x_i|^2, in float64."""
    # At low noise tau is below what float32 products err by: 3e-4 at d = 3,072.
    q = queries.reshape(len(queries), -1).astype(np.float64)
    q_squares = (q * q).sum(1)[:, None]
    squares = np.empty((len(q), len(memory)))
    for start in range(0, len(memory), BLOCK):
        block = slice(start, start + BLOCK)
        m = memory[block].reshape(-1, q.shape[1]).astype(np.float64)
        squares[:, block] = q_squares + (m * m).sum(1)[None] - 2.0 * (q @ m.T)
    return np.maximum(squares, 0.0)


def weighted_mean(weights: Float[np.ndarray, "q m"], memory: Memory) -> Vectors:
    """The weighted means of the memory's images."""
    # Unlike distances, means need no more than float32.
    return weights.astype(np.float32) @ memory.reshape(len(memory), -1)


def fit_soft_knn(xt: Queries, x0_hat: Queries, memory: Memory, noise: NoiseLevel) -> SoftKnnFit:
    """Fit rho so that the soft k-NN denoiser of a memory predicts a model best.

    Parameters
    ----------
    xt
        Noised images of one noise level.
    x0_hat
        What the model predicts of them; squared errors are summed over all.
    memory
        The denoiser's images.
    noise
        The noise level.
    """
    squares = squared_distances(xt / noise.s, memory)
    target = x0_hat.reshape(len(x0_hat), -1)

    def error(log_rho: float) -> float:
        weights = softmax_weights(squares, np.exp(log_rho) * noise.tau)
        return float(np.square(weighted_mean(weights, memory) - target).sum())

    # The error has several minima: search the grid, then refine around its best point.
    grid = np.log(RHO_GRID)
    index = int(np.argmin([error(log_rho) for log_rho in grid]))
    bounds = (grid[max(index - 1, 0)], grid[min(index + 1, len(grid) - 1)])
    result = optimize.minimize_scalar(
        error, bounds=bounds, method="bounded", options={"xatol": 1e-3}
    )
    rho = np.exp(result.x)
    weights = softmax_weights(squares, rho * noise.tau)
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1)
    r2 = r_squared(weighted_mean(weights, memory), target)
    at_edge = not 0 < index < len(grid) - 1
    return SoftKnnFit(float(rho), r2, np.exp(entropy), at_edge)


def r_squared(prediction: Vectors, target: Vectors) -> float:
    """1 - the squared error over that of the best constant image.

    1 is perfect, 0 no better than a constant.
    """
    deviation = target - target.mean(axis=0, keepdims=True)
    error = float(np.square(prediction - target).sum())
    return 1.0 - error / max(float(np.square(deviation).sum()), 1e-30)


def gaussian_denoiser(xt: Queries, memory: Memory, noise: NoiseLevel) -> Vectors:
    """Wiener's denoiser, exact for a Gaussian with the memory's mean and covariance."""
    s, sigma = noise
    rows = memory[:MAX_GAUSSIAN_IMAGES].reshape(-1, memory[0].size).astype(np.float64)
    mean = rows.mean(axis=0)
    deviations = (rows - mean) / np.sqrt(max(len(rows) - 1, 1))
    # By singular values: the covariance itself would have d x d numbers.
    _, scale, axes = np.linalg.svd(deviations, full_matrices=False)
    gain = s * scale**2 / (s**2 * scale**2 + sigma**2)
    return mean + ((xt.reshape(len(xt), -1) - s * mean) @ axes.T * gain) @ axes


def local_patch_denoiser(xt: Queries, memory: Memory, noise: NoiseLevel, side: int) -> Vectors:
    """Each pixel as the memory's exact denoiser predicts it from the patch around it alone.

    It is what a network with so small a receptive field could do at best with the memory.

    Parameters
    ----------
    xt
        Noised images.
    memory
        At most `MAX_PATCH_IMAGES` of them are used.
    noise
        The noise level.
    side
        Pixels on a side of a patch, odd.

    References
    ----------
    Kamb & Ganguli (2025), without their shifts; Niedoba et al. (2024).
    """
    queries = jnp.asarray(xt / noise.s, jnp.float32)
    images = jnp.asarray(memory[:MAX_PATCH_IMAGES], jnp.float32)
    return np.asarray(_denoise_patches(queries, images, noise.tau, side)).reshape(len(xt), -1)


@functools.partial(jax.jit, static_argnums=3)
def _denoise_patches(queries: Array, memory: Array, tau: Array, side: int) -> Array:
    def denoise(query: Array) -> Array:
        squares = jnp.square(query[None] - memory).sum(axis=-1)
        # The sum over a square window, first along its columns, then along its rows.
        for window in ((1, side, 1), (1, 1, side)):
            squares = jax.lax.reduce_window(squares, 0.0, jax.lax.add, window, (1, 1, 1), "SAME")
        return jnp.sum(jax.nn.softmax(-squares / tau, axis=0)[..., None] * memory, axis=0)

    # One query at a time: the memory is compared with it as images.
    return jax.lax.map(denoise, queries)


def baseline_r2(
    xt: Queries, x0_hat: Queries, memory: Memory, noise: NoiseLevel
) -> dict[str, Baseline]:
    """R^2 of three denoisers of the memory as predictions of x0_hat on the same x_t.

    ``exact``: the soft k-NN denoiser at rho = 1. ``gaussian``: mean and covariance alone.
    ``local_patch``: with the side that fits best.
    """
    target = x0_hat.reshape(len(x0_hat), -1)
    weights = softmax_weights(squared_distances(xt / noise.s, memory), noise.tau)
    local_r2 = {
        side: r_squared(local_patch_denoiser(xt, memory, noise, side), target)
        for side in PATCH_SIDES
        if side <= xt.shape[1]
    }
    best_side = max(local_r2, key=local_r2.__getitem__)
    return {
        "exact": Baseline(r_squared(weighted_mean(weights, memory), target)),
        "gaussian": Baseline(r_squared(gaussian_denoiser(xt, memory, noise), target)),
        "local_patch": Baseline(local_r2[best_side], best_side),
    }
