"""The levels of a network as maps of abstraction, and an energy carried to a level in two ways.

phi: x -> z takes one point x_t (no batch axis) to its activation at a level (Eqs. 6, 27), or one
level's activation to the next's (Eq. 35). Its Jacobian J is known by its products. No phi^-1
exists: the energy is pulled back by J's pseudo-inverse along the leading singular directions, or
composed with the decoder that the network itself has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matfree import decomp

from jaxdiff.landscape.curvature import (
    MATRIX_ROWS_PER_BATCH,
    Function,
    Options,
    is_dense,
    map_points,
    measure_operator,
    vector_batch_size,
)
from jaxdiff.landscape.spectrum import BOUND_ROUNDING, Measured, summarize

PerPoint = Float[np.ndarray, " n"]

MIN_GRADIENT = 1e-30  # so that no division is by 0


class SingularTriples(NamedTuple):
    """Leading singular triples of J at n points, falling; the vectors have unit length."""

    values: Float[np.ndarray, "n r"]
    left: Float[np.ndarray, "n r z"]
    right: Float[np.ndarray, "n r x"]
    # On the distance of each value to a singular value of J.
    bounds: Float[np.ndarray, "n r"]


def leading_triples(
    phi: Function,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    *,
    count: int,
    parameters: tuple[Any, ...],
    options: Options,
) -> SingularTriples:
    """Leading singular triples of d phi / dx at each point.

    From the whole matrix up to ``options.dense`` dimensions, else by the bidiagonalization of
    Golub and Kahan in ``options.steps`` products with J and J^T.

    Raises ValueError where J has fewer than ``count`` singular values.
    """
    static = (phi, options)
    bidiagonals = map_points(_bidiagonalize, (points,), key, parameters, static=static)
    largest = min(bidiagonals.matrix.shape[1:])
    if count > largest:
        raise ValueError(
            f"the number of singular values must be 1 to {largest} for this map, got {count}"
        )
    triples = []
    for i in range(len(points)):
        bidiagonal = jax.tree.map(lambda array, i=i: array[i], bidiagonals)
        triples.append(_decompose(bidiagonal, count))
    columns = zip(*triples, strict=True)
    return SingularTriples(*(np.stack(column) for column in columns))


class _Bidiagonal(NamedTuple):
    """J v_i = sum_j u_j matrix_ji in the bases u and v, None for the axes themselves."""

    matrix: Any
    rest: Any  # length of what the bases leave over
    left_basis: Any = None
    right_basis: Any = None


def _bidiagonalize(phi, options, x, key, parameters) -> _Bidiagonal:
    z, forward = jax.linearize(lambda x: phi(x, *parameters), x)
    transpose = jax.linear_transpose(forward, x)

    def product(v):
        return forward(v.reshape(x.shape)).ravel()

    if is_dense(x.size, options):
        identity = jnp.eye(x.size, dtype=x.dtype)
        matrix = jax.lax.map(product, identity, batch_size=MATRIX_ROWS_PER_BATCH).T
        return _Bidiagonal(matrix, jnp.zeros(()))
    # Begun in J's row space, or the null space would take a step.
    start = transpose(jax.random.normal(key, z.shape, x.dtype))[0].ravel()
    steps = min(options.steps, x.size, z.size)
    (u, v), bidiagonal, rest, _ = decomp.bidiag(steps)(product, start)
    return _Bidiagonal(bidiagonal, jnp.linalg.norm(rest), u, v)


def _decompose(bidiagonal: _Bidiagonal, count: int) -> tuple[np.ndarray, ...]:
    """One point's values, left and right vectors, and bounds."""
    dtype = bidiagonal.matrix.dtype
    # 0 / 0 is where the rank is exhausted.
    matrix = np.nan_to_num(bidiagonal.matrix).astype(np.float64)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    # Bounds hold what is left over, and rounding.
    rounding = BOUND_ROUNDING * float(np.finfo(dtype).eps) * values[0]
    rest = float(np.nan_to_num(bidiagonal.rest))
    # J v = s u is exact. J^T u = s v is off by the rest times the last entry of u in its basis.
    bounds = np.abs(left[-1] * rest) + rounding
    left = left.T[:count]
    right = right[:count]
    if bidiagonal.left_basis is not None:
        left = left @ np.nan_to_num(bidiagonal.left_basis)
        right = right @ np.nan_to_num(bidiagonal.right_basis)
    arrays = (values[:count], left, right, bounds[:count])
    return tuple(np.asarray(array, dtype) for array in arrays)


