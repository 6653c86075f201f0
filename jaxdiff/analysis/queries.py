"""Which cells and numbers of a study a figure or a table is about."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxdiff.results import CellResult


class Mix(NamedTuple):
    """The training data of a cell: shares of the classes, majority first, and the number of images."""

    proportions: tuple[float, ...]
    n: int

    @classmethod
    def of(cls, cell: CellResult) -> "Mix":
        return cls(tuple(cell.own["proportions"]), cell.own["n"])


def models(cells: Sequence[CellResult]) -> list[str]:
    """The models, shallowest first, smaller ones first among equals."""
    by_name = {cell.own["model"]: cell.own for cell in cells}
    return sorted(by_name, key=lambda name: (by_name[name]["depth"], by_name[name]["parameters"]))


def mixes(cells: Sequence[CellResult]) -> list[Mix]:
    """The training mixes, most unbalanced first."""
    return sorted({Mix.of(cell) for cell in cells}, reverse=True)


def in_words(mix: Mix) -> str:
    """80-20, N = 300."""
    return ", ".join(
        filter(None, ("-".join(f"{100 * p:g}" for p in mix.proportions), f"N = {mix.n:,}"))
    )


def entry(cell: CellResult, section: str, name: str, **where: Any) -> dict[str, Any] | None:
    """The entry of a section of result.json with this name and these other values, None where there is none."""
    wanted = {"name": name, **where}
    for found in cell.result.get(section, []):
        if all(found.get(key) == value for key, value in wanted.items()):
            return found
    return None


def interval(row: dict[str, Any]) -> tuple[float, float, float]:
    """A row's value and the ends of its interval, nan where it has none."""
    return row["value"], *(math.nan if row[key] is None else row[key] for key in ("low", "high"))
