"""Eigenvalues, norms and trace with their errors, from the arrays of Lanczos and Hutchinson.

On the host, in float64 (`curvature.map_points` says why).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

# Of rounding, in epsilons of the largest entry or value: what a bound adds to the residual, and up
# to where an off-diagonal entry is no more than rounding.
BOUND_ROUNDING = 8.0
EXHAUSTED_ROUNDING = 10.0


class Measured(NamedTuple):
    """A quantity at every point, with its error: a bound, or a standard error."""

    values: Float[np.ndarray, "n ..."]
    errors: Float[np.ndarray, "n ..."]


def summarize(raw: Mapping[str, np.ndarray], leading: int) -> dict[str, Measured]:
    """What `curvature.curvature` returns, of so many leading eigenvalues.

    Parameters
    ----------
    raw
        The arrays [n, ...] of `curvature.measure_operator`.
    leading
        Number of largest eigenvalues.
    """
    if "matrix" in raw:
        rows = [_summarize_matrix(matrix, leading) for matrix in raw["matrix"]]
    else:
        rows = []
        for i, tridiagonal in enumerate(raw["tridiagonal"]):
            row = _summarize_lanczos(tridiagonal, raw["rest"][i], leading)
            if "probes" in raw:
                row |= _summarize_probes(raw["probes"][i], *row["spectral_norm"])
            rows.append(row)
    measured = {}
    for name in rows[0]:
        values = np.array([row[name][0] for row in rows])
        errors = np.array([row[name][1] for row in rows])
        measured[name] = Measured(values, errors)
    return measured


def _summarize_matrix(matrix: np.ndarray, leading: int) -> dict[str, tuple[Any, Any]]:
    matrix = np.asarray(matrix, np.float64)
    symmetric = 0.5 * (matrix + matrix.T)
    skew = 0.5 * (matrix - matrix.T)
    eigenvalues = np.linalg.eigvalsh(symmetric)
    frobenius_norm = float(np.linalg.norm(symmetric))
    spectral_norm = float(np.abs(eigenvalues).max())
    values = {
        "smallest": eigenvalues[0],
        "largest": eigenvalues[-1],
        "leading": eigenvalues[::-1][:leading],
        "spectral_norm": spectral_norm,
        "frobenius_norm": frobenius_norm,
        "trace": float(np.trace(symmetric)),
        "stable_rank": _divide(frobenius_norm, spectral_norm) ** 2,
        "asymmetry": _divide(float(np.linalg.norm(skew)), frobenius_norm),
    }
    return {name: (value, np.zeros_like(value)) for name, value in values.items()}


def _summarize_lanczos(
    tridiagonal: np.ndarray, rest: np.floating, leading: int
) -> dict[str, tuple[Any, Any]]:
    epsilon = float(np.finfo(tridiagonal.dtype).eps)
    diagonal = np.diagonal(tridiagonal).astype(np.float64)
    off_diagonal = np.diagonal(tridiagonal, 1).astype(np.float64)
    steps = len(diagonal)
    residual = float(rest)
    # Where the start lay in an invariant subspace, what follows is rounding, or the nan of 0 / 0,
    # for which `~ >` is true too.
    scale = np.abs(tridiagonal[:2, :2]).max()
    exhausted = np.flatnonzero(~(off_diagonal > EXHAUSTED_ROUNDING * epsilon * scale))
    if len(exhausted):
        steps = int(exhausted[0]) + 1
        residual = float(off_diagonal[exhausted[0]])
    eigenvalues, vectors = scipy.linalg.eigh_tridiagonal(
        diagonal[:steps], off_diagonal[: steps - 1]
    )

    # The bound of a Ritz value is |H v - lambda v| of its unit vector v, and rounding. That length
    # is the residual's times the last entry of the tridiagonal matrix's eigenvector.
    rounding = BOUND_ROUNDING * epsilon * np.abs(eigenvalues).max()
    bounds = np.abs(np.nan_to_num(residual) * vectors[-1]) + rounding
    widest = int(np.argmax(np.abs(eigenvalues)))
    count = min(leading, steps)

    def pad(values):
        return np.pad(values[::-1][:count], (0, leading - count), constant_values=np.nan)

    return {
        "smallest": (eigenvalues[0], bounds[0]),
        "largest": (eigenvalues[-1], bounds[-1]),
        "leading": (pad(eigenvalues), pad(bounds)),
        "spectral_norm": (abs(eigenvalues[widest]), bounds[widest]),
    }


def _summarize_probes(
    probes: np.ndarray, norm: float, bound: float
) -> dict[str, tuple[float, float]]:
    """Means over the probes, with the standard error of functions of them (delta method).

    To that of the stable rank is added what the bound of the norm leaves open.
    """
    trace, square, skew = probes.mean(axis=0, dtype=np.float64)
    covariance = np.cov(probes.T) / len(probes)

    def delta_error(*slopes: float) -> float:
        gradient = np.array(slopes)
        return float(np.sqrt(max(gradient @ covariance @ gradient, 0.0)))

    frobenius_norm = np.sqrt(square)
    asymmetry = np.sqrt(_divide(skew, square))
    asymmetry_error = delta_error(
        0.0, -_divide(0.5 * asymmetry, square), _divide(0.5, np.sqrt(skew * square))
    )
    return {
        "trace": (trace, delta_error(1.0, 0.0, 0.0)),
        "frobenius_norm": (frobenius_norm, delta_error(0.0, _divide(0.5, frobenius_norm), 0.0)),
        "stable_rank": (
            _divide(square, norm**2),
            delta_error(0.0, _divide(1.0, norm**2), 0.0) + _divide(2.0 * square * bound, norm**3),
        ),
        "asymmetry": (asymmetry, asymmetry_error),
    }


def _divide(a: float, b: float) -> float:
    """a / b, and 0 where b is 0, as every ratio of a Hessian of 0 is."""
    return float(a / b) if b else 0.0
