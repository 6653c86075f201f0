"""Retrieval from a memory of points: which classes come out as the energy is smoothed. Nothing is trained.

Points are rows [n, d] with labels [n]; the weights are Eq. 2's. Eq. 1 is the hard vote of k neighbours, Eq. 3 the flow down
the free energy, and between noise and data stands DDIM with the soft k-NN denoiser: at rho = 1 the exact denoiser of the
memory, whose classes come out in their proportions, and smoother above.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from scipy.cluster import hierarchy
from scipy.spatial import distance

from jaxdiff import samplers
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape import energies
from jaxdiff.landscape.energies import Number

Points = Float[Array, "n d"]
Queries = Float[Array, "q d"]
Labels = Int[np.ndarray, " n"]
Soft = Float[np.ndarray, "q classes"]
TOGETHER = 64  # queries at once: memory is so many times n


def _each(one, xs):
    return jax.lax.map(one, xs, batch_size=TOGETHER)


def smoothed_sampler(
    points: Points,
    schedule: Schedule,
    rho: float | Float[np.ndarray, " T"],
    key: Key[Array, ""],
    count: int,
    steps: int = 50,
) -> tuple[Float[np.ndarray, "q d"], Float[np.ndarray, "q n"]]:
    """`count` samples by DDIM with x0_hat = sum w_i x_i at temperature rho 2 sigma^2 / s^2 in x_t / s, and the weights of
    the last step. rho: one number, or one for each t, as fitted to a trained model. The chain is not clipped."""
    x_T = jax.random.normal(key, (count, points.shape[1]))
    each = jnp.broadcast_to(jnp.asarray(rho, points.dtype), schedule.steps)
    x0, weights = _sample(schedule, steps, points, each, x_T)
    return np.asarray(x0), np.asarray(weights)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(schedule, steps, points, rho, x_T):
    alpha_bar = jnp.asarray(schedule.alpha_bar)

    def weights(x: Array, t: Array) -> Array:
        s_square = alpha_bar[t]
        return energies.weights(
            x / jnp.sqrt(s_square), points, rho[t] * 2.0 * (1.0 - s_square) / s_square
        )

    def recall(xt: Array, t: Array) -> Array:
        return _each(lambda at: jnp.matmul(weights(*at), points, precision="highest"), (xt, t))

    ddim = samplers.DDIM(prediction="x0", clip=False)
    chain = ddim.chain(schedule, steps)
    keys = jax.random.split(jax.random.key(0), len(x_T))  # DDIM draws nothing

    def step(carry: tuple[Array, Array], now: samplers.Step) -> tuple[tuple[Array, Array], None]:
        xt, _ = carry
        return (ddim.step(recall, schedule, xt, now, keys), xt), None

    (x0, last), _ = jax.lax.scan(step, (x_T, x_T), chain)
    return x0, _each(lambda x: weights(x, jnp.asarray(chain.t[-1])), last)


def soft_labels(weights: Float[np.ndarray, "q n"], labels: Labels, classes: int) -> Soft:
    """Each query's weight by class (Eq. 2): its argmax gives a label, its mean the soft share."""
    return np.stack([weights[:, labels == c].sum(axis=1) for c in range(classes)], axis=1)


def hard_votes(
    queries: Queries, points: Points, labels: Labels, classes: int, ks: tuple[int, ...]
) -> dict[int, Soft]:
    """Eq. 1 by k: the share of each class among the k nearest points of each query."""
    near = np.asarray(_nearest(queries, points, max(ks)))
    return {
        k: np.stack([(labels[near[:, :k]] == c).mean(axis=1) for c in range(classes)], axis=1)
        for k in ks
    }


@functools.partial(jax.jit, static_argnums=2)
def _nearest(queries, points, k):
    return _each(lambda q: jax.lax.top_k(-energies.squared_distances(q, points), k)[1], queries)


@jax.jit
def flow(x: Queries, points: Points, tau: Number, time_constant: Number, time: Number) -> Queries:
    """Where Eq. 3's flow, time_constant dx/dt = -grad E, has brought each x after `time`, by 1,000 Euler steps in the scaled
    time time / time_constant, on which alone it depends."""
    step = time / time_constant / 1000

    def down(x):
        return x - step * energies.gradient(x, points, tau)

    return _each(lambda x: jax.lax.fori_loop(0, 1000, lambda _, x: down(x), x), x)


