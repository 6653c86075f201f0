"""The levels of a network as maps of abstraction, and an energy carried to a level in two ways.

phi: x -> z takes one point x_t (no batch axis) to its activation at a level (Eqs. 6, 27), or one level's activation to the
next's (Eq. 35). Its Jacobian J is met by products. No phi^-1 exists: the energy is pulled back by J's pseudo-inverse along
the leading singular directions, or composed with the decoder that the network itself has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from matfree import decomp, stochtrace

from jaxdiff.landscape.curvature import Options, at_once, finish, is_dense, of_operator, over_points

Function = Callable[..., Array]


class Triples(NamedTuple):
    """Leading singular triples of J at n points, falling: values [n, r], left [n, r, dim z], right [n, r, dim x], unit
    vectors; bounds [n, r], on the distance of each value to a singular value of J."""

    values: Float[np.ndarray, "n r"]
    left: Float[np.ndarray, "n r z"]
    right: Float[np.ndarray, "n r x"]
    bounds: Float[np.ndarray, "n r"]


def leading(
    phi: Function,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    count: int,
    parameters: tuple[Any, ...],
    options: Options,
) -> Triples:
    """The `count` leading triples of d phi / dx at each point: from the whole matrix up to options.dense dimensions, else by
    the bidiagonalization of Golub and Kahan in options.steps products with J and J^T. Raises ValueError where J has fewer."""
    u, v, middle, rest = over_points(
        _products_of_jacobian, (phi, options), (points,), key, parameters
    )
    most = min(middle.shape[1:])
    if count > most:
        raise ValueError(
            f"{count} singular values were asked for; this map has {most}, so use 1 to that"
        )

    def basis(rows, i):
        return None if rows is None else rows[i]

    each = [_svd(basis(u, i), basis(v, i), middle[i], rest[i], count) for i in range(len(points))]
    return Triples(*(np.stack(column) for column in zip(*each, strict=True)))


def _products_of_jacobian(phi, options, x, key, parameters):
    """J as B in the bases u and v, J v_i = sum u_j B_ji, and the length of what is left over."""
    out, forward = jax.linearize(lambda x: phi(x, *parameters), x)
    transpose = jax.linear_transpose(forward, x)

    def j(v):
        return forward(v.reshape(x.shape)).ravel()

    if is_dense(x.size, options):
        eye = jnp.eye(x.size, dtype=x.dtype)
        return (
            None,
            None,
            jax.lax.map(j, eye, batch_size=32).T,
            jnp.zeros(()),
        )  # the bases are the axes
    # Begun in J's row space, or the null space would take a step.
    start = transpose(jax.random.normal(key, out.shape, x.dtype))[0].ravel()
    (u, v), bidiagonal, rest, _ = decomp.bidiag(min(options.steps, x.size, out.size))(j, start)
    return u, v, bidiagonal, jnp.linalg.norm(rest)


def _svd(
    u: np.ndarray | None, v: np.ndarray | None, middle: np.ndarray, rest: np.floating, count: int
) -> tuple[np.ndarray, ...]:
    """The triples of J from B; 0 / 0 is where the rank is exhausted. Bounds hold what is left over, and rounding."""
    turn, values, back = np.linalg.svd(
        np.nan_to_num(middle).astype(np.float64), full_matrices=False
    )
    rounding = 8.0 * float(np.finfo(middle.dtype).eps) * values[0]
    bounds = np.abs(turn[-1] * float(np.nan_to_num(rest))) + rounding
    left, right = turn.T[:count], back[:count]
    if u is not None and v is not None:
        left, right = left @ np.nan_to_num(u), right @ np.nan_to_num(v)
    return tuple(np.asarray(a, middle.dtype) for a in (values[:count], left, right, bounds[:count]))


def _squares(phi, options, x, key, parameters):
    _, forward = jax.linearize(lambda x: phi(x, *parameters), x)
    probes = stochtrace.sampler_signs(x, num=options.probes)(key)
    return jax.lax.map(
        lambda v: jnp.sum(jnp.square(forward(v))), probes, batch_size=at_once(x.size)
    )


def contraction(
    phi: Function,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    *parameters: Any,
    count: int = 1,
    **options: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How phi(x, *parameters) stretches at each point: its `count` leading singular values [n, count] with bounds (Lemma
    1's premise asks for less than 1), and |J|_F with a standard error."""
    chosen, (first, second) = Options(**options), jax.random.split(key)
    triples = leading(phi, points, first, count, parameters, chosen)
    squares = over_points(_squares, (phi, chosen), (points,), second, parameters).astype(np.float64)
    root = np.sqrt(squares.mean(axis=1))
    error = squares.std(axis=1, ddof=1) / np.sqrt(squares.shape[1]) / np.maximum(2.0 * root, 1e-30)
    return {"values": (triples.values, triples.bounds), "frobenius_norm": (root, error)}


