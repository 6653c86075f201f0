"""Random arrays of many axes that compile fast on a CPU.

jax.random's draws are made as one long row and shaped after: the same bits, compiled ten times as
fast.
"""

import math

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key


def normal(
    key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike = float
) -> Float[Array, "..."]:
    """Standard normal numbers."""
    row = jax.random.normal(key, (math.prod(shape),), dtype)
    return row.reshape(shape)


def uniform(
    key: Key[Array, ""],
    shape: tuple[int, ...],
    dtype: DTypeLike = float,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Array, "..."]:
    """Uniform numbers in [low, high)."""
    row = jax.random.uniform(key, (math.prod(shape),), dtype, low, high)
    return row.reshape(shape)
