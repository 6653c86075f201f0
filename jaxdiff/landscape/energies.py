"""One energy for all readings, E = -tau log p: of a set of points, of Gaussian mixtures, of a trained model.

For points E(x) = -tau log mean_i exp(-|x - x_i|^2 / tau), whose weights are Eq. 2's. Noised data are s x_i with
tau = 2 sigma^2, so that score = -grad E / tau and the exact denoiser is the weighted mean of the data. A trained model has
no energy but its gradient, 2 sigma eps_hat. Vectors are flat: x [d], points [n, d]; batches by jax.vmap.

The Hessian of points is H = 2 I - (4 / tau) Cov_w. Its largest eigenvalue is 2 wherever Cov_w is singular, as always for
n <= d, whatever the data: what carries information is M = I - H / 2 = (2 / tau) Cov_w, how much of a step the denoiser
keeps in each direction.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial import distance

Point = Float[Array, " d"]
Points = Float[Array, "n d"]
Scalar = Float[Array, ""]
Number = float | Scalar
NEAREST = 64  # points whose distance is computed by direct difference
BLOCK = 1024  # points behind one term of a covariance's sum


def squared_distances(x: Point, points: Points) -> Float[Array, " n"]:
    """|x - x_i|^2 by products, and of the nearest 64 by direct difference: products err by 3e-4 at d = 3,072."""
    products = (
        jnp.square(points).sum(axis=1)
        - 2.0 * jnp.matmul(points, x, precision="highest")
        + jnp.square(x).sum()
    )
    _, near = jax.lax.top_k(-products, min(NEAREST, len(points)))
    return products.at[near].set(jnp.square(x[None] - points[near]).sum(axis=1))


def least_tau(points: Points) -> float:
    """The tau below which rounding, not the data, would set the weights: the error of a squared distance of order one."""
    largest = float(jnp.abs(points).max())
    return (
        4.0 * float(jnp.finfo(points.dtype).eps) * points.shape[1] ** 0.5 * max(largest, largest**2)
    )


def check_tau(tau: float, points: Points) -> None:
    """Raises ValueError where tau is below the error of distances."""
    if not tau >= (least := least_tau(points)):
        raise ValueError(
            f"tau is {tau:.3g}, below {least:.2g}, the error of squared distances of {points.shape[1]} {points.dtype} "
            "numbers; take a larger tau (a higher noise level) or float64"
        )


def free_energy(x: Point, points: Points, tau: Number) -> Scalar:
    """-tau log mean exp(-|x - x_i|^2 / tau), in the squared units of x."""
    return -tau * (jax.nn.logsumexp(-squared_distances(x, points) / tau) - jnp.log(len(points)))


def weights(x: Point, points: Points, tau: Number) -> Float[Array, " n"]:
    """softmax(-|x - x_i|^2 / tau), which sum to 1 (Eq. 2)."""
    return jax.nn.softmax(-squared_distances(x, points) / tau)


def gradient(x: Point, points: Points, tau: Number) -> Point:
    """2 (x - sum w_i x_i)."""
    return 2.0 * (x - jnp.matmul(weights(x, points, tau), points, precision="highest"))


def hessian_product(x: Point, v: Point, points: Points, tau: Number) -> Point:
    """H v = 2 v - (4 / tau) Cov_w v, from two products with the points."""
    w = weights(x, points, tau)
    along = jnp.matmul(points, v, precision="highest")
    return 2.0 * v - 4.0 / tau * jnp.matmul(w * (along - w @ along), points, precision="highest")


def hessian(x: Point, points: Points, tau: Number) -> Float[Array, "d d"]:
    """2 I - (4 / tau) Cov_w."""
    return 2.0 * jnp.eye(len(x), dtype=x.dtype) - 2.0 * contraction(x, points, tau)


def contraction(x: Point, points: Points, tau: Number) -> Float[Array, "d d"]:
    """M = (2 / tau) Cov_w, the Jacobian of the exact denoiser times s; its trace is how many dimensions are kept."""
    w, n, block = weights(x, points, tau), len(points), min(BLOCK, len(points))
    mean = jnp.matmul(w, points, precision="highest")

    def add(total: Array, start: Array) -> tuple[Array, None]:
        first = jnp.minimum(
            start, n - block
        )  # the last block ends at the last point and counts none twice
        apart = jax.lax.dynamic_slice_in_dim(points, first, block) - mean[None]
        here = jnp.where(
            first + jnp.arange(block) >= start, jax.lax.dynamic_slice_in_dim(w, first, block), 0.0
        )
        return total + jnp.matmul((here[:, None] * apart).T, apart, precision="highest"), None

    covariance, _ = jax.lax.scan(add, jnp.zeros((len(x), len(x)), x.dtype), jnp.arange(0, n, block))
    return 2.0 / tau * covariance


def denoiser(xt: Point, points: Points, s: Number, sigma: Number) -> Point:
    """The mean of the clean data given x_t = s x_i + sigma eps, i at random: sum w_i x_i in q = x_t / s."""
    return jnp.matmul(weights(xt / s, points, 2.0 * (sigma / s) ** 2), points, precision="highest")


def score(xt: Point, points: Points, s: Number, sigma: Number) -> Point:
    """grad log p_t of the noised data, (s x0_hat - x_t) / sigma^2; the free energy of the points s x_i at tau = 2 sigma^2
    has the gradient -tau times it."""
    return (s * denoiser(xt, points, s, sigma) - xt) / sigma**2


def lipschitz(points: Points, tau: float, sampled: float = 0.0) -> tuple[float, float]:
    """What L, the Lipschitz constant of grad E, lies between: max(2, sampled) and max(2, D^2 / tau - 2), D the diameter.

    sampled: the largest |H| that was seen anywhere. A variance along a line is at most D^2 / 4 (Popoviciu). D is exact up
    to 4,096 points and twice the largest distance from the mean for more.
    """
    rows = np.asarray(points, np.float64)
    if len(rows) <= 4096:
        diameter = float(distance.pdist(rows).max(initial=0.0))
    else:
        diameter = 2.0 * float(np.sqrt(np.square(rows - rows.mean(axis=0)).sum(axis=1).max()))
    return max(2.0, sampled), max(2.0, diameter**2 / tau - 2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A Gaussian mixture: E = -tau log p with every derivative in closed form.

    means [k, d], precisions [k, d, d] (inverse covariances), shares [k] (sum to 1).
    """

    means: Float[Array, "k d"]
    precisions: Float[Array, "k d d"]
    shares: Float[Array, " k"]

    def _terms(self, x: Point) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """log of each component's density times its share, and P_i (x - mu_i)."""
        apart = x[None] - self.means
        pulls = jnp.einsum("kde,ke->kd", self.precisions, apart, precision="highest")
        _, determinants = jnp.linalg.slogdet(self.precisions)
        squares = jnp.einsum("kd,kd->k", apart, pulls, precision="highest")
        constant = len(x) * jnp.log(2.0 * jnp.pi)
        return jnp.log(self.shares) + 0.5 * (determinants - constant - squares), pulls

    def energy(self, x: Point, tau: Number) -> Scalar:
        """-tau log p(x)."""
        return -tau * jax.nn.logsumexp(self._terms(x)[0])

    def gradient(self, x: Point, tau: Number) -> Point:
        """tau sum r_i P_i (x - mu_i), r the responsibilities."""
        logs, pulls = self._terms(x)
        return tau * jax.nn.softmax(logs) @ pulls

    def hessian(self, x: Point, tau: Number) -> Float[Array, "d d"]:
        """tau (sum r_i P_i - Cov_r[P_i (x - mu_i)])."""
        logs, pulls = self._terms(x)
        r = jax.nn.softmax(logs)
        apart = pulls - (r @ pulls)[None]
        return tau * (
            jnp.einsum("k,kde->de", r, self.precisions) - jnp.einsum("k,kd,ke->de", r, apart, apart)
        )


Field = Callable[..., Array]


@functools.cache
def of_model(eps_hat: Field) -> Field:
    """grad E of a trained model, (x, sigma, *rest) -> 2 sigma eps_hat(x, *rest): a field, whose Jacobian is the Hessian as
    far as that is symmetric. The same function for the same eps_hat, so that what is compiled for it is found again."""
    return lambda x, sigma, *rest: 2.0 * sigma * eps_hat(x, *rest)
