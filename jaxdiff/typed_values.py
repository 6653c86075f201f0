"""Values of settings, checked against the types, bounds and choices of a dataclass' fields."""

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

LARGEST_INT = 2**31 - 1  # JAX computes with 32 bits
NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a string"}


def check_fields(settings_class: Any, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values of a dataclass' fields in their types.

    Raises
    ------
    ValueError
        Naming PREFIX.FIELD, for a field that does not exist or whose value is of another type.
    """
    kinds = typing.get_type_hints(settings_class)
    names = [field.name for field in dataclasses.fields(settings_class)]
    for name in values:
        if name not in names:
            raise ValueError(
                f"{prefix} sets {name!r}; a {settings_class.__name__} has "
                + ", ".join(sorted(names))
            )
    return {
        name: _converted(f"{prefix}.{name}", value, kinds[name]) for name, value in values.items()
    }


def checked_value(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> Any:
    """The value in its setting's type.

    Parameters
    ----------
    name
        What an error calls it.
    value
        The value, as a config file, a flag or JSON has it: lists become tuples.
    kind
        The type of the dataclass' field.
    metadata
        Bounds and choices, of `jaxdiff.settings.setting`.

    Raises
    ------
    ValueError
        Where the value is of another type or out of its bounds.
    """
    value = _converted(name, value, kind)
    if metadata.get("nonempty") and not value:
        raise ValueError(f"{name} is empty; it needs at least one entry")
    is_tuple = isinstance(value, tuple)
    entries = {f"{name}[{i}]": v for i, v in enumerate(value)} if is_tuple else {name: value}
    for entry_name, entry in entries.items():
        _check_bounds(entry_name, entry, metadata)
    choices = metadata.get("choices")
    if choices is not None:
        allowed = choices() if callable(choices) else choices
        if value not in allowed:
            names = ", ".join(map(str, allowed))
            raise ValueError(f"{name} is {value!r}; choose one of {names}")
    for entry_name, entry in entries.items():
        if isinstance(entry, float) and not math.isfinite(entry):
            raise ValueError(f"{entry_name} must be a finite number, got {entry!r}")
    return value


def _converted(name: str, value: Any, kind: Any) -> Any:
    if kind is Any:
        return _plain_tuple(value)
    if isinstance(kind, types.UnionType):
        return _converted_to_any(name, value, typing.get_args(kind))
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _converted_tuple(name, value, typing.get_args(kind))
    if origin is dict:
        return _converted_dict(name, value)
    return _converted_scalar(name, value, kind)


def _converted_tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tuple of entries of these types, or of any number of entries of (X, ...)."""
    if not isinstance(value, tuple | list):
        raise ValueError(f"{name} must be a tuple, got {value!r}; write one entry as (x,)")
    if kinds[-1:] == (...,):
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ValueError(f"{name} must have {len(kinds)} entries, got {value!r}")
    names = [f"{name}[{i}]" for i in range(len(value))]
    return tuple(map(_converted, names, value, kinds))


def _converted_dict(name: str, value: Any) -> dict[str, Any]:
    """A dict by strings; the types of its values are for others to check."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a dict, got {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"{name} must have strings as names, got {key!r}; write it in ''")
    return dict(value)


def _converted_scalar(name: str, value: Any, kind: Any) -> Any:
    # bool is a subclass of int, and True is no number of steps
    is_bool = isinstance(value, bool)
    if kind is float and isinstance(value, int) and not is_bool:
        return _to_float(name, value)
    if not isinstance(value, kind) or (is_bool and kind is not bool):
        expected = NOUNS.get(kind, f"a {kind.__name__}")
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    if kind is int and not -LARGEST_INT <= value <= LARGEST_INT:
        raise ValueError(f"{name} must be at most {LARGEST_INT:,}, got {value}")
    return value


def _to_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        digits = len(str(abs(value)))
        raise ValueError(f"{name} must be a finite number, got one of {digits} digits") from None


def _converted_to_any(name: str, value: Any, kinds: Sequence[Any]) -> Any:
    """The value in the first of several types that it fits."""
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return _converted(name, value, kind)
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ValueError(f"{name} must be {names.replace('NoneType', 'None')}, got {value!r}")


def _plain_tuple(value: Any) -> Any:
    return tuple(_plain_tuple(v) for v in value) if isinstance(value, tuple | list) else value


def _check_bounds(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low = metadata.get("min")
    high = metadata.get("max")
    above = metadata.get("above")
    if not isinstance(value, int | float) or (low is None and high is None and above is None):
        return
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    too_high = high is not None and value > high
    if too_low or too_high or math.isnan(value):
        bounds = [
            "" if above is None else f"above {above:g}",
            "" if low is None else f"at least {low:g}",
            "" if high is None else f"at most {high:g}",
        ]
        raise ValueError(f"{name} must be {' and '.join(filter(None, bounds))}, got {value!r}")
