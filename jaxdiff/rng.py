"""Random arrays of many axes that compile fast on a CPU.

jax.random's draws are made as one long row and shaped after: the same bits, compiled ten times as
fast.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

SHORTEST_ROW = 1024
_SHAPES_ONLY = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Within, first parameters are zeros: for tracing the shapes of a network.

    To trace a draw for every parameter takes nine tenths of the time.
    """
    token = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(token)


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...]) -> nnx.Param:
    """A parameter that begins as standard normal numbers, float32."""
    return _param(jax.random.normal, rngs, shape)


def uniform_param(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float) -> nnx.Param:
    """A parameter that begins as uniform numbers in [-bound, bound), float32."""
    return _param(jax.random.uniform, rngs, shape, minval=-bound, maxval=bound)


def _param(
    draw: Callable[..., Array], rngs: nnx.Rngs, shape: tuple[int, ...], **options: float
) -> nnx.Param:
    if _SHAPES_ONLY.get():
        return nnx.Param(jnp.zeros(shape, jnp.float32))
    key = rngs.params()
    count = math.prod(shape)
    # A traced row cannot be cut on the host.
    if isinstance(key, jax.core.Tracer):
        return nnx.Param(draw(key, (count,), jnp.float32, **options).reshape(shape))
    # The first numbers of a longer row are the same: a few lengths are compiled in place of many.
    # JAX's threefry is partitionable: a number depends on the key and on its index alone.
    length = max(SHORTEST_ROW, 2 ** (count - 1).bit_length())
    row = np.asarray(draw(key, (length,), jnp.float32, **options))
    return nnx.Param(jnp.asarray(row[:count].reshape(shape)))


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
