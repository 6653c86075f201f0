"""The runs among the cells of a scaling study, each with all of its checkpoints. No JAX."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxdiff.results import CellResult
from jaxdiff.scaling.points import Depth


class Run(NamedTuple):
    """One training run.

    Parameters
    ----------
    cell
        What was measured of it.
    depth
        The model's depth; with its size, as a label, where models of one depth have several.
    """

    cell: CellResult
    depth: Depth

    def images_at(self, step: int) -> float:
        """Images seen in training until an optimizer step."""
        return step * self.cell.info.images_seen / self.cell.config["train"]["steps"]


def longest_runs(cells: Sequence[CellResult]) -> list[Run]:
    """The runs by depth, size, number of training images and seed.

    Runs that differ in length alone share their first steps: the longest one stands for all.
    """
    longest: dict[tuple, CellResult] = {}
    # Ascending, so that the longest run is the one that stays.
    for cell in sorted(cells, key=lambda cell: cell.info.images_seen):
        info = cell.info
        longest[info.depth, info.flops, info.n, info.seed] = cell
    sizes: dict[int, set[float]] = {}
    for depth, flops, _, _ in longest:
        sizes.setdefault(depth, set()).add(flops)
    has_sizes = any(len(flops) > 1 for flops in sizes.values())
    return [
        Run(cell, f"{depth}, {flops:.3g} FLOP" if has_sizes else depth)
        for (depth, flops, _, _), cell in sorted(longest.items(), key=lambda item: item[0])
    ]
