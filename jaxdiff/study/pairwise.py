"""Comparing the cells of a study on the noise they share: flips and similarity."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.measures import bias_variance, flips
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.progress import Progress
from jaxdiff.results import CellResult

Pair = tuple[str, CellResult, CellResult]
SIMILAR = 64  # noises whose images are compared by LPIPS


def pairs(cells: Sequence[CellResult]) -> list[Pair]:
    """("depth", shallowest, deeper) of one seed, and ("seed", one, next) of one model with the same majority.

    Both among cells of one proportion and one number of training images.
    """

    def rank(cell):
        return (cell.info.depth, cell.info.parameters, cell.info.seed)

    def place(cell):
        return (*cell.info.proportions, cell.info.n, cell.info.majority)

    found: list[Pair] = []
    for _, group in itertools.groupby(sorted(cells, key=lambda c: (place(c), rank(c))), key=place):
        mine = list(group)
        for cell in mine:
            base = next(c for c in mine if c.info.seed == cell.info.seed)
            later = [
                c
                for c in mine
                if c.info.model == cell.info.model and c.info.seed > cell.info.seed
            ]
            found += [("depth", base, cell)] if base is not cell else []
            found += [("seed", cell, later[0])] if later else []
    return found


def disjoint(a: CellResult, b: CellResult) -> bool:
    """Whether two seeds were trained on different parts of the data, of which no image is in both.

    Where such models draw the same image from the same noise, they have learned the distribution, and no image by heart
    (Kadkhodaie et al. 2024).
    """
    (turn, part), (other_turn, other_part) = (
        divmod(c.info.seed, c.config["data"]["parts"]) for c in (a, b)
    )
    return turn == other_turn and part != other_part


def over_seeds(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """The cells that differ in the seed alone, two and more of them; with the same majority."""

    def key(c):
        return (c.info.model, *c.info.proportions, c.info.n, c.info.majority)

    groups = [list(group) for _, group in itertools.groupby(sorted(cells, key=key), key=key)]
    return [sorted(group, key=lambda c: c.info.seed) for group in groups if len(group) > 1]


def in_a_row(cell: CellResult) -> dict[str, Any]:
    """What the cells of a group over seeds have in common."""
    proportions = "-".join(f"{100 * p:g}" for p in cell.info.proportions)
    return {
        "model": cell.info.model,
        "proportions": proportions,
        "N": cell.info.n,
        "minority": cell.info.minority,
    }


def of_noise(cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Bias and variance over seeds on the noise that they share."""
    rows = []
    for group in over_seeds(
        [c for c in cells if len(c.common) and c.info.majority != c.info.minority]
    ):
        own = group[0].info
        called = [flips.roles(c.common_labels, own.majority, own.minority) for c in group]
        where = in_a_row(group[0]) | {
            "form": "noise",
            "encoder": "",
            "|x_T|^2/d": None,
            "true": "all",
        }
        classes = np.where(np.stack(called) == flips.ROLES.index("neither"), -1, np.stack(called))
        rows += [where | row for row in bias_variance.of_noise(classes, own.proportions[1])]
    return rows


def compare(
    cells: Sequence[CellResult],
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Flips and similarity of every pair of cells that share the common noise bank."""
    found: dict[str, Any] = {"flips": [], "similarity": []}
    chosen = pairs([cell for cell in cells if len(cell.common)])
    for i, (kind, a, b) in enumerate(chosen):
        progress("compare", i, len(chosen), f"{a.name} and {b.name}")
        where = {"kind": kind, "a": a.name, "b": b.name}
        if a.info.majority != a.info.minority:  # images without labels cannot flip
            one, other = (
                flips.roles(c.common_labels, c.info.majority, c.info.minority) for c in (a, b)
            )
            found["flips"].append(where | flips.flips(one, other))
        if distance is not None and (kind == "depth" or disjoint(a, b)):
            rows = flips.similarity(a.common[:SIMILAR], b.common[:SIMILAR], distance)
            found["similarity"] += [where | row for row in rows]
    if chosen:
        progress("compare", len(chosen), len(chosen), "")
    return found | {"bias_variance": of_noise(cells)}


def write(
    cells: Sequence[CellResult], inverted: Sequence[epath.Path], path: epath.Path, settings: dict[str, Any],
    progress: Progress,
) -> None:  # fmt: skip
    """comparisons.json of a study; inverted: files of `inversion.write`."""
    net = settings["lpips"]
    distance = LPIPS.load(net, settings["weights_dir"] or None).distance if net != "none" else None
    found = compare(cells, distance, progress)
    for other in inverted:
        found["bias_variance"] += files.read_json(other)["bias_variance"]
    files.write_json(path, found)
