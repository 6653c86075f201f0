"""Comparing the cells of a study on the noise they share: flips and similarity."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.measures import flips
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.results import CellResult
from jaxdiff.study.draw import Progress

Pair = tuple[str, CellResult, CellResult]
SIMILAR = 64  # noises whose images are compared by LPIPS


def pairs(cells: Sequence[CellResult]) -> list[Pair]:
    """("depth", shallowest, deeper) of one seed, and ("seed", one, next) of one model with the same majority.

    Both among cells of one proportion and one number of training images.
    """
    rank = lambda cell: (cell.own["depth"], cell.own["parameters"], cell.own["seed"])  # noqa: E731
    place = lambda cell: (*cell.own["proportions"], cell.own["n"], cell.own["majority"])  # noqa: E731
    found: list[Pair] = []
    for _, group in itertools.groupby(sorted(cells, key=lambda c: (place(c), rank(c))), key=place):
        mine = list(group)
        for cell in mine:
            base = next(c for c in mine if c.own["seed"] == cell.own["seed"])
            later = [c for c in mine if c.own["model"] == cell.own["model"] and c.own["seed"] > cell.own["seed"]]
            found += [("depth", base, cell)] if base is not cell else []
            found += [("seed", cell, later[0])] if later else []
    return found


def compare(
    cells: Sequence[CellResult], distance: Callable[[np.ndarray, np.ndarray], np.ndarray] | None, progress: Progress
) -> dict[str, Any]:
    """Flips and similarity of every pair of cells that share the common noise bank."""
    found: dict[str, Any] = {"flips": [], "similarity": []}
    chosen = pairs([cell for cell in cells if len(cell.common)])
    for i, (kind, a, b) in enumerate(chosen):
        progress("compare", i, len(chosen), f"{a.name} and {b.name}")
        where = {"kind": kind, "a": a.name, "b": b.name}
        if a.own["majority"] != a.own["minority"]:  # images without labels cannot flip
            one, other = (flips.roles(c.common_labels, c.own["majority"], c.own["minority"]) for c in (a, b))
            found["flips"].append(where | flips.flips(one, other))
        if kind == "depth" and distance is not None:
            rows = flips.similarity(a.common[:SIMILAR], b.common[:SIMILAR], distance)
            found["similarity"] += [where | row for row in rows]
    if chosen:
        progress("compare", len(chosen), len(chosen), "")
    return found


def write(cells: Sequence[CellResult], path: epath.Path, settings: dict[str, Any], progress: Progress) -> None:
    """comparisons.json of a study."""
    net = settings["lpips"]
    distance = LPIPS.load(net, settings["weights_dir"] or None).distance if net != "none" else None
    files.write_json(path, compare(cells, distance, progress))