@dataclasses.dataclass(frozen=True)
class PullBack:
    """E o phi^-1 by the pseudo-inverse of J. phi, field: (x, *parameters) -> z, and -> grad E; ranks: how many leading
    directions of J it is restricted to, the same wherever it is compared, since the smallest sets its norm."""

    phi: Function
    field: Function
    ranks: tuple[int, ...]


def _pull_back(maps, x, values, left, right, key, parameters):
    phi, field = (lambda x, f=f: f(x, *parameters) for f in (maps.phi, maps.field))
    gradient, hessian = jax.linearize(field, x)
    inverse = right / jnp.maximum(values, jnp.finfo(values.dtype).tiny)[:, None]  # J+ u_i, in rows

    def along(product: Function, rows: Array) -> Array:
        return jax.lax.map(
            lambda v: product(v.reshape(x.shape)).ravel(), rows, batch_size=at_once(x.size)
        )

    first, second = inverse @ along(hessian, inverse).T, {}
    for r in maps.ranks:
        held = (inverse[:r] @ gradient.ravel()) @ left[:r]  # J+^T grad E
        _, bend = jax.linearize(jax.grad(lambda x, held=held: phi(x).ravel() @ held), x)
        second[r] = -(inverse[:r] @ along(bend, inverse[:r]).T)
    return first, second, jnp.linalg.norm(gradient)


def pull_back(
    maps: PullBack,
    points: Float[Array, "n ..."],
    key: Key[Array, ""],
    *parameters: Any,
    **options: int,
) -> dict[int, dict[str, np.ndarray]]:
    """By rank, at each point [n]: |Hess E^(a)| (Eq. 22) restricted to the leading directions: total; first, J+^T H J+;
    second, -(J+^T grad E) . D^2 phi [J+ u, J+ u]; bend = |second| / |grad E|; along, |H| itself between the same directions
    of x, with which a total is compared at level 0; and the last singular value with its bound. All are nan where that value is not above its bound: J has not so many directions there. Raises ValueError for a rank above
    the dimension of x or z."""
    chosen, (for_triples, rest) = Options(**options), jax.random.split(key)
    most = max(maps.ranks)
    chosen = dataclasses.replace(chosen, steps=max(chosen.steps, 2 * most))
    triples = leading(maps.phi, points, for_triples, most, parameters, chosen)
    at = (points, triples.values, triples.left, triples.right)
    first, second, gradient = over_points(_pull_back, (maps,), at, rest, parameters)
    found = {}
    for r in maps.ranks:
        value, bound = triples.values[:, r - 1], triples.bounds[:, r - 1]
        parts = {"first": first[:, :r, :r], "second": second[r]}
        parts["total"] = parts["first"] + parts["second"]
        values = triples.values[:, :r]
        parts["along"] = values[:, :, None] * parts["first"] * values[:, None]
        norms = {
            name: np.where(value > bound, _norms(matrices), np.nan)
            for name, matrices in parts.items()
        }
        bend = norms["second"] / np.maximum(gradient, 1e-30)
        found[r] = norms | {"bend": bend, "smallest_value": value, "smallest_bound": bound}
    return found


