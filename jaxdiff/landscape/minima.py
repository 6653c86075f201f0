"""Minima of the free energy of points, and how they merge as tau grows (Definition 1)."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float, Int

from jaxdiff.landscape import energies, memory
from jaxdiff.landscape.energies import Number, Points
from jaxdiff.landscape.retrieval import Labels, Queries, map_rows

Centers = Float[np.ndarray, "m d"]

TOLERANCE = 1e-12  # squared length of a step, relative to 1 + |x|^2, at which descent ends
LINE_POINTS = 65  # at which the energy between two minima is computed
MAX_MEMBERS = 32  # minima behind the means "before"


@functools.partial(jax.jit, static_argnums=3)
def mean_shift(x: Queries, points: Points, tau: Number, max_steps: int = 2000) -> Queries:
    """The fixed point of x <- sum_i w_i x_i to which each x comes, where the gradient is 0.

    These are the steps of Eq. 3's flow at half the gradient's length, each of which goes down
    (Cheng 1995, mean shift).
    """

    def descend(x: Array) -> Array:
        def step(carry):
            x, _, i = carry
            moved = energies.weighted_mean(x, points, tau)
            return moved, jnp.square(moved - x).sum(), i + 1

        def moves(carry):
            x, squared_step, i = carry
            is_far = squared_step > TOLERANCE * (1.0 + jnp.square(x).sum())
            return is_far & (i < max_steps)

        start = (x, jnp.array(jnp.inf, x.dtype), jnp.array(0))
        return jax.lax.while_loop(moves, step, start)[0]

    return map_rows(descend, x)


class Minima(NamedTuple):
    """The free energy's minima, and the minimum to which each point comes."""

    centers: Centers
    assignment: Int[np.ndarray, " n"]


def find_minima(points: Points, tau: float, min_distance: float = 1e-2) -> Minima:
    """The minima to which the points themselves come.

    Ends nearer than ``min_distance``, in units of the points' spread, are one minimum. Raises
    ValueError for a tau below the error of distances.
    """
    energies.check_tau(tau, points)
    # Around the mean, since the descent ends by the length of x.
    mean = points.mean(axis=0)
    centered = points - mean[None]
    ends = np.asarray(mean_shift(centered, centered, tau), np.float64) + np.asarray(mean)
    if len(ends) == 1:
        return Minima(ends, np.zeros(1, np.int64))
    linkage = scipy.cluster.hierarchy.single(scipy.spatial.distance.pdist(ends))
    # fcluster counts from 1.
    clusters = scipy.cluster.hierarchy.fcluster(linkage, min_distance * spread(points), "distance")
    assignment = (clusters - 1).astype(np.int64)
    centers = [ends[assignment == m].mean(axis=0) for m in range(assignment.max() + 1)]
    return Minima(np.stack(centers), assignment)


def spread(points: Float[Array | np.ndarray, "n d"]) -> float:
    """The root of the total variance of the points."""
    return float(np.sqrt(np.asarray(points, np.float64).var(axis=0).sum()))


@dataclasses.dataclass(frozen=True)
class MergedMinimum:
    """A minimum at the larger tau to which several minima at the smaller tau come."""

    members: int  # number of minima that merged
    points: int  # number of points that come to it
    purity: float  # share of the most frequent class among those points
    epsilon: float  # max |x_i* - x~| over the members, in units of the points' spread
    # How far E rises toward the nearest other minimum, nan where there is none; before the merger
    # the mean over at most 32 members, as of the Hessian's smallest eigenvalue.
    depth_before: float
    depth_after: float
    smallest_before: float
    smallest_after: float
    gap: float  # hull_gap, which Eq. 9 assumes to be far below the depth before


def merged_minima(
    points: Points,
    labels: Labels,
    *,
    tau_before: float,
    tau_after: float,
    rng: np.random.Generator,
) -> list[MergedMinimum]:
    """Definition 1, for each minimum at a larger tau to which at least two others come.

    Definition 1 and Eqs. 8 to 10 of the paper.
    """
    before = find_minima(points, tau_before)
    after = find_minima(points, tau_after)
    merged = []
    for m, center in enumerate(after.centers):
        inside = after.assignment == m
        members = before.centers[np.unique(before.assignment[inside])]
        if len(members) < 2:
            continue
        class_counts = np.bincount(labels[inside])
        sampled = rng.permutation(members)[:MAX_MEMBERS]
        depths = [depth(x, before.centers, points, tau_before) for x in sampled]
        eigenvalues = _smallest_eigenvalues(sampled, points, tau_before)
        radius = np.linalg.norm(members - center[None], axis=1).max()
        merged.append(
            MergedMinimum(
                members=len(members),
                points=int(inside.sum()),
                purity=float(class_counts.max() / class_counts.sum()),
                epsilon=float(radius) / spread(points),
                depth_before=float(np.nanmean(depths)),
                depth_after=depth(center, after.centers, points, tau_after),
                smallest_before=float(np.mean(eigenvalues)),
                smallest_after=float(_smallest_eigenvalues(center[None], points, tau_after)[0]),
                gap=hull_gap(members, points, tau_before=tau_before, tau_after=tau_after, rng=rng),
            )
        )
    return merged


def depth(minimum: Float[np.ndarray, " d"], centers: Centers, points: Points, tau: float) -> float:
    """How far E rises on the straight line from a minimum to the nearest other one.

    The barrier is at most so high; nan where there is no other minimum.
    """
    distances = np.linalg.norm(centers - minimum[None], axis=1)
    # The minimum itself is among the centers.
    distances[distances < 1e-6 * (1 + np.linalg.norm(minimum))] = np.inf
    if not np.isfinite(distances.min()):
        return float("nan")
    direction = centers[np.argmin(distances)] - minimum
    line = minimum[None] + np.linspace(0, 1, LINE_POINTS)[:, None] * direction[None]
    energy = np.asarray(_free_energies(jnp.asarray(line, points.dtype), points, tau))
    return float(energy.max() - energy[0])


def hull_gap(
    members: Centers,
    points: Points,
    *,
    tau_before: float,
    tau_after: float,
    rng: np.random.Generator,
    count: int = 512,
) -> float:
    """Largest |E~ - E - constant| seen on the convex hull of minima: a lower bound (Eq. 9).

    The energies are compared at corners, midpoints, random points and the centroid of the hull.
    """
    # Mixtures of a few members: a mean of all of them is near the centroid.
    triples = rng.integers(0, len(members), (count, 3))
    mixed = np.einsum("nk,nkd->nd", rng.dirichlet(np.full(3, 0.5), count), members[triples])
    midpoints = members[triples[:, :2]].mean(axis=1)
    corners = members[rng.permutation(len(members))[:count]]
    centroid = members.mean(axis=0)[None]
    inside = jnp.asarray(np.concatenate([corners, midpoints, mixed, centroid]), points.dtype)
    energy_after = _free_energies(inside, points, tau_after)
    difference = np.asarray(energy_after - _free_energies(inside, points, tau_before))
    # The best constant is halfway between the extremes.
    return float(np.ptp(difference)) / 2


@jax.jit
def _free_energies(x, points, tau):
    return map_rows(lambda x: energies.free_energy(x, points, tau), x)


def _smallest_eigenvalues(x: Centers, points: Points, tau: float) -> Float[np.ndarray, " m"]:
    """Of the Hessian at each x, by the points' Gram matrix: a color image has 12,288 dimensions."""
    return memory.curvature(x, points, tau)["smallest"]
