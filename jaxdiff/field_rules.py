"""Rules for the fields of a JSON file that others wrote: type and range, before they are used."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

MAX_SHOWN = 60  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field must be.

    Parameters
    ----------
    text
        In words, after "must be".
    accepts
        Whether a value of any type is one.
    """

    text: str
    accepts: Callable[[Any], bool]

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(
            f"{self.text}, or {other.text}",
            lambda value: self.accepts(value) or other.accepts(value),
        )


def whole(low: int, high: int) -> Rule:
    """A whole number from `low` to `high`."""

    # In Python, true is a number.
    def accepts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return Rule(f"a whole number from {low} to {high}", accepts)


def number(low: int | float, high: int | float) -> Rule:
    """A number from `low` to `high`."""

    def accepts(value: Any) -> bool:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and low <= value <= high  # which NaN is not

    return Rule(f"a number from {low:g} to {high:g}", accepts)


def one_of(*names: str) -> Rule:
    """One of some texts."""
    return Rule(
        f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names
    )


def list_of(rule: Rule, low: int, high: int) -> Rule:
    """A list of `low` to `high` values that follow a rule."""

    def accepts(value: Any) -> bool:
        is_list = isinstance(value, (list, tuple)) and low <= len(value) <= high
        return is_list and all(map(rule.accepts, value))

    count = f"{low}" if low == high else f"{low} to {high}"
    return Rule(f"a list of {count} values, each {rule.text}", accepts)


NULL = Rule("null", lambda value: value is None)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str))


def check_fields(
    fields: Mapping[str, Any], rules: Mapping[str, Rule], path: epath.PathLike
) -> None:
    """Check the fields that are there.

    Parameters
    ----------
    fields
        Values by name.
    rules
        Rules by name.
    path
        The file, for error messages.

    Raises
    ------
    ValueError
        For the first field that breaks its rule; the message names file, field and value.
    """
    for key, rule in rules.items():
        if key in fields and not rule.accepts(fields[key]):
            shown = json.dumps(fields[key])
            if len(shown) > MAX_SHOWN:
                shown = f"{shown[:MAX_SHOWN]}..."
            raise ValueError(f"{path} sets {key} to {shown}; it must be {rule.text}")
