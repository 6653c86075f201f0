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

from jaxdiff.landscape.curvature import Field, Options, at_point, over_points

Function = Callable[..., Array]


class Triples(NamedTuple):
    """Leading singular triples of J, falling: values [r], left [r, dim z], right [r, dim x], unit vectors; bounds [r], on
    the distance of each value to a singular value of J."""

    values: Float[Array, " r"]
    left: Float[Array, "r z"]
    right: Float[Array, "r x"]
    bounds: Float[Array, " r"]


def leading(phi: Function, x: Array, key: Key[Array, ""], count: int, steps: int, dense: int) -> Triples:
    """The `count` leading triples of d phi / dx at x: from the whole matrix up to `dense` dimensions, else by the
    bidiagonalization of Golub and Kahan in `steps` products with J and J^T."""
    out, forward = jax.linearize(phi, x)
    transpose = jax.linear_transpose(forward, x)
    j = lambda v: forward(v.reshape(x.shape)).ravel()  # noqa: E731
    jt = lambda u: transpose(u.reshape(out.shape))[0].ravel()  # noqa: E731
    if x.size <= dense:
        matrix = jax.lax.map(j, jnp.eye(x.size, dtype=x.dtype), batch_size=32).T
        left, values, right = jnp.linalg.svd(matrix, full_matrices=False)
        return Triples(values[:count], left.T[:count], right[:count], jnp.zeros_like(values[:count]))
    steps = min(steps, x.size, out.size)
    start = jt(jax.random.normal(key, (out.size,), x.dtype))  # in J's row space, or the null space would take a step
    basis, bidiagonal, *_ = decomp.bidiag(steps)(j, start)
    (u, v), bidiagonal = jax.tree.map(jnp.nan_to_num, (basis, bidiagonal))  # 0 / 0 where the rank is exhausted
    turn, values, back = jnp.linalg.svd(bidiagonal)
    left, right, values = (turn.T @ u)[:count], (back @ v)[:count], values[:count]
    apart = jax.lax.map(lambda uv: jnp.linalg.norm(jt(uv[0]) - uv[2] * uv[1]), (left, right, values))
    return Triples(values, left, right, apart)


def _contraction(phi, count, options, x, key, parameters):
    first, second = jax.random.split(key)
    at = lambda x: phi(x, *parameters)  # noqa: E731
    triples = leading(at, x, first, count, options.steps, options.dense)
    _, forward = jax.linearize(at, x)
    probes = stochtrace.sampler_signs(x, num=options.probes)(second)
    squares = jax.lax.map(lambda v: jnp.sum(jnp.square(forward(v))), probes, batch_size=16)
    root = jnp.sqrt(squares.mean())
    error = jnp.std(squares, ddof=1) / jnp.sqrt(options.probes) / (2.0 * root)
    return {"values": (triples.values, triples.bounds), "frobenius_norm": (root, error)}


def contraction(
    phi: Function, points: Float[Array, "n ..."], key: Key[Array, ""], *parameters: Any, count: int = 1, **options: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How phi(x, *parameters) stretches at each point: its `count` leading singular values [n, count] with bounds (Lemma
    1's premise asks for less than 1), and |J|_F with a standard error."""
    return over_points(_contraction, (phi, count, Options(**options)), points, key, parameters)


@dataclasses.dataclass(frozen=True)
class PullBack:
    """E o phi^-1 by the pseudo-inverse of J. phi, field: (x, *parameters) -> z, and -> grad E; ranks: how many leading
    directions of J it is restricted to, the same wherever it is compared, since the smallest sets its norm."""

    phi: Function
    field: Function
    ranks: tuple[int, ...]


def _pull_back(maps, options, x, key, parameters):
    phi, field = (lambda x, f=f: f(x, *parameters) for f in (maps.phi, maps.field))
    triples = leading(phi, x, key, max(maps.ranks), max(options.steps, 2 * max(maps.ranks)), options.dense)
    gradient, hessian = jax.linearize(field, x)
    inverse = triples.right / triples.values[:, None]  # J+ u_i, in rows
    carried = jax.lax.map(lambda v: hessian(v.reshape(x.shape)).ravel(), inverse, batch_size=16)
    first, found = inverse @ carried.T, {}
    for r in maps.ranks:
        held = (inverse[:r] @ gradient.ravel()) @ triples.left[:r]  # J+^T grad E
        _, bend = jax.linearize(jax.grad(lambda x, held=held: phi(x).ravel() @ held), x)
        bent = jax.lax.map(lambda v, bend=bend: bend(v.reshape(x.shape)).ravel(), inverse[:r], batch_size=16)
        parts = {"first": first[:r, :r], "second": -(inverse[:r] @ bent.T)}
        parts["total"] = parts["first"] + parts["second"]
        norms = {name: jnp.abs(jnp.linalg.eigvalsh(0.5 * (m + m.T))).max() for name, m in parts.items()}
        found[r] = norms | {"smallest_value": triples.values[r - 1], "smallest_bound": triples.bounds[r - 1],
                            "bend": norms["second"] / jnp.linalg.norm(gradient)}  # fmt: skip
    return found


def pull_back(
    maps: PullBack, points: Float[Array, "n ..."], key: Key[Array, ""], *parameters: Any, **options: int
) -> dict[int, dict[str, np.ndarray]]:
    """By rank, at each point [n]: |Hess E^(a)| (Eq. 22) restricted to the leading directions: total; first, J+^T H J+;
    second, -(J+^T grad E) . D^2 phi [J+ u, J+ u]; bend = |second| / |grad E|; and the last singular value with its bound."""
    return over_points(_pull_back, (maps, Options(**options)), points, key, parameters)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """E o decode in the place of E o phi^-1. encode: (x, *parameters) -> z and what is held (skips, embedding, step);
    decode: (z, held, *parameters) -> image; field: (image, *parameters) -> grad E."""

    encode: Callable[..., tuple[Array, Any]]
    decode: Function
    field: Function


def _decoded(maps, options, x, key, parameters):
    z, held = maps.encode(x, *parameters)
    decode = lambda z: maps.decode(z, held, *parameters)  # noqa: E731
    field, still = (lambda x: maps.field(x, *parameters)), jax.lax.stop_gradient

    def pulled(at: Array, gradient: Array) -> Array:
        return jax.vjp(decode, at)[1](gradient)[0]

    fields = {
        "total": lambda z: pulled(z, field(decode(z))),
        "gauss_newton": lambda z: pulled(still(z), field(decode(z))),
        "remainder": lambda z: pulled(z, still(field(decode(z)))),
    }
    found = {name: at_point(Field(f), options, z, key, ()) for name, f in fields.items()}
    image = decode(z)
    return found | {"gap": jnp.linalg.norm(image - x) / jnp.linalg.norm(x)}


def decoded(
    maps: Decoder, points: Float[Array, "n ..."], key: Key[Array, ""], *parameters: Any, **options: int
) -> dict[str, Any]:
    """At each point, the curvature of E o decode at its activation: total, gauss_newton (J^T H J) and remainder
    (grad E . D^2 decode), each as `curvature` gives it and each by itself; gap: |decode(z) - x| / |x|, which an inverse
    would have as 0."""
    return over_points(_decoded, (maps, Options(**options)), points, key, parameters)


def total_variance(z: Float[np.ndarray, "n ..."]) -> float:
    """tr Cov(z) over the points: the scale of a level, by which norms of Hessians are made comparable."""
    return float(np.asarray(z, np.float64).reshape(len(z), -1).var(axis=0, ddof=1).sum())