def _norms(matrices: Float[np.ndarray, "n r r"]) -> Float[np.ndarray, " n"]:
    """Spectral norms of the symmetric parts; what is not finite is 0."""
    whole = np.nan_to_num(matrices.astype(np.float64), posinf=0.0, neginf=0.0)
    return np.abs(np.linalg.eigvalsh(0.5 * (whole + whole.swapaxes(1, 2)))).max(axis=1)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """E o decode in the place of E o phi^-1. encode: (x, *with x, *parameters) -> z and what is held (skips, embedding, step);
    decode: (z, held, *parameters) -> image; field: (image, *parameters) -> grad E; real: parameters -> which entries of z
    there are, where it is padded."""

    encode: Callable[..., tuple[Array, Any]]
    decode: Function
    field: Function
    real: Function | None = None


TERMS = {
    "total": (1.0, 1.0),
    "gauss_newton": (1.0, 0.0),
    "remainder": (0.0, 1.0),
}  # of the two in Eq. 22


def _decoded(maps, options, x, *rest):
    """The maps are linearized once, and the three Hessians met together: what is compiled is one body of products."""
    *with_x, key, parameters = rest
    z, held = maps.encode(x, *with_x, *parameters)

    def decode(z):
        return maps.decode(z, held, *parameters)

    def field(x):
        return maps.field(x, *parameters)

    image, j = jax.linearize(decode, z)
    gradient, hessian = jax.linearize(field, image)
    j_transposed, hessian_transposed = (
        jax.linear_transpose(j, z),
        jax.linear_transpose(hessian, image),
    )
    _, bend = jax.linearize(jax.grad(lambda z: jnp.vdot(gradient, decode(z))), z)

    def of_term(shares: Array) -> dict[str, Array]:
        def parts(v: Array) -> tuple[Array, Array]:
            along = j(v)
            forward, (backward,) = hessian(along), hessian_transposed(along)
            (symmetric,), (skew,) = (
                j_transposed(0.5 * each) for each in (forward + backward, forward - backward)
            )
            return shares[0] * symmetric + shares[1] * bend(v), shares[0] * skew

        return of_operator(
            parts, z, key, options, None if maps.real is None else maps.real(*parameters)
        )

    found = jax.vmap(of_term)(jnp.array(list(TERMS.values()), z.dtype))
    v = jax.random.normal(key, z.shape, z.dtype)

    def pulled(z):
        return jax.vjp(decode, z)[1](field(decode(z)))[0]

    whole, summed = jax.jvp(pulled, (z,), (v,))[1], j_transposed(hessian(j(v)))[0] + bend(v)

    def ratio(a, b):
        return jnp.linalg.norm(a) / jnp.linalg.norm(b)

    return found, {"gap": ratio(image - x, x), "sum_error": ratio(whole - summed, whole)}


def decoded(
    maps: Decoder, points: Float[Array, "n ..."], key: Key[Array, ""], *parameters: Any,
    with_points: tuple[Array | np.ndarray, ...] = (), **options: int,
) -> dict[str, Any]:  # fmt: skip
    """At each point, the curvature of E o decode at its activation: total, gauss_newton (J^T H J) and remainder
    (grad E . D^2 decode), each as `curvature` gives it; gap: |decode(z) - x| / |x|, which an inverse would have as 0;
    sum_error: |(H - J^T H J - remainder) v| / |H v| for a random v and the composition's own H, which is rounding.

    with_points: arrays [n, ...] that `encode` takes a row of beside each point."""
    chosen = Options(**options)
    raw, checks = over_points(_decoded, (maps, chosen), (points, *with_points), key, parameters)
    each = {name: {key: value[:, i] for key, value in raw.items()} for i, name in enumerate(TERMS)}
    return {name: finish(part, chosen) for name, part in each.items()} | checks


def total_variance(z: Float[np.ndarray, "n ..."]) -> float:
    """tr Cov(z) over the points: the scale of a level, by which norms of Hessians are made comparable."""
    return float(np.asarray(z, np.float64).reshape(len(z), -1).var(axis=0, ddof=1).sum())
