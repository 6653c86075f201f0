"""How curved an energy is at given points: eigenvalues, norms and trace of its Hessian.

Up to 1,024 dimensions the whole Hessian is computed and the errors are 0. Above, it is known by
its products alone: Lanczos' method for the ends of the spectrum, with the residual of the
eigenvector as bound, and Hutchinson's estimator for trace and Frobenius norm, with a standard
error (both of matfree).

A field that is no gradient, as a trained eps_hat is none exactly, has a Jacobian J in the
Hessian's place: everything is of its symmetric part, and the asymmetry says what that leaves out.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from matfree import decomp, stochtrace

from jaxdiff import parallel
from jaxdiff.estimates import Estimate
from jaxdiff.landscape.spectrum import Measured, summarize

Function = Callable[..., Array]
Product = Callable[[Array], Array]

DENSE = 1024  # dimensions up to which the whole matrix is computed
STEPS = 30  # Lanczos products
PROBES = 64  # Hutchinson vectors
# Largest matrix that is computed whole: 64 MiB a point, and a minute of eigenvalues for sixteen.
MAX_DENSE = 4096
POINTS_PER_BATCH = 4  # points that a device works on together
VECTORS_PER_BATCH = 16  # products that a point computes together
# On a CPU, more numbers in those vectors take memory and no less time.
MAX_CPU_NUMBERS = 2**15
MATRIX_ROWS_PER_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Energy:
    """An energy ``(x, *parameters) -> number``, with the products of its Hessian H."""

    energy: Function

    def products(self, x: Array, parameters: tuple[Any, ...]) -> tuple[Product, Product]:
        """v -> H v, twice: H is its own transpose."""
        gradient = jax.grad(lambda x: self.energy(x, *parameters))
        _, product = jax.linearize(gradient, x)
        return product, product

    def matrix(self, x: Array, parameters: tuple[Any, ...]) -> Float[Array, "d d"]:
        """The whole Hessian of the flat point."""
        hessian = jax.hessian(lambda x: self.energy(x, *parameters))
        return hessian(x).reshape(x.size, x.size)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field ``(x, *parameters) -> [shape of x]``, with the products of its Jacobian J.

    It stands for the gradient of an energy, and J for the Hessian.
    """

    field: Function

    def products(self, x: Array, parameters: tuple[Any, ...]) -> tuple[Product, Product]:
        """v -> J v and v -> J^T v."""
        _, forward = jax.linearize(lambda x: self.field(x, *parameters), x)
        backward = jax.linear_transpose(forward, x)
        return forward, lambda v: backward(v)[0]

    def matrix(self, x: Array, parameters: tuple[Any, ...]) -> Float[Array, "d d"]:
        """The whole Jacobian of the flat point."""
        jacobian = jax.jacfwd(lambda x: self.field(x, *parameters))
        return jacobian(x).reshape(x.size, x.size)


@dataclasses.dataclass(frozen=True)
class Options:
    """How curvature is computed.

    Parameters
    ----------
    leading
        Number of largest eigenvalues to return.
    steps
        Products of Lanczos' method.
    probes
        Vectors of Hutchinson's estimator; 0 for eigenvalues alone.
    dense
        Dimension up to which the whole matrix is computed, at most 4,096.
    """

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
) -> dict[str, Measured]:
    """Eigenvalues, norms and trace of a Hessian at each point; one compilation for all points.

    Parameters
    ----------
    hessian
        The energy whose Hessian is measured, or the field whose Jacobian stands for it.
    points
        Where it is measured.
    key
        PRNG key for Lanczos' first vector and the random vectors.
    parameters
        What ``hessian`` takes beside the point, the same for all points.
    options
        Fields of `Options`.

    Returns
    -------
    measured
        By name, values and errors [n]. ``smallest`` and ``largest``: eigenvalues, with a bound
        (an eigenvalue lies within it); ``leading`` [n, count]: the largest ones, falling;
        ``spectral_norm``: max |eigenvalue|, with a bound; ``frobenius_norm``, ``trace``,
        ``stable_rank`` (|H|_F^2 / |H|^2) and ``asymmetry`` (|J - J^T|_F / |J + J^T|_F, 0 for a
        gradient): with standard errors. Errors are 0 where the whole matrix was computed.

    Raises
    ------
    ValueError
        Where a whole matrix of more than 4,096 dimensions is asked for.
    """
    settings = Options(**options)
    raw = map_points(measure_point, (points,), key, parameters, static=(hessian, settings))
    return summarize(raw, settings.leading)


