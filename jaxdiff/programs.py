"""Programs that are compiled once in a process, and what may share them.

A program belongs to what it was compiled from: a network's structure, a schedule, settings. What is
equal in these shares it; weights, seeds and images are its arguments.
"""

import dataclasses
import functools
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from flax import nnx

from jaxdiff.precision import matmul_precision

P = ParamSpec("P")
T = TypeVar("T")

KEPT = 16  # programs of each kind, more than a study has networks
NUMBERS = (bool, int, float, complex)
PLAIN_TYPES = (*NUMBERS, str, bytes, type(None), type, np.dtype)


def share_programs(build: Callable[P, T]) -> Callable[P, T]:
    """Keep what a function returns for equal arguments; a decorator of functions that compile.

    Where an argument cannot be hashed, as the options of a user's sampler may not, the function is
    called each time. Programs of two matmul precisions are two.
    """

    @functools.lru_cache(maxsize=KEPT)
    def cached(precision: str | None, *args: P.args, **kwargs: P.kwargs) -> T:
        return build(*args, **kwargs)

    @functools.wraps(build)
    def find_or_build(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            hash((args, tuple(kwargs.values())))
        except TypeError:
            return build(*args, **kwargs)
        # What is compiled ahead of time keeps its precision; JAX's own cache would know it.
        precision = matmul_precision()
        return cached(precision, *args, **kwargs)  # type: ignore[arg-type]

    return find_or_build


def find_attributes(module: nnx.Module) -> tuple[Any, ...] | None:
    """What a module computes with beside its arrays, by type and value.

    Returns
    -------
    attributes
        Its class and attributes, and those of the modules within it; equal where two modules of
        one structure compute the same. None where one of them can change without being replaced,
        as a list can.
    """
    attributes: list[Any] = []
    for path, node in nnx.iter_graph(module):
        if not isinstance(node, nnx.Module):
            continue
        attributes.append((path, type(node)))
        for name, value in sorted(vars(node).items()):
            is_array = isinstance(value, nnx.Variable | nnx.Module)
            # nnx has its own bookkeeping under these names.
            if is_array or name.startswith("_pytree__"):
                continue
            if not _is_plain(value):
                return None
            attributes.append((path, name, _typed(value)))
    return tuple(attributes)


def _is_plain(value: Any) -> bool:
    """Whether a value stays as it is, and says all that it is by its type and value."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        is_frozen = type(value).__dataclass_params__.frozen  # type: ignore[attr-defined]
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return is_frozen and all(map(_is_plain, fields))
    if isinstance(value, types.FunctionType):
        return value.__closure__ is None
    return isinstance(value, PLAIN_TYPES)


def _typed(value: Any) -> Any:
    """The value with its type, since 1, 1.0 and True are equal, as are 0.0 and -0.0."""
    if isinstance(value, tuple):
        return tuple(map(_typed, value))
    return (type(value), repr(value)) if isinstance(value, NUMBERS) else value