@functools.partial(jax.jit, static_argnums=3)
def mean_shift(x: Queries, points: Points, tau: Number, steps: int = 2000) -> Queries:
    """The fixed point of x <- sum w_i x_i that each x comes to, where the free energy's gradient is 0 (Cheng 1995): the flow's
    own steps at half the square of length, each of which goes down."""

    def to_end(x: Array) -> Array:
        def move(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, _, i = carry
            new = jnp.matmul(energies.weights(x, points, tau), points, precision="highest")
            return new, jnp.square(new - x).sum(), i + 1

        def far(carry):
            return (carry[1] > 1e-12 * (1.0 + jnp.square(carry[0]).sum())) & (carry[2] < steps)

        return jax.lax.while_loop(far, move, (x, jnp.array(jnp.inf, x.dtype), jnp.array(0)))[0]

    return _each(to_end, x)


class Minima(NamedTuple):
    """centres [m, d]: the free energy's minima; of [n]: which one each point comes to."""

    centres: Float[np.ndarray, "m d"]
    of: Int[np.ndarray, " n"]


def minima(points: Points, tau: float, apart: float = 1e-2) -> Minima:
    """The minima that the points themselves come to; ends nearer than `apart` of the points' spread are one.

    Raises ValueError for a tau below the error of distances.
    """
    energies.check_tau(tau, points)
    ends = np.asarray(mean_shift(points, points, tau), np.float64)
    if len(ends) == 1:
        return Minima(ends, np.zeros(1, np.int64))
    of = (
        hierarchy.fcluster(
            hierarchy.single(distance.pdist(ends)), apart * spread(points), "distance"
        )
        - 1
    )
    return Minima(
        np.stack([ends[of == m].mean(axis=0) for m in range(of.max() + 1)]), of.astype(np.int64)
    )


def spread(points: Float[Array | np.ndarray, "n d"]) -> float:
    """The root of the total variance of the points."""
    return float(np.sqrt(np.asarray(points, np.float64).var(axis=0).sum()))


def merged(
    points: Points, labels: Labels, before: float, after: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Definition 1 for each minimum at tau = `after` to which at least two minima at tau = `before` come.

    members: how many; epsilon: max |x_i* - x~|, in units of the points' spread; purity: the commonest class's share of the
    points; depth before (mean of 32 at most) and after: E on the straight line to the nearest other minimum at its highest, above E at the
    minimum (nan where it is alone); smallest: the smallest eigenvalue of the Hessian, before (mean) and after; Eq. 9's premise:
    gap, the largest |E~ - E| on the members' convex hull up to a constant, to be far below the depth before.
    """
    old, new, rows = minima(points, before), minima(points, after), []
    for m, centre in enumerate(new.centres):
        inside = new.of == m
        members = old.centres[np.unique(old.of[inside])]
        if len(members) < 2:
            continue
        of_class, some = np.bincount(labels[inside]), rng.permutation(members)[:32]
        rows.append({
            "members": len(members), "points": int(inside.sum()), "purity": float(of_class.max() / of_class.sum()),
            "epsilon": float(np.linalg.norm(members - centre[None], axis=1).max()) / spread(points),
            "depth_before": float(np.nanmean([depth(x, old.centres, points, before) for x in some])),
            "depth_after": depth(centre, new.centres, points, after),
            "smallest_before": float(np.mean([_smallest(x, points, before) for x in some])),
            "smallest_after": _smallest(centre, points, after),
            "gap": hull_gap(members, points, before, after, rng),
        })  # fmt: skip
    return rows


def depth(
    at: Float[np.ndarray, " d"], others: Float[np.ndarray, "m d"], points: Points, tau: float
) -> float:
    """How far E rises on the straight line from a minimum to the nearest other one: the barrier is at most so high."""
    far = np.linalg.norm(others - at[None], axis=1)
    far[far < 1e-6 * (1 + np.linalg.norm(at))] = np.inf
    if not np.isfinite(far.min()):
        return float("nan")
    line = at[None] + np.linspace(0, 1, 65)[:, None] * (others[np.argmin(far)] - at)[None]
    along = np.asarray(_energies(jnp.asarray(line, points.dtype), points, tau))
    return float(along.max() - along[0])


def hull_gap(
    members: Float[np.ndarray, "m d"],
    points: Points,
    before: float,
    after: float,
    rng: np.random.Generator,
    count: int = 512,
) -> float:
    """Eq. 9: the largest |E~ - E - constant| over corners, midpoints and random points of the convex hull: a lower bound."""
    chosen = rng.integers(
        0, len(members), (count, 3)
    )  # a few members: a mean of all of them is near the centroid
    mixed = np.einsum("nk,nkd->nd", rng.dirichlet(np.full(3, 0.5), count), members[chosen])
    halves = members[chosen[:, :2]].mean(axis=1)
    corners = members[rng.permutation(len(members))[:count]]
    inside = jnp.asarray(
        np.concatenate([corners, halves, mixed, members.mean(axis=0)[None]]), points.dtype
    )
    apart = np.asarray(_energies(inside, points, after) - _energies(inside, points, before))
    return float(np.ptp(apart)) / 2


@jax.jit
def _energies(x, points, tau):
    return _each(lambda x: energies.free_energy(x, points, tau), x)


def _smallest(x, points, tau):
    return float(_eigenvalues(jnp.asarray(x, points.dtype), points, tau)[0])


@jax.jit
def _eigenvalues(x, points, tau):
    return jnp.linalg.eigvalsh(energies.hessian(x, points, tau))