@dataclasses.dataclass(frozen=True)
class PullBack:
    """E o phi^-1 by the pseudo-inverse of J."""

    encode: Function  # phi, (x, *parameters) -> z
    energy_grad: Function  # (x, *parameters) -> grad E
    # How many leading directions of J it is restricted to: the same wherever norms are compared,
    # since the smallest singular value sets them.
    ranks: tuple[int, ...]


class PulledBackNorms(NamedTuple):
    """Norms of Hess E^(a) restricted to leading directions, at each point (Eq. 22)."""

    total: PerPoint  # of the sum of both terms
    first: PerPoint  # of J+^T H J+
    second: PerPoint  # of (J+^T grad E) . D^2 phi [J+ u, J+ u]
    # Of H itself between the same directions of x, with which a total is compared at level 0.
    along: PerPoint
    bend: PerPoint  # second / |grad E|
    smallest_value: PerPoint  # the last singular value among the directions
    smallest_bound: PerPoint


def pull_back_curvature(
    maps: PullBack,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> dict[int, PulledBackNorms]:
    """Curvature of the pulled-back energy at each point, by rank.

    The options are fields of `Options`; ``steps`` is raised to twice the largest rank. Norms are
    nan where the last singular value is not above its bound: J has fewer directions there. Raises
    ValueError for a rank above the dimension of x or z.
    """
    # The second half of the key is unused, but the points are mapped with one.
    triples_key, rest_key = jax.random.split(key)
    count = max(maps.ranks)
    settings = Options(**options)
    settings = dataclasses.replace(settings, steps=max(settings.steps, 2 * count))
    triples = leading_triples(
        maps.encode, points, triples_key, count=count, parameters=parameters, options=settings
    )
    rows = (points, triples.values, triples.left, triples.right)
    first, second, gradient = map_points(_pull_back, rows, rest_key, parameters, static=(maps,))
    return {r: _pulled_back_norms(r, triples, first, second[r], gradient) for r in maps.ranks}


def _pull_back(maps, x, values, left, right, key, parameters):
    """First term, second term by rank, and |grad E| at a point."""

    def encode(x):
        return maps.encode(x, *parameters)

    gradient, hessian = jax.linearize(lambda x: maps.energy_grad(x, *parameters), x)
    # The rows are J+ u_i.
    inverse = right / jnp.maximum(values, jnp.finfo(values.dtype).tiny)[:, None]

    def multiply_rows(product: Function, rows: Array) -> Array:
        def multiply(v):
            return product(v.reshape(x.shape)).ravel()

        return jax.lax.map(multiply, rows, batch_size=vector_batch_size(x.size))

    first = inverse @ multiply_rows(hessian, inverse).T
    # Unlike the first term's, the matrix of a smaller rank is no part of a larger one's: its
    # cotangent sums over fewer directions.
    second = {}
    for r in maps.ranks:
        # J+^T grad E is fixed: phi alone is differentiated.
        cotangent = (inverse[:r] @ gradient.ravel()) @ left[:r]

        def project(x, cotangent=cotangent):
            return encode(x).ravel() @ cotangent

        _, bend = jax.linearize(jax.grad(project), x)
        # D^2 (phi^-1)[u, u'] = -J+ D^2 phi [J+ u, J+ u'], hence the sign.
        second[r] = -(inverse[:r] @ multiply_rows(bend, inverse[:r]).T)
    return first, second, jnp.linalg.norm(gradient)


def _pulled_back_norms(
    rank: int,
    triples: SingularTriples,
    first: Float[np.ndarray, "n r r"],
    second: Float[np.ndarray, "n rank rank"],
    gradient: PerPoint,
) -> PulledBackNorms:
    values = triples.values[:, :rank]
    first = first[:, :rank, :rank]
    last_value = triples.values[:, rank - 1]
    last_bound = triples.bounds[:, rank - 1]

    def norms(matrices):
        return np.where(last_value > last_bound, _symmetric_norms(matrices), np.nan)

    second_norms = norms(second)
    return PulledBackNorms(
        total=norms(first + second),
        first=norms(first),
        second=second_norms,
        # s_i J+ u_i is v_i: H itself, between right singular vectors.
        along=norms(values[:, :, None] * first * values[:, None]),
        bend=second_norms / np.maximum(gradient, MIN_GRADIENT),
        smallest_value=last_value,
        smallest_bound=last_bound,
    )


def _symmetric_norms(matrices: Float[np.ndarray, "n r r"]) -> PerPoint:
    """Spectral norms of the symmetric parts; what is not finite is 0."""
    finite = np.nan_to_num(matrices.astype(np.float64), posinf=0.0, neginf=0.0)
    symmetric = 0.5 * (finite + finite.swapaxes(1, 2))
    return np.abs(np.linalg.eigvalsh(symmetric)).max(axis=1)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """E o decode in the place of E o phi^-1."""

    # (x, *with_points, *parameters) -> z and the context that stays fixed (skips, embedding).
    encode: Callable[..., tuple[Array, Any]]
    decode: Function  # (z, context, *parameters) -> image
    energy_grad: Function  # (image, *parameters) -> grad E
    # (*parameters) -> which entries of z exist, where it is padded.
    valid_mask: Function | None = None


class DecoderCurvature(NamedTuple):
    """Curvature of E o decode at each point's activation, by the terms of Eq. 22."""

    # Each as `curvature` returns it.
    total: dict[str, Measured]
    gauss_newton: dict[str, Measured]  # of J^T H J
    remainder: dict[str, Measured]  # of grad E . D^2 decode
    # |decode(z) - x|, which an inverse would have as 0.
    gap: PerPoint
    # |(H - J^T H J - remainder) v| / |H v| for a random v and the composition's own H: rounding.
    sum_error: PerPoint


# Factors of J^T H J and of the remainder in each term.
TERM_FACTORS = {"total": (1.0, 1.0), "gauss_newton": (1.0, 0.0), "remainder": (0.0, 1.0)}


def decoder_curvature(
    maps: Decoder,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    *parameters: Any,
    with_points: tuple[Array | np.ndarray, ...] = (),
    **options: int,
) -> DecoderCurvature:
    """Curvature of the energy composed with a decoder, at each point's activation.

    ``with_points`` are arrays [n, ...]: ``encode`` takes a row of each beside its point. The
    options are fields of `Options`.
    """
    settings = Options(**options)
    rows = (points, *with_points)
    raw, checks = map_points(_decode, rows, key, parameters, static=(maps, settings))
    terms = {}
    for i, term in enumerate(TERM_FACTORS):
        arrays = {name: array[:, i] for name, array in raw.items()}
        terms[term] = summarize(arrays, settings.leading)
    return DecoderCurvature(
        terms["total"],
        terms["gauss_newton"],
        terms["remainder"],
        checks["gap"],
        checks["sum_error"],
    )


def _decode(maps, options, x, *arguments):
    # The maps are linearized once, and the three Hessians measured together: what is compiled
    # is one body of products.
    *with_point, key, parameters = arguments
    z, context = maps.encode(x, *with_point, *parameters)

    def decode(z):
        return maps.decode(z, context, *parameters)

    def energy_grad(x):
        return maps.energy_grad(x, *parameters)

    image, j = jax.linearize(decode, z)
    gradient, hessian = jax.linearize(energy_grad, image)
    j_transposed = jax.linear_transpose(j, z)
    hessian_transposed = jax.linear_transpose(hessian, image)
    _, bend = jax.linearize(jax.grad(lambda z: jnp.vdot(gradient, decode(z))), z)

    def measure_term(factors: Array) -> dict[str, Array]:
        def products(v: Array) -> tuple[Array, Array]:
            along = j(v)
            forward = hessian(along)
            (backward,) = hessian_transposed(along)
            (symmetric,) = j_transposed(0.5 * (forward + backward))
            (skew,) = j_transposed(0.5 * (forward - backward))
            return factors[0] * symmetric + factors[1] * bend(v), factors[0] * skew

        mask = None if maps.valid_mask is None else maps.valid_mask(*parameters)
        return measure_operator(products, z, key, options, mask)

    raw = jax.vmap(measure_term)(jnp.array(list(TERM_FACTORS.values()), z.dtype))

    def composed_grad(z):
        return jax.vjp(decode, z)[1](energy_grad(decode(z)))[0]

    # The composition's own Hessian against the sum of the two terms.
    v = jax.random.normal(key, z.shape, z.dtype)
    _, hessian_product = jax.jvp(composed_grad, (z,), (v,))
    sum_of_terms = j_transposed(hessian(j(v)))[0] + bend(v)
    checks = {
        "gap": jnp.linalg.norm(image - x),
        "sum_error": _relative_norm(hessian_product - sum_of_terms, hessian_product),
    }
    return raw, checks


def _relative_norm(difference: Array, reference: Array) -> Array:
    return jnp.linalg.norm(difference) / jnp.linalg.norm(reference)


def total_variance(z: Float[np.ndarray, "n ..."]) -> float:
    """tr Cov(z) over the points, by which norms of Hessians are made comparable across levels."""
    flat = np.asarray(z, np.float64).reshape(len(z), -1)
    return float(flat.var(axis=0, ddof=1).sum())