def map_points(
    function: Callable[..., Any],
    points: tuple[Array | np.ndarray, ...],
    key: Key[Array, ""],
    parameters: tuple[Any, ...],
    *,
    static: tuple[Hashable, ...] = (),
) -> Any:
    """Apply a function at each point, over all devices; NumPy arrays with a first axis [n].

    Calls ``function(*static, *point, key, parameters)`` with a row of each array of ``points``.
    The program is compiled once for the same function, static arguments and shapes.
    """
    # Decompositions of the result belong on the host: LAPACK's calls inside a program of several
    # CPU devices have been seen to deadlock (jaxlib 0.10.1), and NumPy has float64.
    n = len(points[0])
    keys = jax.random.split(key, n)
    arrays = tuple(jnp.asarray(array) for array in points)
    results = _map_points(function, static, parallel.data_mesh(n), arrays, keys, parameters)
    return jax.tree.map(np.asarray, results)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _map_points(function, static, mesh, points, keys, parameters):
    def map_shard(points, keys, parameters):
        def apply(row):
            point, key = row
            return function(*static, *point, key, parameters)

        return jax.lax.map(apply, (points, keys), batch_size=POINTS_PER_BATCH)

    specs = (parallel.DATA, parallel.DATA, parallel.REPLICATED)
    return parallel.shard_map(map_shard, mesh, specs)(points, keys, parameters)


def is_dense(size: int, options: Options) -> bool:
    """Whether a matrix of this many columns is computed whole.

    Raises ValueError where that was asked for and the matrix is too large.
    """
    if MAX_DENSE < size <= options.dense:
        raise ValueError(
            f"dense (--dense) must be at most {MAX_DENSE:,} for a matrix of {size:,} dimensions, "
            f"got {options.dense:,}; take a smaller one, which uses products"
        )
    return size <= options.dense


def measure_point(
    hessian: Energy | Field,
    options: Options,
    x: Array,
    key: Key[Array, ""],
    parameters: tuple[Any, ...],
) -> dict[str, Array]:
    """The arrays that `summarize` needs of one point; traceable."""
    if is_dense(x.size, options):
        return {"matrix": hessian.matrix(x, parameters)}
    forward, backward = hessian.products(x, parameters)

    def products(v: Array) -> tuple[Array, Array]:
        product = forward(v)
        transposed = product if forward is backward else backward(v)
        return 0.5 * (product + transposed), 0.5 * (product - transposed)

    return measure_operator(products, x, key, options)


