"""The types of what results on disk hold, checked as they are read. No JAX.

Checksums notice a changed file (`jaxdiff.records`), but older code recorded fewer of them.
"""

import dataclasses
import json
import sys
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from etils import epath

from jaxdiff import files


@dataclasses.dataclass(frozen=True)
class Entries:
    """The entries of an object by name; it may have others.

    Parameters
    ----------
    required
        Types of the entries that it must have.
    optional
        Types of those that it may have.
    is_nullable
        Whether it may be null.
    """

    required: Mapping[str, Any]
    optional: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_nullable: bool = False


class Rows(Entries):
    """A list of objects with these entries."""


MAX_SHOWN = 80  # characters of a value in a message
REPAIR = "delete that file and run the command that wrote it again"
NUMBER = float | None
NUMBERS = tuple[NUMBER, ...]
SCALAR = str | float | bool | None
SHARES = tuple[tuple[float, float] | tuple[float, float, float, float], ...]
PAIR = tuple[str, str]
ESTIMATE = {
    "name": str,
    "value": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "n": int | None,
    "interval": str,
}
LABELS = {"k": int, "step": int, "t": float | Literal[""], "values": NUMBERS}
# What the report looks estimates up by, of sections whose form is known.
SECTION_LABELS: dict[str, dict[str, Any]] = {
    "neighbors": {"space": str, "images": str, "k": int},
    "checkpoints": {"step": int},
    "effective_k": {"t": float},
}
PLANNED = {
    "seeds": tuple[int, ...],
    "models": tuple[str, ...],
    "model_seeds": dict[str, tuple[int, ...]],
    "proportions": SHARES,
    "n": tuple[int, ...],
    "primary": PAIR,
}
AXES = {
    "width": tuple[float, ...],
    "train_steps": tuple[int, ...],
    "learning_rate": tuple[float, ...],
}
STUDY_TYPES = Entries(
    {
        "name": str,
        "data": Entries(
            {"source": str, "size": int, "classes": tuple[int, ...]},
            {"proportions": SHARES, "n": tuple[int, ...], "alternate": bool},
        ),
        "diffusion": Entries({"prediction": str}),
        "sample": Entries({"method": str, "steps": int, "clip": bool}),
    },
    {
        "models": dict[str, str | dict],
        "planned": PLANNED,
        "seeds": tuple[int, ...],
        "look": int,
        "primary": PAIR | tuple[()],
        "secondary": tuple[PAIR | str, ...],
        "model_seeds": dict[str, tuple[int, ...]],
        "measures": dict[str, Any],
        "train": dict[str, Any],
        "axes": AXES,
        "track": tuple[str, ...],
    },
)
SETS_TYPES = Entries(
    {
        "name": str,
        "data": Entries(
            {"source": str, "size": tuple[int, int], "n": int},
            {"classes": tuple[int, ...], "trained": NUMBER, "sets": tuple[str, ...]},
        ),
    },
    {"measures": dict[str, Any]},
)
CONFIG_TYPES = Entries(
    {"train": Entries({"steps": int})},
    {
        "model": str,
        "proportions": tuple[float, ...],
        "n": int,
        "seed": int,
        "majority": int,
        "minority": int,
        "data": {"parts": int},
    },
)
RUN_TYPES: dict[str, Any] = {"seconds": float, "devices": int, "device": str}
CELL_RUN_TYPES = Entries(RUN_TYPES)
COMPARED = {"kind": str, "a": str, "b": str}
NOISE = {"bank": Literal["seed", "common"], "differs": str}
COUNTS = {"n": int, "b_count": int, "c_count": int, "p_value": float, "selections": Rows(ESTIMATE)}
COMPARISON_TYPES = {
    "flips": Rows({**COMPARED, **COUNTS}, NOISE),
    "similarity": Rows({**COMPARED, **ESTIMATE, "pairing": Literal["paired", "shuffled"]}, NOISE),
    "bias_variance": Rows({**ESTIMATE, "model": str, "N": int}),
}
MATRIX = tuple[tuple[int, ...], ...]
CONFUSION_TYPES = {
    "matrix": dict.fromkeys(("convolutional", "perceptron"), MATRIX),
    "gate": {"held_out": NUMBER, "other_classes": NUMBER},
}
PROBE_TYPES = {
    "rows": Rows(
        {"reading": str, "name": str, "values": NUMBERS},
        {"errors": NUMBERS, "weights": str, "t": float, "level": int, "rank": int, "tau": float},
    )
}
SECTION_TYPES = {
    **dict.fromkeys(("name", "title", "caption", "topic", "table"), str),
    "figure": Entries(
        {"estimate": str, "label": str}, {"scale": float, "reference": str}, is_nullable=True
    ),
}


