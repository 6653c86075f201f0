"""How curved an energy is at given points: eigenvalues, norms and trace of its Hessian, each with its error.

Up to 1,024 dimensions the Hessian is computed whole and the errors are 0. Above, it is met by its products alone: Lanczos'
method for the ends of the spectrum, with the residual of the eigenvector as bound, and Hutchinson's estimator for trace and
Frobenius norm, with a standard error (both of matfree). A field that is no gradient, as a trained eps_hat is none exactly,
has a Jacobian J in the Hessian's place: everything is of its symmetric part, and the asymmetry says what that leaves out.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matfree import decomp, stochtrace
from scipy import linalg

from jaxdiff import parallel
from jaxdiff.estimates import Estimate

Product = Callable[[Array], Array]
DENSE, STEPS, PROBES = 1024, 30, 64
LARGEST = 4096  # dimensions of a matrix that is computed whole: 64 MiB a point, and a minute of eigenvalues for sixteen
TOGETHER = 4  # points that a device takes at once
AT_ONCE = (
    2**15
)  # numbers in the vectors that a point takes at once on a CPU, where more take memory and no less time


@dataclasses.dataclass(frozen=True)
class Energy:
    """The Hessian of an energy: (x, *parameters) -> a number."""

    energy: Callable[..., Array]

    def products(self, x: Array, parameters: tuple[Any, ...]) -> tuple[Product, Product]:
        """v -> H v, twice: it is its own transpose."""
        _, product = jax.linearize(jax.grad(lambda x: self.energy(x, *parameters)), x)
        return product, product

    def matrix(self, x: Array, parameters: tuple[Any, ...]) -> Float[Array, "d d"]:
        """jax.hessian, flat."""
        return jax.hessian(lambda x: self.energy(x, *parameters))(x).reshape(x.size, x.size)


@dataclasses.dataclass(frozen=True)
class Field:
    """The Jacobian J of a field (x, *parameters) -> [shape of x], that stands for an energy's gradient."""

    field: Callable[..., Array]

    def products(self, x: Array, parameters: tuple[Any, ...]) -> tuple[Product, Product]:
        """v -> J v and v -> J^T v."""
        _, forward = jax.linearize(lambda x: self.field(x, *parameters), x)
        backward = jax.linear_transpose(forward, x)
        return forward, lambda v: backward(v)[0]

    def matrix(self, x: Array, parameters: tuple[Any, ...]) -> Float[Array, "d d"]:
        """jax.jacfwd, flat."""
        return jax.jacfwd(lambda x: self.field(x, *parameters))(x).reshape(x.size, x.size)


@dataclasses.dataclass(frozen=True)
class Options:
    """leading: how many of the largest eigenvalues; steps: products of Lanczos; probes: vectors of Hutchinson, 0 for eigenvalues
    alone; dense: the dimension up to which the matrix is computed whole."""

    leading: int = 1
    steps: int = STEPS
    probes: int = PROBES
    dense: int = DENSE


