"""The types of what results on disk hold, checked as they are read. No JAX.

Checksums notice a changed file (`jaxdiff.records`), but older code recorded fewer of them.
"""

import json
import math
import types
from collections.abc import Mapping
from typing import Any, get_origin

from etils import epath

from jaxdiff import files

REPAIR = "delete that file and run the command that wrote it again"
STUDY_TYPES = {
    "name": str,
    "data": {"source": str, "size": int | tuple[int, ...], "n": int | tuple[int, ...]},
    "models": {},
    "diffusion": {"prediction": str},
    "sample": {"method": str, "steps": int, "clip": bool},
    "planned": {},
    "seeds": tuple[int, ...],
    "look": int,
}
CONFIG_TYPES = {
    "model": str,
    "proportions": tuple[float, ...],
    "n": int,
    "seed": int,
    "majority": int,
    "minority": int,
    "train": {"steps": int},
    "data": {"parts": int},
}
RUN_TYPES = {"seconds": float, "devices": int, "device": str, "host": str, "versions": {}}
NUMBER = float | None
ESTIMATE_TYPES = {
    "name": str,
    "value": NUMBER,
    "low": NUMBER,
    "high": NUMBER,
    "n": int | None,
    "interval": str,
}
ROWS = tuple[dict, ...]
COMPARISON_TYPES = {"flips": ROWS, "similarity": ROWS, "bias_variance": ROWS}
CONFUSION_TYPES = {
    "matrix": dict.fromkeys(("convolutional", "perceptron"), tuple[tuple[int, ...], ...]),
    "gate": {"held_out": NUMBER, "other_classes": NUMBER},
}
PROBE_TYPES = {"rows": ROWS}
SECTION_TYPES = {"name": str, "title": str, "caption": str, "topic": str, "table": str}


def has_type(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type: a class, a union, or tuple[X, ...] for a list of X."""
    if kind is Any:
        return True
    if isinstance(kind, types.UnionType):
        return any(has_type(value, member) for member in kind.__args__)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(has_type(v, kind.__args__[0]) for v in value)
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def read_json(path: epath.Path, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Read JSON whose entries, as far as they are there, must have these types."""
    values = files.read_json(path)
    check_types(path, values, schema)
    return values


def check_types(path: epath.Path, values: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the file and the key, for an entry of another type."""
    for key, kind in schema.items():
        if key not in values:
            continue
        value = values[key]
        if isinstance(kind, Mapping) and isinstance(value, Mapping):
            check_types(path, value, kind)
        elif isinstance(kind, Mapping) or not has_type(value, kind):
            name = "an object" if isinstance(kind, Mapping) else str(kind)
            raise ValueError(f"{key} in {path} must be {name}, got {value!r}; {REPAIR}")


def read_metrics(path: epath.Path) -> list[dict[str, float | int]]:
    """The lines of metrics.jsonl: numbers by name, in the order of the steps."""
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        numbers = isinstance(line, dict) and all(has_type(value, float) for value in line.values())
        if not numbers or not has_type(line.get("step"), int):
            raise ValueError(
                f"line {number} of {path} must hold a step and numbers, as JSON; {REPAIR}"
            )
        lines.append(line)
    steps = [line["step"] for line in lines]
    if steps != sorted(set(steps)):
        raise ValueError(f"the steps in {path} must grow from line to line; {REPAIR}")
    return lines
