"""Theorem 1: does abstraction smooth the energy? A laboratory of cases in closed form.

The theorem says that contractive maps phi^(a) make |Hess E^(a)|, E^(a) = E o (phi^(a))^-1
(Eq. 6), fall from level to level. It is universal: one verified point refutes it. The laboratory
has the premise and the conclusion of small cases in closed form beside what autodiff computes,
and for every step of the proof that does not follow a case that shows it.
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
    """An energy and the maps of its levels, with a point at which all is known."""

    name: str
    shows: str  # the step of the proof that the case is about
    energy: Function
    maps: tuple[Map, ...]  # from each level to the next
    point: tuple[float, ...]  # the x at which the theorem is checked
    exact: tuple[float, ...]  # |Hess E^(a)| there in closed form, at every level


@dataclasses.dataclass(frozen=True)
class Level:
    """What the proof speaks of at one level, by autodiff; norms are spectral."""

    jacobian: float  # |d phi^(a) / dx| (Eq. 27)
    step: float  # the same of z^(a-1) -> z^(a), 1 at level 0 (Eq. 35)
    inverse: float  # |J| of the inverse
    hessian: float  # |Hess E^(a)| (Eq. 22)
    first: float  # its first term, J^T H J
    second: float  # its second term, sum dE/dx_i Hess (phi^-1)_i
    bound: float  # Eq. 23's right side
    # |grad E| at inverse(z), where z is the case's point at every level.
    gradient: float


def compute_levels(case: Case) -> list[Level]:
    """What the proof speaks of at every level of a case."""
    x = jnp.array(case.point, jnp.float32)
    z = x
    identity = Map(lambda x: x, lambda z: z)
    composed = identity
    levels = [_compute_level(case.energy, composed, x, z, step=1.0)]
    for level_map in case.maps:
        step = _spectral_norm(jax.jacfwd(level_map.forward)(z))
        composed = Map(
            _compose(composed.forward, level_map.forward),
            _compose(level_map.inverse, composed.inverse),
        )
        z = composed.forward(x)
        levels.append(_compute_level(case.energy, composed, x, z, step))
    return levels


def _compose(first: Function, second: Function) -> Function:
    return lambda x: second(first(x))


def _compute_level(energy: Function, composed: Map, x: Array, z: Array, step: float) -> Level:
    inverse = composed.inverse
    j = jax.jacfwd(inverse)(z)
    gradient = jax.grad(energy)(x)
    energy_hessian = jax.hessian(energy)(x)
    # The two terms of Eq. 22, and the whole of it from the composition itself.
    first = j.T @ energy_hessian @ j
    second = jnp.einsum("i,ijk->jk", gradient, jax.hessian(inverse)(z))
    hessian = jax.hessian(_compose(inverse, energy))(z)
    gradient_at_same_z = jax.grad(energy)(inverse(x))
    return Level(
        jacobian=_spectral_norm(jax.jacfwd(composed.forward)(x)),
        step=step,
        inverse=_spectral_norm(j),
        hessian=_spectral_norm(hessian),
        first=_spectral_norm(first),
        second=_spectral_norm(second),
        bound=_spectral_norm(j) ** 2 * _spectral_norm(energy_hessian) + _spectral_norm(second),
        gradient=float(jnp.linalg.norm(gradient_at_same_z)),
    )


def _spectral_norm(matrix: Array) -> float:
    return float(jnp.linalg.norm(matrix, 2))


def premise_holds(levels: Sequence[Level]) -> bool:
    """Whether every phi^(a) is a contraction at the point (Eqs. 6, 27)."""
    return all(level.jacobian < 1 for level in levels[1:])


def stepwise_premise_holds(levels: Sequence[Level]) -> bool:
    """Whether every step between levels is one too (Eq. 35), so that sensitivity falls (32)."""
    return all(level.step < 1 for level in levels[1:])


def conclusion_holds(levels: Sequence[Level]) -> bool:
    """Whether the Hessian's norm falls at every step (Eq. 7)."""
    return all(after.hessian < before.hessian for before, after in itertools.pairwise(levels))


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


