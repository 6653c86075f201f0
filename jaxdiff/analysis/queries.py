"""Grouping and ordering the results of a study, and the words for their groups."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from jaxdiff.results import CellInfo, CellResult, Result

AnyResult = TypeVar("AnyResult", bound=Result)


class Mix(NamedTuple):
    """Training data: shares of the classes, the majority first, and the number of images.

    Where each class is split into two groups, `groups` has their four shares.
    """

    proportions: tuple[float, ...]
    n: int
    groups: tuple[float, ...] = ()


def group_key(result: Result) -> Mix:
    """The training data of a cell, or those that a set stands for: only equals are compared."""
    shares = tuple(result.config.get("proportions", ())) if isinstance(result, CellResult) else ()
    groups = shares if len(shares) == 4 else ()
    return Mix(result.info.proportions, result.info.n, groups)


def model_name(result: Result) -> str:
    """The model of a cell; the name of a set, which stands in its place."""
    return result.info.model if isinstance(result.info, CellInfo) else result.name


def model_names(results: Sequence[Result]) -> list[str]:
    """The models, shallowest first and smaller ones first among equals; sets in their order."""
    ranks = {model_name(result): _rank(result) for result in results}
    return sorted(ranks, key=ranks.__getitem__)


def group_by_mix(results: Sequence[AnyResult]) -> dict[Mix, list[AnyResult]]:
    """The results by training data, most unbalanced first."""
    mixes = sorted({group_key(result) for result in results}, reverse=True)
    return {mix: [r for r in results if group_key(r) == mix] for mix in mixes}


def seed_of(result: Result) -> int:
    """The seed of a cell; sets have none and count as one seed."""
    return result.info.seed if isinstance(result.info, CellInfo) else 0


def format_proportions(proportions: Sequence[float]) -> str:
    """Proportions as 80-20."""
    return "-".join(f"{100 * share:g}" for share in proportions)


def format_mix(mix: Mix) -> str:
    """Training data as "80-20, N = 300"."""
    size = f"N = {mix.n:,}"
    shares = mix.groups or mix.proportions
    return f"{format_proportions(shares)}, {size}" if shares else size


def format_time_blind_levels(info: CellInfo) -> str:
    """The levels whose blocks cannot see the noise level, as "1, 2 of 4"."""
    levels = ", ".join(map(str, info.time_blind)) or "none"
    return f"{levels} of {info.depth}"


def interval(row: dict[str, Any]) -> tuple[float, float, float]:
    """A row's value and the ends of its interval, nan where it has none."""
    return row["value"], *(math.nan if row[key] is None else row[key] for key in ("low", "high"))


def _rank(result: Result) -> tuple[int, int]:
    if isinstance(result.info, CellInfo):
        return result.info.depth, result.info.parameters
    return result.info.position, 0
