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

from jaxdiff import parallel
from jaxdiff.estimates import Estimate

Product = Callable[[Array], Array]
DENSE, STEPS, PROBES = 1024, 30, 64
TOGETHER = 4  # points that a device takes at once


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
    """leading: how many of the largest eigenvalues; steps: products of Lanczos; probes: vectors of Hutchinson; dense: the
    dimension up to which the matrix is computed whole."""

    leading: int = 1
    steps: int = STEPS
    probes: int = PROBES
    dense: int = DENSE


def curvature(
    hessian: Energy | Field, points: Float[Array, "n ..."], key: Key[Array, ""], *parameters: Any, **options: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """At each point, by name, the value and its error [n] (`leading`: [n, count]); one compilation for all points.

    smallest, largest: eigenvalues, with a bound (an eigenvalue lies within it); leading: the largest ones, falling;
    spectral_norm: max |eigenvalue|, bound; frobenius_norm, trace, stable_rank (|H|_F^2 / |H|^2), asymmetry
    (|J - J^T|_F / |J + J^T|_F, 0 for a gradient): standard errors. Errors are 0 where the matrix was computed whole.
    parameters: what `hessian` takes beside the point, the same for all. options: as `Options`.
    """
    return over_points(at_point, (hessian, Options(**options)), points, key, parameters)


def over_points(
    one: Callable[..., Any], about: tuple[Hashable, ...], points: Float[Array, "n ..."], key: Key[Array, ""],
    parameters: tuple[Any, ...],
) -> Any:  # fmt: skip
    """one(*about, x, key, parameters) at each point, over all devices: its arrays with a first axis [n], on the host.

    Compiled once for the same `one`, `about` (what is not traced) and shapes.
    """
    keys, mesh = jax.random.split(key, len(points)), parallel.data_mesh(len(points))
    return jax.tree.map(np.asarray, _over_points(one, about, mesh, jnp.asarray(points), keys, parameters))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _over_points(one, about, mesh, points, keys, parameters):
    def local(points, keys, parameters):
        return jax.lax.map(lambda at: one(*about, *at, parameters), (points, keys), batch_size=TOGETHER)

    specs = (parallel.DATA, parallel.DATA, parallel.REPLICATED)
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False)
    return run(points, keys, parameters)


def at_point(
    hessian: Energy | Field, options: Options, x: Array, key: Key[Array, ""], parameters: tuple[Any, ...]
) -> dict[str, tuple[Array, Array]]:
    """What `curvature` says of one point, traceable."""
    return (_dense if x.size <= options.dense else _free)(hessian, options, x, key, parameters)


def _dense(hessian, options, x, key, parameters):
    """Everything from the matrix."""
    matrix = hessian.matrix(x, parameters)
    symmetric = 0.5 * (matrix + matrix.T)
    eigenvalues = jnp.linalg.eigvalsh(symmetric)
    square, norm = jnp.square(symmetric).sum(), jnp.abs(eigenvalues).max()
    skew = jnp.square(0.5 * (matrix - matrix.T)).sum()
    values = {
        "smallest": eigenvalues[0], "largest": eigenvalues[-1], "leading": eigenvalues[::-1][: options.leading],
        "spectral_norm": norm, "frobenius_norm": jnp.sqrt(square), "trace": jnp.trace(symmetric),
        "stable_rank": square / jnp.square(norm), "asymmetry": jnp.sqrt(skew / square),
    }  # fmt: skip
    return {name: (value, jnp.zeros_like(value)) for name, value in values.items()}


def _free(hessian, options, x, key, parameters):
    """Everything from products."""
    forward, backward = hessian.products(x, parameters)

    def parts(v: Array) -> tuple[Array, Array]:
        """The symmetric and the skew part of J, times v."""
        v = v.reshape(x.shape)
        j = forward(v).ravel()
        transposed = j if forward is backward else backward(v).ravel()
        return 0.5 * (j + transposed), 0.5 * (j - transposed)

    start, probes = jax.random.split(key)
    first = jax.random.normal(start, (x.size,), x.dtype)
    found = lanczos(lambda v: parts(v)[0], first, options.steps, options.leading)
    return found | _hutchinson(parts, first, probes, options.probes, found["spectral_norm"][0])


