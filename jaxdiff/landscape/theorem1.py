"""Theorem 1: does abstraction smooth the energy? A laboratory where all is known.

The theorem says that contractive maps phi^(a) make |Hess E^(a)|, E^(a) = E o (phi^(a))^-1 (Eq. 6), fall from level to level.
It is universal: one verified point refutes it (estimates.falls). The laboratory has the premise and the conclusion of small cases in closed
form beside what autodiff computes, and for every step of the proof that does not follow a case that shows it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

Function = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Map:
    """A map of one level to the next and its inverse."""

    forward: Function
    inverse: Function


@dataclasses.dataclass(frozen=True)
class Case:
    """An energy, the maps of its levels, a point, and |Hess E^(a)| there at every level in closed form.

    shows: the step of the proof that the case is about.
    """

    name: str
    shows: str
    energy: Function
    maps: tuple[Map, ...]
    point: tuple[float, ...]
    exact: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Level:
    """What the proof speaks of at one level: all by autodiff, norms are spectral.

    jacobian: |d phi^(a) / dx| (Eq. 27); step: that of z^(a-1) -> z^(a) (1 at level 0; Eq. 35); inverse: |J| of the inverse;
    hessian: |Hess E^(a)| (Eq. 22); first, second: its two terms, J^T H J and sum dE/dx_i Hess (phi^-1)_i; bound: Eq. 23's right
    side; gradient: |grad E| where the inverse brings the case's point, taken for z: the same z at every level.
    """

    jacobian: float
    step: float
    inverse: float
    hessian: float
    first: float
    second: float
    bound: float
    gradient: float


def levels(case: Case) -> list[Level]:
    """Every level of a case."""
    x = jnp.array(case.point, jnp.float32)
    found, z, forward, inverse = [], x, (lambda x: x), (lambda z: z)
    for a in range(len(case.maps) + 1):
        step = 1.0
        if a:
            step = _norm(jax.jacfwd(case.maps[a - 1].forward)(z))
            forward, inverse = (
                _then(forward, case.maps[a - 1].forward),
                _then(case.maps[a - 1].inverse, inverse),
            )
            z = forward(x)
        found.append(_level(case.energy, forward, inverse, x, z, step))
    return found


def _then(first: Function, second: Function) -> Function:
    return lambda x: second(first(x))


def _level(
    energy: Function, forward: Function, inverse: Function, x: Array, z: Array, step: float
) -> Level:
    j, gradient = jax.jacfwd(inverse)(z), jax.grad(energy)(x)
    same_z = jax.grad(energy)(inverse(x))
    first = j.T @ jax.hessian(energy)(x) @ j
    second = jnp.einsum("i,ijk->jk", gradient, jax.hessian(inverse)(z))
    hessian = jax.hessian(_then(inverse, energy))(z)
    bound = _norm(j) ** 2 * _norm(jax.hessian(energy)(x)) + _norm(second)
    jacobian = _norm(jax.jacfwd(forward)(x))
    return Level(
        jacobian,
        step,
        _norm(j),
        _norm(hessian),
        _norm(first),
        _norm(second),
        bound,
        float(jnp.linalg.norm(same_z)),
    )


def _norm(matrix: Array) -> float:
    return float(jnp.linalg.norm(matrix, 2))


def premise(found: Sequence[Level]) -> bool:
    """Every phi^(a) is a contraction at the point (Eqs. 6, 27)."""
    return all(level.jacobian < 1 for level in found[1:])


def stepwise(found: Sequence[Level]) -> bool:
    """Every step from level to level is one too (Eq. 35), so that sensitivity falls (32)."""
    return all(level.step < 1 for level in found[1:])


def conclusion(found: Sequence[Level]) -> bool:
    """The Hessian's norm falls at every step (Eq. 7)."""
    return all(after.hessian < before.hessian for before, after in itertools.pairwise(found))


def scaling(c: float) -> Map:
    """z = c x."""
    return Map(lambda x: c * x, lambda z: z / c)


def linear(matrix: Sequence[Sequence[float]]) -> Map:
    """z = A x."""
    a = jnp.array(matrix, jnp.float32)
    return Map(lambda x: a @ x, lambda z: jnp.linalg.solve(a, z))


def tanh(c: float) -> Map:
    """z = c tanh x, a contraction for c <= 1 whose inverse is atanh(z / c)."""
    return Map(lambda x: c * jnp.tanh(x), lambda z: jnp.arctanh(z / c))


def quadratic(*eigenvalues: float, centre: float = 0.0) -> Function:
    """E = sum a_i (x_i - centre)^2 / 2."""
    return lambda x: 0.5 * jnp.sum(jnp.array(eigenvalues) * jnp.square(x - centre))


def laboratory() -> list[Case]:
    """The cases."""
    c, turn, x = 0.5, math.radians(30), 0.3
    rotation = ((c * math.cos(turn), -c * math.sin(turn)), (c * math.sin(turn), c * math.cos(turn)))
    slope, mean = 1 / (1 - math.tanh(x) ** 2), 1.0  # of atanh at tanh x
    curved = slope**2 + (x - mean) * 2 * math.tanh(x) * slope**2  # (psi')^2 + (psi - m) psi''

    def double_well(x):
        return 0.25 * jnp.sum(jnp.square(jnp.square(x) - 1.0))

    return [
        Case("scaling by 1/2, twice", "a contraction's inverse expands: |Hess| is multiplied by 1 / c^2 (24)",
             quadratic(2.0, 1.0), (scaling(c), scaling(c)), (1.0, 1.0), (2.0, 2.0 / c**2, 2.0 / c**4)),
        Case("scaling by 2", "the conclusion holds where the premise fails", quadratic(2.0, 1.0), (scaling(2.0),),
             (1.0, 1.0), (2.0, 0.5)),
        Case("rotation and scaling", "turning changes no norm; scaling does", quadratic(2.0, 1.0), (linear(rotation),),
             (1.0, 1.0), (2.0, 2.0 / c**2)),
        Case("a falling bound", "the bound of (23) falls from 9 to 4.1, the norm rises from 1.02 to 4.1 (24)",
             quadratic(0.0, 1.0), (linear(((1 / 3, 0.0), (0.0, 0.99))), linear(((1.5, 0.0), (0.0, 0.5)))), (1.0, 1.0),
             (1.0, 1 / 0.99**2, 1 / 0.495**2)),
        Case("tanh of a parabola", "the norm falls by the second term of (22) alone, which (37) drops and (23) keeps",
             quadratic(1.0, centre=mean), (tanh(1.0),), (x,), (1.0, abs(curved))),
        Case("an expanding step", "(32) assumes what (33) concludes: contractions whose sensitivity rises from .5 to .9",
             quadratic(1.0), (scaling(c), scaling(1.8)), (1.0,), (1.0, 1 / c**2, 1 / 0.9**2)),
        Case("a double well", "dE/dx, 'fixed' in (23), is .375 at level 0 and 0 at level 1, at the same z", double_well,
             (scaling(c),), (c,), (abs(3 * c**2 - 1), abs(3 * c**2 - 1) / c**2)),
        Case("a cosine", "|Hess| is .17 at this point and L is 1: |Hess| <= L, not >= (25)", lambda x: -jnp.cos(x).sum(),
             (scaling(c),), (1.4,), (math.cos(1.4), math.cos(1.4) / c**2)),
    ]  # fmt: skip