def curvature(
    hessian: Energy | Field,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """At each point, by name, the value and its error [n] (`leading`: [n, count]); one compilation for all points.

    smallest, largest: eigenvalues, with a bound (an eigenvalue lies within it); leading: the largest ones, falling;
    spectral_norm: max |eigenvalue|, bound; frobenius_norm, trace, stable_rank (|H|_F^2 / |H|^2), asymmetry
    (|J - J^T|_F / |J + J^T|_F, 0 for a gradient): standard errors. Errors are 0 where the matrix was computed whole.
    parameters: what `hessian` takes beside the point, the same for all. options: as `Options`.
    """
    chosen = Options(**options)
    return finish(over_points(at_point, (hessian, chosen), (points,), key, parameters), chosen)


def over_points(
    one: Callable[..., Any], about: tuple[Hashable, ...], points: tuple[Array | np.ndarray, ...], key: Key[Array, ""],
    parameters: tuple[Any, ...],
) -> Any:  # fmt: skip
    """one(*about, *point, key, parameters) at each point, over all devices: its arrays with a first axis [n], on the host.

    points: arrays [n, ...], of which each call has one row. Compiled once for the same `one`, `about` (what is not traced)
    and shapes. Decompositions of what comes back belong on the host: LAPACK's calls inside a program of several CPU devices
    have been seen to wait for each other for ever (jaxlib 0.10.1), and NumPy has float64.
    """
    n = len(points[0])
    keys, mesh = jax.random.split(key, n), parallel.data_mesh(n)
    found = _over_points(one, about, mesh, tuple(map(jnp.asarray, points)), keys, parameters)
    return jax.tree.map(np.asarray, found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _over_points(one, about, mesh, points, keys, parameters):
    def local(points, keys, parameters):
        def each(at):
            return one(*about, *at[0], at[1], parameters)

        return jax.lax.map(each, (points, keys), batch_size=TOGETHER)

    specs = (parallel.DATA, parallel.DATA, parallel.REPLICATED)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False)
    return run(points, keys, parameters)


def is_dense(size: int, options: Options) -> bool:
    """Whether a matrix of so many columns is computed whole. Raises ValueError where it was asked for and is too large."""
    if LARGEST < size <= options.dense:
        raise ValueError(f"a matrix of {size:,} dimensions was asked for whole (dense, --dense, is {options.dense:,}); the limit is "
                         f"{LARGEST:,}, so take a smaller --dense and products")  # fmt: skip
    return size <= options.dense


def at_point(
    hessian: Energy | Field,
    options: Options,
    x: Array,
    key: Key[Array, ""],
    parameters: tuple[Any, ...],
) -> dict[str, Array]:
    """What `finish` needs of one point, traceable: the matrix, or Lanczos' tridiagonal one and the probes' products."""
    if is_dense(x.size, options):
        return {"matrix": hessian.matrix(x, parameters)}
    forward, backward = hessian.products(x, parameters)

    def parts(v: Array) -> tuple[Array, Array]:
        j = forward(v)
        transposed = j if forward is backward else backward(v)
        return 0.5 * (j + transposed), 0.5 * (j - transposed)

    return of_operator(parts, x, key, options)


def of_operator(
    parts: Callable[[Array], tuple[Array, Array]], like: Array, key: Key[Array, ""], options: Options,
    real: Array | None = None,
) -> dict[str, Array]:  # fmt: skip
    """As `at_point`, of the operator whose symmetric and skew part, times a v of the shape of `like`, `parts` gives.

    real: which entries of v there are, where it is padded with zeros that are no null directions of the operator.
    """

    def flat(v):
        return tuple(part.ravel() for part in parts(v.reshape(like.shape)))

    if real is None and is_dense(like.size, options):
        return {
            "matrix": jax.lax.map(
                lambda v: sum(flat(v)), jnp.eye(like.size, dtype=like.dtype), batch_size=32
            ).T
        }

    def of_probe(v: Array) -> Array:
        """v.Hv, |Hv|^2 and the same of the skew part, whose means are tr H and squares of Frobenius norms."""
        symmetric, skew = flat(v)
        return jnp.stack([v @ symmetric, symmetric @ symmetric, skew @ skew])

    start, probes = jax.random.split(key)
    first = jax.random.normal(start, (like.size,), like.dtype)
    first = first if real is None else jnp.where(real, first, 0.0)
    lanczos = decomp.tridiag_sym(min(options.steps, like.size), custom_vjp=False)
    _, tridiagonal, rest, _ = lanczos(lambda v: flat(v)[0], first)
    found = {"tridiagonal": tridiagonal, "rest": jnp.linalg.norm(rest)}
    if not options.probes:
        return found
    signs = stochtrace.sampler_signs(first, num=options.probes)(probes)
    return found | {"probes": jax.lax.map(of_probe, signs, batch_size=at_once(like.size))}


def at_once(size: int) -> int:
    """How many vectors of this size a point takes at once."""
    return min(16, max(1, AT_ONCE // size)) if jax.default_backend() == "cpu" else 16


def finish(
    raw: dict[str, np.ndarray], options: Options
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What `curvature` returns, from `at_point`'s arrays [n, ...]."""
    if "matrix" in raw:
        each = [_of_matrix(matrix, options.leading) for matrix in raw["matrix"]]
    else:
        rows = zip(
            raw["tridiagonal"],
            raw["rest"],
            raw.get("probes", [None] * len(raw["rest"])),
            strict=True,
        )
        each = [_of_products(*row, options.leading) for row in rows]
    return {
        name: (np.array([one[name][0] for one in each]), np.array([one[name][1] for one in each]))
        for name in each[0]
    }


def _of_matrix(matrix: np.ndarray, leading: int) -> dict[str, tuple[Any, Any]]:
    wide = np.asarray(matrix, np.float64)
    symmetric, skew = 0.5 * (wide + wide.T), 0.5 * (wide - wide.T)
    eigenvalues, frobenius = np.linalg.eigvalsh(symmetric), float(np.linalg.norm(symmetric))
    norm = float(np.abs(eigenvalues).max())
    values = {
        "smallest": eigenvalues[0], "largest": eigenvalues[-1], "leading": eigenvalues[::-1][:leading],
        "spectral_norm": norm, "frobenius_norm": frobenius, "trace": float(np.trace(symmetric)),
        "stable_rank": _over(frobenius, norm) ** 2, "asymmetry": _over(float(np.linalg.norm(skew)), frobenius),
    }  # fmt: skip
    return {name: (value, np.zeros_like(value)) for name, value in values.items()}


def _of_products(
    tridiagonal: np.ndarray, rest: np.floating, probes: np.ndarray | None, leading: int
) -> dict[str, tuple[Any, Any]]:
    """The bound of a Ritz value is |H v - lambda v| of its unit vector v, and rounding."""
    eps = float(np.finfo(tridiagonal.dtype).eps)
    diagonal, beyond = (np.diagonal(tridiagonal, k).astype(np.float64) for k in (0, 1))
    size = np.abs(tridiagonal[:2, :2]).max()
    gone = np.flatnonzero(
        ~(beyond > 10.0 * eps * size)
    )  # the start lay in an invariant subspace: what follows is rounding
    steps, last = (
        (int(gone[0]) + 1, float(beyond[gone[0]])) if len(gone) else (len(diagonal), float(rest))
    )
    eigenvalues, vectors = linalg.eigh_tridiagonal(diagonal[:steps], beyond[: steps - 1])
    bounds = np.abs(np.nan_to_num(last) * vectors[-1]) + 8.0 * eps * np.abs(eigenvalues).max()
    widest = int(np.argmax(np.abs(eigenvalues)))
    count = min(leading, steps)

    def pad(a):
        return np.pad(a[::-1][:count], (0, leading - count), constant_values=np.nan)

    found = {"smallest": (eigenvalues[0], bounds[0]), "largest": (eigenvalues[-1], bounds[-1]),
             "leading": (pad(eigenvalues), pad(bounds)), "spectral_norm": (abs(eigenvalues[widest]), bounds[widest])}  # fmt: skip
    return found if probes is None else found | _of_probes(probes, abs(eigenvalues[widest]))


def _of_probes(probes: np.ndarray, norm: float) -> dict[str, tuple[float, float]]:
    """Means over the probes; square roots and ratios of them have their standard errors by the delta method."""
    (trace, square, skew), covariance = (
        probes.mean(axis=0, dtype=np.float64),
        np.cov(probes.T) / len(probes),
    )

    def error(*slope):
        return float(np.sqrt(max(np.array(slope) @ covariance @ np.array(slope), 0.0)))

    root, ratio = np.sqrt(square), np.sqrt(_over(skew, square))
    return {
        "trace": (trace, error(1.0, 0.0, 0.0)), "frobenius_norm": (root, error(0.0, _over(0.5, root), 0.0)),
        "stable_rank": (_over(square, norm**2), error(0.0, _over(1.0, norm**2), 0.0)),
        "asymmetry": (ratio, error(0.0, -_over(0.5 * ratio, square), _over(0.5, np.sqrt(skew * square)))),
    }  # fmt: skip


def _over(a: float, b: float) -> float:
    """a / b, and 0 where b is, as everything is of a Hessian that is 0."""
    return float(a / b) if b else 0.0


def _one(
    name: str,
    hessian: Energy | Field | Callable[..., Array],
    x: Array,
    key: Array,
    parameters: tuple,
    options: dict,
):
    hessian = hessian if isinstance(hessian, (Energy, Field)) else Energy(hessian)
    value, error = (
        float(a[0])
        for a in curvature(hessian, jnp.asarray(x)[None], key, *parameters, **options)[name]
    )
    whole = jnp.size(x) <= options.get("dense", DENSE)
    if name == "spectral_norm" and not whole:
        return Estimate(value, bound=error, n=options.get("steps", STEPS))
    return Estimate(value, standard_error=error, n=None if whole else options.get("probes", PROBES))


def spectral_norm(
    energy: Energy | Field | Callable[..., Array],
    x: Array,
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> Estimate:
    """max |eigenvalue| of the Hessian of energy(x, *parameters) at x; exact up to 1,024 dimensions, else an eigenvalue lies
    within `bound` of it, and it is no larger than the true one but for that."""
    return _one("spectral_norm", energy, x, key, parameters, options)


def frobenius_norm(
    energy: Energy | Field | Callable[..., Array],
    x: Array,
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> Estimate:
    """|H|_F of the energy at x; exact up to 1,024 dimensions, else with a standard error."""
    return _one("frobenius_norm", energy, x, key, parameters, options)


def trace(
    energy: Energy | Field | Callable[..., Array],
    x: Array,
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> Estimate:
    """tr H of the energy at x; exact up to 1,024 dimensions, else with a standard error."""
    return _one("trace", energy, x, key, parameters, options)