def lanczos(product: Product, start: Float[Array, " d"], steps: int, leading: int) -> dict[str, tuple[Array, Array]]:
    """The ends of a symmetric operator's spectrum, each with |H v - lambda v| of its unit vector v as bound."""
    steps = min(steps, len(start))
    basis, matrix, *_ = decomp.tridiag_sym(steps, custom_vjp=False)(product, start)
    # Where the start lies in an invariant subspace, nothing is left after some steps: what follows is rounding.
    beyond, size = jnp.diagonal(matrix, 1), jnp.abs(matrix[0, 0]) + jnp.abs(matrix[0, 1:2]).sum()
    tolerance = 10.0 * jnp.finfo(start.dtype).eps * jnp.maximum(size, jnp.finfo(start.dtype).tiny)
    whole = jnp.concatenate([jnp.array([True]), jnp.cumprod(jnp.where(beyond > tolerance, 1, 0)).astype(bool)])
    both = whole[:, None] & whole[None]
    matrix = jnp.where(both, matrix, jnp.eye(steps, dtype=matrix.dtype) * matrix[0, 0])
    basis = jnp.where(whole[:, None], basis, 0.0)  # [steps, d]
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    chosen = jnp.concatenate([jnp.array([0]), jnp.arange(steps - 1, steps - 1 - min(leading, steps), -1)])
    ritz, values = vectors[:, chosen].T @ basis, eigenvalues[chosen]
    bounds = jnp.linalg.norm(jax.lax.map(product, ritz) - values[:, None] * ritz, axis=1)
    wider = jnp.abs(values[0]) > jnp.abs(values[1])
    return {"smallest": (values[0], bounds[0]), "largest": (values[1], bounds[1]), "leading": (values[1:], bounds[1:]),
            "spectral_norm": (jnp.abs(values[:2]).max(), jnp.where(wider, bounds[0], bounds[1]))}  # fmt: skip


def _hutchinson(parts, like, key, probes, norm):
    """Trace, Frobenius norm, stable rank and asymmetry from random signs v: E[v.Hv] = tr H, E|Hv|^2 = |H|_F^2.

    Square roots and ratios of means have their standard errors by the delta method.
    """

    def of_one(v: Array) -> Array:
        symmetric, skew = parts(v)
        return jnp.stack([v @ symmetric, symmetric @ symmetric, skew @ skew])

    each = jax.lax.map(of_one, stochtrace.sampler_signs(like, num=probes)(key), batch_size=16)
    (trace, square, skew), covariance = each.mean(axis=0), jnp.cov(each.T) / probes
    error = lambda *slope: jnp.sqrt(jnp.maximum(jnp.array(slope) @ covariance @ jnp.array(slope), 0.0))  # noqa: E731
    root = jnp.sqrt(square)
    asymmetry = jnp.sqrt(skew / square)
    slopes = jnp.where(skew > 0, 0.5 / jnp.sqrt(jnp.maximum(skew * square, 1e-30)), 0.0), -0.5 * asymmetry / square
    return {
        "trace": (trace, error(1.0, 0.0, 0.0)), "frobenius_norm": (root, error(0.0, 0.5 / root, 0.0)),
        "stable_rank": (square / norm**2, error(0.0, 1.0 / norm**2, 0.0)),
        "asymmetry": (asymmetry, error(0.0, slopes[1], slopes[0])),
    }  # fmt: skip


def _one(
    name: str, hessian: Energy | Field | Callable[..., Array], x: Array, key: Array, parameters: tuple, options: dict
):
    hessian = hessian if isinstance(hessian, (Energy, Field)) else Energy(hessian)
    value, error = (float(a[0]) for a in curvature(hessian, jnp.asarray(x)[None], key, *parameters, **options)[name])
    whole = jnp.size(x) <= options.get("dense", DENSE)
    if name == "spectral_norm" and not whole:
        return Estimate(value, bound=error, n=options.get("steps", STEPS))
    return Estimate(value, standard_error=error, n=None if whole else options.get("probes", PROBES))


def spectral_norm(
    energy: Energy | Field | Callable[..., Array], x: Array, key: Key[Array, ""], *parameters: Any, **options: int
) -> Estimate:
    """max |eigenvalue| of the Hessian of energy(x, *parameters) at x; exact up to 1,024 dimensions, else with a bound."""
    return _one("spectral_norm", energy, x, key, parameters, options)


def frobenius_norm(
    energy: Energy | Field | Callable[..., Array], x: Array, key: Key[Array, ""], *parameters: Any, **options: int
) -> Estimate:
    """|H|_F of the energy at x; exact up to 1,024 dimensions, else with a standard error."""
    return _one("frobenius_norm", energy, x, key, parameters, options)


def trace(
    energy: Energy | Field | Callable[..., Array], x: Array, key: Key[Array, ""], *parameters: Any, **options: int
) -> Estimate:
    """tr H of the energy at x; exact up to 1,024 dimensions, else with a standard error."""
    return _one("trace", energy, x, key, parameters, options)
