"""Float32 products: exact where something is measured, fast where models are trained and sampled.

By default GPUs round float32 factors to TF32 (10 bits of mantissa) and TPUs to bfloat16 (7 bits).
What that does to a curvature or a distance has no place in a result; a model's training and its
samples are as good with it. `stage.run_stage` enters `measuring` for every stage but these two, and
so do evaluation and the notebook's functions.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import jax

COMPUTE_DTYPES = ("float32", "bfloat16")  # of a network's activations and products
MEASURED = "highest"  # JAX's name of float32 products that round no factor

_outside: ContextVar[str | None] = ContextVar("outside")  # the precision around `measuring`


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Take products of float32 exactly; as a `with` block or a decorator."""
    # A nested block keeps what holds around the outermost one.
    token = _outside.set(_sampling_precision())
    try:
        with jax.default_matmul_precision(MEASURED):
            yield
    finally:
        _outside.reset(token)


def sampling() -> AbstractContextManager[None]:
    """Draw samples by the products that hold outside of `measuring`.

    A measure that draws samples gets those of the model's own sampler, by the same program.
    """
    return jax.default_matmul_precision(_sampling_precision())


def _sampling_precision() -> str | None:
    return _outside.get(matmul_precision())


def matmul_precision() -> str | None:
    """JAX's default precision of products here and now; None is the device's own."""
    config: Any = jax.config  # older versions do not declare its attributes
    return config.jax_default_matmul_precision
