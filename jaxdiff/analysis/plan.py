"""What a study plans before its runs: the models that are compared, the seeds, one early look."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiff.analysis.queries import model_names
from jaxdiff.results import CellResult


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was fixed in study.json before the first cell was trained.

    Parameters
    ----------
    seeds
        The planned seeds, in order.
    look
        Seeds after which the one look is taken; 0 takes none.
    primary
        The shallow and the deep model; empty for the ends of the unchanged rows of Table A.
    secondary
        Pairs of models of secondary claims.
    rows
        Models that are unchanged rows of Table A.
    axes
        The planned models, proportions and numbers of images; what is missing is not bound.
    """

    seeds: tuple[int, ...]
    look: int = 0
    primary: tuple[str, ...] = ()
    secondary: tuple[tuple[str, str], ...] = ()
    rows: tuple[str, ...] = ()
    axes: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_study(cls, settings: Mapping[str, Any]) -> "Plan":
        """Read study.json; a study without a plan is bound to the seeds that it lists."""
        axes = dict(settings.get("planned", {}))
        # A model that is given by a name alone is an unchanged row of Table A.
        entries = settings.get("models", {})
        return cls(
            seeds=tuple(axes.pop("seeds", settings.get("seeds", (0,)))),
            look=settings.get("look", 0),
            primary=tuple(settings.get("primary", ())),
            secondary=tuple((pair[0], pair[1]) for pair in settings.get("secondary", ())),
            rows=tuple(name for name, entry in entries.items() if isinstance(entry, str)),
            axes=axes,
        )

    def select(self, cells: Sequence[CellResult]) -> list[CellResult]:
        """The planned cells: what a study gained later is in no claim."""
        return [cell for cell in cells if cell.info.seed in self.seeds and self._is_on_axes(cell)]

    def _is_on_axes(self, cell: CellResult) -> bool:
        keys = {"models": "model", "proportions": "proportions", "n": "n"}
        return all(
            cell.config.get(keys[axis], planned[0]) in planned
            for axis, planned in self.axes.items()
        )

    def primary_pair(self, cells: Sequence[CellResult]) -> tuple[str, str]:
        """The shallow and the deep model among planned cells; equal where there is only one."""
        if self.primary:
            return self.primary[0], self.primary[1]
        names = model_names(cells)
        # Controls, which change a row of Table A, are no part of the contrast over depth.
        candidates = [name for name in names if name in self.rows] or names
        return candidates[0], candidates[-1]