def quadratic(*eigenvalues: float, center: float = 0.0) -> Function:
    """E = sum a_i (x_i - center)^2 / 2."""
    return lambda x: 0.5 * jnp.sum(jnp.array(eigenvalues) * jnp.square(x - center))


def double_well(x: Array) -> Array:
    """E = sum (x_i^2 - 1)^2 / 4."""
    return 0.25 * jnp.sum(jnp.square(jnp.square(x) - 1.0))


def build_cases() -> list[Case]:
    """The laboratory's cases: linear maps of parabolas, then one case for each other step."""
    return [*_linear_cases(), *_nonlinear_cases()]


def _linear_cases(c: float = 0.5) -> list[Case]:
    angle = math.radians(30)
    cosine = c * math.cos(angle)
    sine = c * math.sin(angle)
    return [
        Case(
            name="scaling by 1/2, twice",
            shows="a contraction's inverse expands: |Hess| is multiplied by 1 / c^2 (24)",
            energy=quadratic(2.0, 1.0),
            maps=(scaling(c), scaling(c)),
            point=(1.0, 1.0),
            exact=(2.0, 2.0 / c**2, 2.0 / c**4),
        ),
        Case(
            name="scaling by 2",
            shows="the conclusion holds where the premise fails",
            energy=quadratic(2.0, 1.0),
            maps=(scaling(2.0),),
            point=(1.0, 1.0),
            exact=(2.0, 0.5),
        ),
        Case(
            name="rotation and scaling",
            shows="turning changes no norm; scaling does",
            energy=quadratic(2.0, 1.0),
            maps=(linear(((cosine, -sine), (sine, cosine))),),
            point=(1.0, 1.0),
            exact=(2.0, 2.0 / c**2),
        ),
        Case(
            name="a falling bound",
            shows="the bound of (23) falls from 9 to 4.1, the norm rises from 1.02 to 4.1 (24)",
            # E is flat along the first axis: its inverse sets the bound of level 1, but no norm.
            energy=quadratic(0.0, 1.0),
            maps=(linear(((1 / 3, 0.0), (0.0, 0.99))), linear(((1.5, 0.0), (0.0, 0.5)))),
            point=(1.0, 1.0),
            exact=(1.0, 1 / 0.99**2, 1 / 0.495**2),
        ),
    ]


def _nonlinear_cases(c: float = 0.5) -> list[Case]:
    return [
        _tanh_case(),
        Case(
            name="an expanding step",
            shows="(32) assumes what (33) concludes: "
            "contractions whose sensitivity rises from .5 to .9",
            energy=quadratic(1.0),
            maps=(scaling(c), scaling(1.8)),
            point=(1.0,),
            exact=(1.0, 1 / c**2, 1 / 0.9**2),
        ),
        Case(
            name="a double well",
            shows="dE/dx, 'fixed' in (23), is .375 at level 0 and 0 at level 1, at the same z",
            energy=double_well,
            maps=(scaling(c),),
            point=(c,),
            exact=(abs(3 * c**2 - 1), abs(3 * c**2 - 1) / c**2),
        ),
        Case(
            name="a cosine",
            shows="|Hess| is .17 at this point and L is 1: |Hess| <= L, not >= (25)",
            energy=lambda x: -jnp.cos(x).sum(),
            maps=(scaling(c),),
            point=(1.4,),
            exact=(math.cos(1.4), math.cos(1.4) / c**2),
        ),
    ]


def _tanh_case(x: float = 0.3, center: float = 1.0) -> Case:
    # With psi = atanh: psi' at tanh x, and (psi')^2 + (psi - center) psi''.
    slope = 1 / (1 - math.tanh(x) ** 2)
    curved = slope**2 + (x - center) * 2 * math.tanh(x) * slope**2
    return Case(
        name="tanh of a parabola",
        shows="the norm falls by the second term of (22) alone, which (37) drops and (23) keeps",
        energy=quadratic(1.0, center=center),
        maps=(tanh(1.0),),
        point=(x,),
        exact=(1.0, abs(curved)),
    )
