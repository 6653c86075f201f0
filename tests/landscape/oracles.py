"""Closed forms and slow methods that the landscape's functions are compared with."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.spatial import distance

from jaxdiff.landscape import energies


def mixture_energy(x, means, precisions, shares, tau):
    """-tau log p of a Gaussian mixture: means [k, d], precisions [k, d, d], shares [k]."""
    centered = x[None] - means
    squares = jnp.einsum("kd,kde,ke->k", centered, precisions, centered, precision="highest")
    _, log_determinants = jnp.linalg.slogdet(precisions)
    constant = len(x) * jnp.log(2.0 * jnp.pi)
    log_densities = 0.5 * (log_determinants - constant - squares)
    return -tau * jax.nn.logsumexp(jnp.log(shares) + log_densities)


def lipschitz_bracket(points, tau: float, largest_norm: float = 0.0) -> tuple[float, float]:
    """What L, the Lipschitz constant of grad E, lies between.

    max(2, largest |H| seen anywhere) and max(2, D^2 / tau - 2), D the points' diameter, since a
    variance along a line is at most D^2 / 4 (Popoviciu).
    """
    diameter = float(distance.pdist(np.asarray(points, np.float64)).max(initial=0.0))
    return max(2.0, largest_norm), max(2.0, diameter**2 / tau - 2.0)


@jax.jit
def flow(x, points, tau, time_constant, time):
    """Where Eq. 3's flow, time_constant dx/dt = -grad E, has brought each x after `time`.

    By 1,000 Euler steps in the scaled time time / time_constant, on which alone it depends.
    """
    step_size = time / time_constant / 1000

    def integrate(x):
        def step(_, x):
            return x - step_size * energies.gradient(x, points, tau)

        return jax.lax.fori_loop(0, 1000, step, x)

    return jax.vmap(integrate)(x)


def exact_count_map(count: int, total: int, cells: int = 4) -> float:
    """Expected share after one vote where `count` of `total` cells are of the class.

    The window's cells are drawn without replacement.
    """
    share = 0.0
    for votes in range((cells + 1) // 2, cells + 1):
        chance_to_win = 1.0 if 2 * votes > cells else 0.5
        share += chance_to_win * stats.hypergeom.pmf(votes, total, count, cells)
    return share


def plurality_map(shares, cells: int = 4) -> np.ndarray:
    """Shares of any number of classes after the vote, ties by lot: the sum over all counts."""
    p = np.asarray(shares, np.float64)
    result = np.zeros(len(p))
    for counts in _compositions(cells, len(p)):
        is_winner = counts == counts.max()
        result += is_winner / is_winner.sum() * stats.multinomial.pmf(counts, cells, p)
    return result


def _compositions(total: int, parts: int) -> Iterator[np.ndarray]:
    """Every way to write `total` as a sum of `parts` counts."""
    if parts == 1:
        yield np.array([total])
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield np.concatenate([[first], rest])
