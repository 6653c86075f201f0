"""One energy for all readings, E = -tau log p: of a set of points and of a trained model.

For points E(x) = -tau log mean_i exp(-|x - x_i|^2 / tau), whose weights are Eq. 2's. Noised data
are s x_i with tau = 2 sigma^2, so that score = -grad E / tau and the exact denoiser is the
weighted mean of the data. A trained model has no energy but its gradient, 2 sigma eps_hat.
Vectors are flat: x [d], points [n, d]; batches by jax.vmap.

The Hessian of points is H = 2 I - (4 / tau) Cov_w. Its largest eigenvalue is 2 wherever Cov_w is
singular, as always for n <= d, whatever the data: what carries information is
M = I - H / 2 = (2 / tau) Cov_w, how much of a step the denoiser keeps in each direction.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Point = Float[Array, " d"]
Points = Float[Array, "n d"]
Scalar = Float[Array, ""]
Number = float | Scalar
Function = Callable[..., Array]

NUM_REFINED = 64  # nearest points, whose distance is computed by direct difference
COVARIANCE_BLOCK = 1024  # points in one term of a covariance's sum
DISTANCE_ROUNDING = 4.0  # epsilons in a squared distance; it grows as the root of the dimensions


def squared_distances(x: Point, points: Points) -> Float[Array, " n"]:
    """|x - x_i|^2 by products, and of the nearest 64 points by direct difference."""
    squared_norms = jnp.square(points).sum(axis=1)
    products = jnp.matmul(points, x, precision="highest")
    distances = squared_norms - 2.0 * products + jnp.square(x).sum()
    # Products err by 3e-4 at d = 3,072, which is above tau at the lowest noise levels.
    _, nearest = jax.lax.top_k(-distances, min(NUM_REFINED, len(points)))
    differences = x[None] - points[nearest]
    return distances.at[nearest].set(jnp.square(differences).sum(axis=1))


def min_tau(points: Points) -> float:
    """The tau below which rounding, not the data, would set the weights."""
    largest = float(jnp.abs(points).max())
    epsilon = float(jnp.finfo(points.dtype).eps)
    # What tells the points apart in |x - x_i|^2, at an x of order one: -2 x . x_i and |x_i|^2.
    scale = max(largest, largest**2)
    return DISTANCE_ROUNDING * epsilon * points.shape[1] ** 0.5 * scale


def check_tau(tau: float, points: Points) -> None:
    """Raise ValueError where tau is below the error of squared distances."""
    smallest = min_tau(points)
    if not tau >= smallest:
        raise ValueError(
            f"tau must be at least {smallest:.2g}, the error of squared distances of "
            f"{points.shape[1]} {points.dtype} numbers, got {tau:.3g}; "
            "take a larger tau (a higher noise level) or float64"
        )


def free_energy(x: Point, points: Points, tau: Number) -> Scalar:
    """-tau log mean_i exp(-|x - x_i|^2 / tau), in the squared units of x."""
    exponents = -squared_distances(x, points) / tau
    return -tau * (jax.nn.logsumexp(exponents) - jnp.log(len(points)))


def weights(x: Point, points: Points, tau: Number) -> Float[Array, " n"]:
    """softmax(-|x - x_i|^2 / tau), which sums to 1 (Eq. 2)."""
    return jax.nn.softmax(-squared_distances(x, points) / tau)


def weighted_mean(x: Point, points: Points, tau: Number) -> Point:
    """sum_i w_i x_i with Eq. 2's weights at x: the soft k-NN denoiser."""
    return jnp.matmul(weights(x, points, tau), points, precision="highest")


def gradient(x: Point, points: Points, tau: Number) -> Point:
    """Gradient of the free energy, 2 (x - sum_i w_i x_i)."""
    return 2.0 * (x - weighted_mean(x, points, tau))


def hessian(x: Point, points: Points, tau: Number) -> Float[Array, "d d"]:
    """Hessian of the free energy, 2 I - (4 / tau) Cov_w."""
    return 2.0 * jnp.eye(len(x), dtype=x.dtype) - 2.0 * denoiser_jacobian(x, points, tau)


def denoiser_jacobian(x: Point, points: Points, tau: Number) -> Float[Array, "d d"]:
    """M = (2 / tau) Cov_w, s times the Jacobian of the exact denoiser.

    Its trace is the number of dimensions that the denoiser keeps.
    """
    n = len(points)
    block = min(COVARIANCE_BLOCK, n)
    w = weights(x, points, tau)
    mean = jnp.matmul(w, points, precision="highest")

    def add_block(total: Array, start: Array) -> tuple[Array, None]:
        # The last block ends at the last point; weights of 0 keep any from counting twice.
        first = jnp.minimum(start, n - block)
        is_new = first + jnp.arange(block) >= start
        block_weights = jax.lax.dynamic_slice_in_dim(w, first, block)
        block_weights = jnp.where(is_new, block_weights, 0.0)
        centered = jax.lax.dynamic_slice_in_dim(points, first, block) - mean[None]
        weighted = block_weights[:, None] * centered
        return total + jnp.matmul(weighted.T, centered, precision="highest"), None

    zeros = jnp.zeros((len(x), len(x)), x.dtype)
    covariance, _ = jax.lax.scan(add_block, zeros, jnp.arange(0, n, block))
    return 2.0 / tau * covariance


@functools.cache
def model_gradient(eps_hat: Function) -> Function:
    """grad E of a trained model as a function of x, sigma and eps_hat's other arguments.

    Parameters
    ----------
    eps_hat
        ``(x, *rest) -> noise of the shape of x``.

    Returns
    -------
    gradient
        ``(x, sigma, *rest) -> 2 sigma eps_hat(x, *rest)``: a vector field, whose Jacobian is the
        Hessian as far as that is symmetric. The same function for the same ``eps_hat``, so that
        JAX reuses what it compiled.
    """
    return lambda x, sigma, *rest: 2.0 * sigma * eps_hat(x, *rest)