def measure_operator(
    products: Callable[[Array], tuple[Array, Array]],
    like: Array,
    key: Key[Array, ""],
    options: Options,
    valid_mask: Bool[Array, " d"] | None = None,
) -> dict[str, Array]:
    """The arrays that `summarize` needs of an operator; traceable.

    ``products`` maps v, of the shape of ``like``, to the products of the operator's symmetric and
    skew part with it. ``valid_mask`` says which entries of v exist, where it is padded with zeros
    that are no null directions of the operator. Returns the ``matrix``; or Lanczos'
    ``tridiagonal`` matrix, the length ``rest`` of what it leaves over, and the ``probes``.
    """

    def flat_products(v):
        symmetric, skew = products(v.reshape(like.shape))
        return symmetric.ravel(), skew.ravel()

    def row(v):
        symmetric, skew = flat_products(v)
        return symmetric + skew

    if valid_mask is None and is_dense(like.size, options):
        identity = jnp.eye(like.size, dtype=like.dtype)
        # The product with the i-th unit vector is the i-th column, hence the transpose.
        return {"matrix": jax.lax.map(row, identity, batch_size=MATRIX_ROWS_PER_BATCH).T}

    def probe(v: Array) -> Array:
        # The means of these are tr H and the squared Frobenius norms of both parts.
        symmetric, skew = flat_products(v)
        return jnp.stack([v @ symmetric, symmetric @ symmetric, skew @ skew])

    start_key, probe_key = jax.random.split(key)
    start = jax.random.normal(start_key, (like.size,), like.dtype)
    if valid_mask is not None:
        # The operator keeps the padding at 0, and so do all of Lanczos' vectors from here.
        start = jnp.where(valid_mask, start, 0.0)
    lanczos = decomp.tridiag_sym(min(options.steps, like.size), custom_vjp=False)
    _, tridiagonal, rest, _ = lanczos(lambda v: flat_products(v)[0], start)
    arrays = {"tridiagonal": tridiagonal, "rest": jnp.linalg.norm(rest)}
    if not options.probes:
        return arrays
    signs = stochtrace.sampler_signs(start, num=options.probes)(probe_key)
    return arrays | {"probes": jax.lax.map(probe, signs, batch_size=vector_batch_size(like.size))}


def vector_batch_size(size: int) -> int:
    """How many vectors of this size a point multiplies together."""
    if jax.default_backend() != "cpu":
        return VECTORS_PER_BATCH
    return min(VECTORS_PER_BATCH, max(1, MAX_CPU_NUMBERS // size))


def spectral_norm(
    energy: Energy | Field | Function,
    x: Array,
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> Estimate:
    """Largest absolute eigenvalue of the Hessian of ``energy(x, *parameters)`` at one point.

    Parameters
    ----------
    energy
        The energy; an `Energy` or `Field` is used as it is.
    x
        The point, of any shape.
    key
        PRNG key for Lanczos' first vector.
    parameters
        What the energy takes beside the point.
    options
        Fields of `Options`.

    Returns
    -------
    estimate
        Exact up to 1,024 dimensions. Above, an eigenvalue lies within ``bound`` of the value, and
        the true norm is at least the value minus ``bound``.
    """
    settings = Options(**options)
    value, error = _measure_one("spectral_norm", energy, x, key, parameters, settings)
    if jnp.size(x) <= settings.dense:
        return Estimate(value, standard_error=error)
    return Estimate(value, bound=error, n=settings.steps)


def frobenius_norm(
    energy: Energy | Field | Function,
    x: Array,
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> Estimate:
    """Frobenius norm of the Hessian of an energy at one point, as `spectral_norm` takes them.

    Exact up to 1,024 dimensions, else with a standard error.
    """
    settings = Options(**options)
    value, error = _measure_one("frobenius_norm", energy, x, key, parameters, settings)
    return _hutchinson_estimate(value, error, jnp.size(x), settings)


def trace(
    energy: Energy | Field | Function,
    x: Array,
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> Estimate:
    """Trace of the Hessian of an energy at one point, as `spectral_norm` takes them.

    Exact up to 1,024 dimensions, else with a standard error.
    """
    settings = Options(**options)
    value, error = _measure_one("trace", energy, x, key, parameters, settings)
    return _hutchinson_estimate(value, error, jnp.size(x), settings)


def _measure_one(name, energy, x, key, parameters, options) -> tuple[float, float]:
    hessian = energy if isinstance(energy, (Energy, Field)) else Energy(energy)
    points = jnp.asarray(x)[None]
    measured = curvature(hessian, points, key, *parameters, **dataclasses.asdict(options))
    values, errors = measured[name]
    return float(values[0]), float(errors[0])


def _hutchinson_estimate(value: float, error: float, size: int, options: Options) -> Estimate:
    n = None if size <= options.dense else options.probes
    return Estimate(value, standard_error=error, n=n)
