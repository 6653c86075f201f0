"""The soft k-NN denoisers of a memory of images, and other denoisers to compare them with.

At timestep t, x_t = s x + sigma eps and q = x_t / s. The soft k-NN denoiser weighs memory image i
by exp(-|q - x_i|^2 / tau), tau = rho 2 sigma^2 / s^2 (Eq. 2 of the paper): rho = 1 is the exact
denoiser of the memory, and a larger rho attends to more of it. Images are float
[n, height, width, channel] in [-1, 1].
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from jaxdiff.datasets.mixtures import draw_images
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape.memory import softmax_weights

Queries = Float[np.ndarray, "q h w c"]
Memory = Float[np.ndarray, "m h w c"]
Vectors = Float[np.ndarray, "q d"]

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


def weighted_mean(weights: Float[np.ndarray, "q m"], memory: Float[np.ndarray, "m ..."]) -> Vectors:
    """The weighted means of the memory's images, as vectors."""
    # Unlike distances, means need no more than float32.
    return weights.astype(np.float32) @ memory.reshape(len(memory), -1)


class SoftKnn(NamedTuple):
    """The soft k-NN denoisers of one memory at some queries, one for each rho.

    Distances are computed once, and serve every rho and every subset of the memory.

    Parameters
    ----------
    squares
        |q - x_i|^2 of every query and image of the memory.
    rows
        The images of the memory as vectors.
    tau
        The temperature at rho = 1.
    """

    squares: Float[np.ndarray, "q m"]
    rows: Float[np.ndarray, "m d"]
    tau: float

    @classmethod
    def at(cls, xt: Queries, memory: Memory, noise: NoiseLevel) -> "SoftKnn":
        """The soft k-NN denoisers of a memory at noised images of one noise level."""
        squares = squared_distances(xt / noise.s, memory)
        return cls(squares, memory.reshape(len(memory), -1), noise.tau)

    def subset(self, indices: Int[np.ndarray, " k"]) -> "SoftKnn":
        """Those of some of the memory's images."""
        return SoftKnn(self.squares[:, indices], self.rows[indices], self.tau)

    def weights(self, rho: float) -> Float[np.ndarray, "q m"]:
        """The weight of each image at each query (Eq. 2)."""
        return softmax_weights(self.squares, rho * self.tau)

    def predict(self, rho: float) -> Vectors:
        """x0_hat of each query."""
        return weighted_mean(self.weights(rho), self.rows)

    def errors(self, rho: float, target: Vectors) -> Float[np.ndarray, " q"]:
        """The squared error of each query's prediction, summed over its pixels."""
        return np.square(self.predict(rho) - target).sum(axis=1, dtype=np.float64)

    def entropies(self, rho: float) -> Float[np.ndarray, " q"]:
        """The entropy of each query's weights, 0 to the logarithm of the memory's size."""
        return scipy.special.entr(self.weights(rho)).sum(axis=1)


def total_deviation(target: Vectors) -> float:
    """The squared error of the best constant image as a prediction of the target."""
    deviation = target - target.mean(axis=0, keepdims=True)
    # All queries may be alike, and R^2 divides by it.
    return max(float(np.square(deviation).sum()), 1e-30)


def r_squared(prediction: Vectors, target: Vectors) -> float:
    """1 - the squared error over that of the best constant image.

    1 is perfect, 0 no better than a constant.
    """
    return 1.0 - float(np.square(prediction - target).sum()) / total_deviation(target)


class GaussianDenoiser(NamedTuple):
    """Wiener's denoiser, exact for a Gaussian with the memory's mean and covariance.

    It is linear in x_t and holds no image of the memory.

    Parameters
    ----------
    mean
        Mean of the memory.
    variances
        Variances of the memory along each axis.
    axes
        Its principal axes, orthonormal rows.
    """

    mean: Float[np.ndarray, " d"]
    variances: Float[np.ndarray, " k"]
    axes: Float[np.ndarray, "k d"]

    @classmethod
    def fit(cls, memory: Memory) -> "GaussianDenoiser":
        """The denoiser of a memory, of which at most `MAX_GAUSSIAN_IMAGES` random ones are used."""
        images = draw_images(memory, MAX_GAUSSIAN_IMAGES)
        rows = images.reshape(len(images), -1).astype(np.float64)
        mean = rows.mean(axis=0)
        deviations = (rows - mean) / np.sqrt(max(len(rows) - 1, 1))
        # By singular values: the covariance itself would have d x d numbers.
        _, scale, axes = np.linalg.svd(deviations, full_matrices=False)
        return cls(mean, scale**2, axes)

    def predict(self, xt: Queries, noise: NoiseLevel) -> Vectors:
        """x0_hat of each noised image."""
        s, sigma = noise
        gain = s * self.variances / (s**2 * self.variances + sigma**2)
        deviations = xt.reshape(len(xt), -1) - s * self.mean
        # Off the axes the memory does not vary, and only its mean is left.
        return self.mean + (deviations @ self.axes.T * gain) @ self.axes


def local_patch_denoiser(xt: Queries, memory: Memory, noise: NoiseLevel, side: int) -> Vectors:
    """Each pixel as the memory's exact denoiser predicts it from the patch around it alone.

    It is what a network with so small a receptive field could do at best with the memory.

    Parameters
    ----------
    xt
        Noised images.
    memory
        At most `MAX_PATCH_IMAGES` random ones of them are used.
    noise
        The noise level.
    side
        Pixels on a side of a patch, odd.

    References
    ----------
    Kamb & Ganguli (2025), without their shifts; Niedoba et al. (2024).
    """
    queries = jnp.asarray(xt / noise.s, jnp.float32)
    images = jnp.asarray(draw_images(memory, MAX_PATCH_IMAGES), jnp.float32)
    return np.asarray(_denoise_patches(queries, images, noise.tau, side)).reshape(len(xt), -1)


@functools.partial(jax.jit, static_argnums=3)
def _denoise_patches(queries: Array, memory: Array, tau: Array, side: int) -> Array:
    def denoise(query: Array) -> Array:
        squares = jnp.square(query[None] - memory).sum(axis=-1)
        # The sum over a square window, first along its columns, then along its rows.
        # SAME adds zeros at the border: patches are compared where they lie within the image.
        for window in ((1, side, 1), (1, 1, side)):
            squares = jax.lax.reduce_window(squares, 0.0, jax.lax.add, window, (1, 1, 1), "SAME")
        return jnp.sum(jax.nn.softmax(-squares / tau, axis=0)[..., None] * memory, axis=0)

    # One query at a time: the memory is compared with it as images.
    return jax.lax.map(denoise, queries)


def baseline_r2(
    xt: Queries, x0_hat: Queries, memory: Memory, gaussian: GaussianDenoiser, noise: NoiseLevel
) -> dict[str, Baseline]:
    """R^2 of three denoisers of the memory as predictions of x0_hat on the same x_t.

    ``exact``: the soft k-NN denoiser at rho = 1. ``gaussian``: mean and covariance alone.
    ``local_patch``: with the side that fits best.
    """
    target = x0_hat.reshape(len(x0_hat), -1)
    local_r2 = {
        side: r_squared(local_patch_denoiser(xt, memory, noise, side), target)
        for side in PATCH_SIDES
        if side <= xt.shape[1]
    }
    best_side = max(local_r2, key=local_r2.__getitem__)
    return {
        "exact": Baseline(r_squared(SoftKnn.at(xt, memory, noise).predict(1.0), target)),
        "gaussian": Baseline(r_squared(gaussian.predict(xt, noise), target)),
        "local_patch": Baseline(local_r2[best_side], best_side),
    }
