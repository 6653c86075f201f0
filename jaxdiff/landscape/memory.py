"""The free energy of a memory in feature space: at z among z_i = phi(s x_i + sigma eps).

One eps serves all. This is a new energy at each level, not a reading of E o phi^-1. At a fixed
tau, shrinking z smooths it; at tau = c x the median squared distance to the nearest neighbor a
rescaling of z changes nothing. Its Hessian is H = 2 I - 2 M with M = (2 / tau) Cov_w. The nonzero
eigenvalues of M are those of the weighted, centered Gram matrix of the n memories: exact in every
dimension. All on the host, in float64.
"""

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Float

from jaxdiff.landscape import energies

Vectors = Float[Array | np.ndarray, "_n d"]
NAMES = ("spectral_norm", "trace", "stable_rank", "smallest", "k_eff")


def squared_distances(queries: Vectors, points: Vectors) -> Float[np.ndarray, "_q n"]:
    """|q - x_i|^2 by direct differences."""
    queries = np.asarray(queries, np.float64)
    points = np.asarray(points, np.float64)
    return scipy.spatial.distance.cdist(queries, points, "sqeuclidean")


def softmax_weights(squares: Float[np.ndarray, "q n"], tau: float) -> Float[np.ndarray, "q n"]:
    """softmax(-squares / tau) over the points (Eq. 2)."""
    # The largest exponent is 0, so that no sum underflows.
    raw = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / tau)
    return raw / raw.sum(axis=1, keepdims=True)


def weights(queries: Vectors, points: Vectors, tau: float) -> Float[np.ndarray, "_q n"]:
    """Eq. 2's weights of the points at each query, which sum to 1."""
    return softmax_weights(squared_distances(queries, points), tau)


def nearest_scale(points: Vectors) -> float:
    """Median over points of the squared distance to the nearest other point.

    Raises
    ------
    ValueError
        Where it is 0: most points have a copy.
    """
    squares = squared_distances(points, points)
    np.fill_diagonal(squares, np.inf)
    scale = float(np.median(squares.min(axis=1)))
    if scale == 0:
        raise ValueError(
            f"the images of a memory must differ, but most of the {len(points)} have an equal "
            "among them; remove the copies"
        )
    return scale


def curvature(queries: Vectors, points: Vectors, tau: float) -> dict[str, np.ndarray]:
    """Curvature of the memory's free energy at each query.

    Parameters
    ----------
    queries
        Where it is measured [q, d].
    points
        The memory [n, d].
    tau
        Temperature, in squared units of the points.

    Returns
    -------
    measured
        By name, an array [q]. ``spectral_norm``, ``trace`` and ``stable_rank``: of M;
        ``smallest``: the smallest eigenvalue of H, 2 - 2 |M|; ``k_eff``: exp(entropy of the
        weights), 1 to n.

    Raises
    ------
    ValueError
        For a tau below the error of distances.
    """
    # The activations are float32's, whatever they are computed with from here.
    energies.check_tau(tau, jnp.asarray(points, jnp.float32))
    points = np.asarray(points)
    # Around the plain mean products lose fewer digits; each query then moves to its weighted mean.
    centered = np.asarray(points, np.float64) - np.mean(points, axis=0, dtype=np.float64)
    gram = centered @ centered.T
    rows = [_measure_query(w, gram, tau) for w in weights(queries, points, tau)]
    return dict(zip(NAMES, np.array(rows).T, strict=True))


def _measure_query(
    w: Float[np.ndarray, " n"], gram: Float[np.ndarray, "n n"], tau: float
) -> tuple[float, ...]:
    """One query's values, in the order of NAMES."""
    root = np.sqrt(w)
    # The Gram matrix of the points around their weighted mean.
    along = gram @ w
    around_mean = gram - along[:, None] - along[None] + w @ along
    # With centered rows Z, W^(1/2) Z Z^T W^(1/2) has the nonzero eigenvalues of Z^T W Z = Cov_w.
    eigenvalues = np.linalg.eigvalsh(2.0 / tau * root[:, None] * around_mean * root[None])
    eigenvalues = eigenvalues.clip(0.0)
    norm = float(eigenvalues[-1])
    stable_rank = float(np.square(eigenvalues / norm).sum()) if norm else 0.0
    k_eff = float(np.exp(scipy.special.entr(w).sum()))
    return norm, float(eigenvalues.sum()), stable_rank, 2.0 - 2.0 * norm, k_eff
