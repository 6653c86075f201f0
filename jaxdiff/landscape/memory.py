"""The free energy of a memory in feature space: at z among z_i = phi(s x_i + sigma eps), one eps for all.

This is a new energy at each level, not a reading of E o phi^-1. At a fixed tau, shrinking z smooths it; at tau = c x the
median squared distance to the nearest neighbor a rescaling of z changes nothing. Its Hessian is H = 2 I - 2 M with
M = (2 / tau) Cov_w, of which the eigenvalues that are not 0 are those of the weighted, centred Gram matrix of the n memories:
exact in every dimension. All on the host, in float64.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.spatial import distance

from jaxdiff.landscape import energies
from jaxdiff.measures import effective_k

Rows = Float[np.ndarray, "_n d"]
NAMES = ("spectral_norm", "trace", "stable_rank", "smallest", "k_eff")


def nearest_scale(points: Rows) -> float:
    """The median over points of the squared distance to the nearest other one. Raises ValueError where it is 0: copies."""
    squares = distance.squareform(distance.pdist(np.asarray(points, np.float64), "sqeuclidean"))
    np.fill_diagonal(squares, np.inf)
    scale = float(np.median(squares.min(axis=1)))
    if scale == 0:
        raise ValueError(
            f"most of the {len(points)} memories have an equal among them; remove the copies"
        )
    return scale


def weights(queries: Rows, points: Rows, tau: float) -> Float[np.ndarray, "_q n"]:
    """Eq. 2's, from direct differences."""
    squares = distance.cdist(
        np.asarray(queries, np.float64), np.asarray(points, np.float64), "sqeuclidean"
    )
    return effective_k.weights(squares, tau)


def curvature(queries: Rows, points: Rows, tau: float) -> dict[str, np.ndarray]:
    """At each query [q]: spectral_norm, trace and stable_rank of M; smallest, the smallest eigenvalue of H (2 - 2 |M|);
    k_eff = exp(entropy of the weights). Raises ValueError for a tau below the error of distances."""
    energies.check_tau(tau, jnp.asarray(points, jnp.float32))  # the activations are float32's
    centred = np.asarray(points, np.float64) - np.mean(points, axis=0, dtype=np.float64)
    gram, found = centred @ centred.T, []
    for w in weights(queries, points, tau):
        along, root = gram @ w, np.sqrt(w)
        around_mean = gram - along[:, None] - along[None] + w @ along
        values = np.linalg.eigvalsh(2.0 / tau * root[:, None] * around_mean * root[None]).clip(0.0)
        norm = float(values[-1])
        rank = float(np.square(values / norm).sum()) if norm else 0.0
        found.append(
            (
                norm,
                float(values.sum()),
                rank,
                2.0 - 2.0 * norm,
                float(np.exp(special.entr(w).sum())),
            )
        )
    return dict(zip(NAMES, np.array(found).T, strict=True))