def has_type(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type: a class, a union, literals, or one of lists or objects.

    tuple[X, ...] is a list of X, tuple[X, Y] one of two entries, dict[str, X] an object of X.
    """
    if kind is Any:
        return True
    origin = get_origin(kind)
    if origin is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if origin in (types.UnionType, Union):
        return any(has_type(value, member) for member in get_args(kind))
    if origin is tuple:
        return isinstance(value, list | tuple) and _has_entries(value, get_args(kind))
    if origin is dict:
        return isinstance(value, dict) and all(
            has_type(v, get_args(kind)[1]) for v in value.values()
        )
    if kind is int:
        # A larger one would overflow NumPy's integers.
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.maxsize
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max  # which NaN is not
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _has_entries(values: list | tuple, kinds: tuple) -> bool:
    if kinds[-1:] == (...,):
        return all(has_type(value, kinds[0]) for value in values)
    return len(values) == len(kinds) and all(map(has_type, values, kinds))


def read_json(path: epath.Path, schema: Mapping[str, Any] | Entries) -> dict[str, Any]:
    """Read JSON whose entries must be there, as far as they are required, and of these types."""
    values = files.read_json(path)
    check_types(path, values, schema)
    return values


def check_types(
    path: epath.Path,
    values: Mapping[str, Any],
    schema: Mapping[str, Any] | Entries,
    place: str = "",
) -> None:
    """Raise ValueError, naming the file and the key, for an entry of another type or none.

    Parameters
    ----------
    path
        The file.
    values
        An object in it.
    schema
        The types of its entries.
    place
        What an error calls the object; by default the file.
    """
    entries = schema if isinstance(schema, Entries) else Entries({}, schema)
    for key in entries.required:
        if key not in values:
            raise ValueError(f"{place or path} must have {key!r}, and it is gone; {REPAIR}")
    kinds: dict[str, Any] = {**entries.optional, **entries.required}
    for key, kind in kinds.items():
        if key in values:
            _check_value(path, key, values[key], kind)


def _check_value(path: epath.Path, key: str, value: Any, kind: Any) -> None:
    if isinstance(kind, Rows):
        _check_rows(path, key, value, kind)
    elif isinstance(kind, Entries | Mapping):
        _check_object(path, key, value, kind)
    elif not has_type(value, kind):
        raise _wrong_type(path, key, value, str(kind))


def _check_rows(path: epath.Path, key: str, value: Any, rows: Rows) -> None:
    if not has_type(value, tuple[dict, ...]):
        raise _wrong_type(path, key, value, "a list of objects")
    entries = Entries(rows.required, rows.optional)
    for row in value:
        check_types(path, row, entries, f"every entry of {key!r} in {path}")


def _check_object(
    path: epath.Path, key: str, value: Any, entries: Entries | Mapping[str, Any]
) -> None:
    if value is None and isinstance(entries, Entries) and entries.is_nullable:
        return
    if not isinstance(value, Mapping):
        raise _wrong_type(path, key, value, "an object")
    check_types(path, value, entries, f"{key!r} in {path}")


def _wrong_type(path: epath.Path, key: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{key} in {path} must be {expected}, got {_shorten(value)}; {REPAIR}")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def check_estimates(path: epath.Path, section: str, entries: Any) -> None:
    """Raise ValueError where a section of result.json is no list of estimates."""
    _check_value(
        path, section, entries, Rows({**ESTIMATE, **SECTION_LABELS.get(section, {})}, LABELS)
    )
    for entry in entries:
        for key in entry.keys() - LABELS.keys():
            _check_value(path, key, entry[key], SCALAR)


def read_probe(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of probe.json: readings, with an error for each value where there are errors."""
    rows = read_json(path, PROBE_TYPES).get("rows", [])
    for number, row in enumerate(rows, start=1):
        if len(row.get("errors", row["values"])) != len(row["values"]):
            raise ValueError(f"row {number} of {path} must have as many errors as values; {REPAIR}")
    return rows


def read_metrics(path: epath.Path) -> list[dict[str, float | int]]:
    """The lines of metrics.jsonl: numbers by name, in the order of the steps."""
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        numbers = isinstance(line, dict) and all(has_type(value, float) for value in line.values())
        if not numbers or not has_type(line.get("step"), int) or "loss" not in line:
            raise ValueError(
                f"line {number} of {path} must hold a step and numbers, as JSON; {REPAIR}"
            )
        lines.append(line)
    steps = [line["step"] for line in lines]
    if steps != sorted(set(steps)):
        raise ValueError(f"the steps in {path} must grow from line to line; {REPAIR}")
    return lines
