"""What a study plans before its runs: the models that are compared, the seeds, one early look."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdiff.analysis.contrasts import has_minority, to_mix
from jaxdiff.analysis.queries import model_names
from jaxdiff.results import CellInfo, CellResult, DataKey, data_key


def is_trained_on(info: CellInfo, data: Sequence[DataKey]) -> bool:
    """Whether a cell, of which no more than this is known, has one of these training data."""
    # Info holds the shares of the two classes. Those of groups are rounded to whole images, which
    # leaves open which of several they are of.
    if any(len(shares) == 4 and n == info.n for shares, n in data):
        return True
    return (info.proportions, info.n) in {to_mix(key)[:2] for key in data}


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
        The shallow and the deep model; empty for the ends of the models that are finished.
    secondary
        Pairs of models of secondary claims.
    named
        Further secondary claims about the primary pair: names of `jaxdiff.settings.NAMED_CLAIMS`.
    models
        The planned models; empty for all.
    model_seeds
        By model: its planned seeds, where they are fewer than `seeds`.
    data
        The planned training data; empty for all.
    alternate
        Whether odd seeds give the majority to the second class.
    """

    seeds: tuple[int, ...]
    look: int = 0
    primary: tuple[str, ...] = ()
    secondary: tuple[tuple[str, str], ...] = ()
    named: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    model_seeds: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    data: tuple[DataKey, ...] = ()
    alternate: bool = True

    @classmethod
    def from_study(cls, settings: Mapping[str, Any]) -> "Plan":
        """Read study.json; a study without a plan is bound to the seeds that it lists."""
        planned = settings.get("planned", {})
        sizes = planned.get("n", ())
        secondary = settings.get("secondary", ())
        mixes = [tuple(shares) for shares in planned.get("proportions", ())]
        return cls(
            seeds=tuple(planned.get("seeds", settings.get("seeds", (0,)))),
            look=settings.get("look", 0),
            primary=tuple(planned.get("primary", settings.get("primary", ()))),
            secondary=tuple((c[0], c[1]) for c in secondary if not isinstance(c, str)),
            named=tuple(claim for claim in secondary if isinstance(claim, str)),
            models=tuple(planned.get("models", ())),
            model_seeds=planned.get("model_seeds", {}),
            data=tuple(itertools.product(mixes, sizes)),
            alternate=settings.get("data", {}).get("alternate", True),
        )

    def select(self, cells: Sequence[CellResult]) -> list[CellResult]:
        """The planned cells: what a study gained later is in no claim."""
        return [
            cell
            for cell in cells
            if cell.info.seed in self.seeds
            and (not self.models or cell.info.model in self.models)
            and (not self.data or data_key(cell) in self.data)
        ]

    def select_diverged(self, infos: Sequence[CellInfo]) -> list[CellInfo]:
        """The planned cells among those whose loss was not finite."""
        return [
            info
            for info in infos
            if (not self.models or info.model in self.models)
            and (not self.data or is_trained_on(info, self.data))
        ]

    def data_with_minority(self, cells: Sequence[CellResult]) -> list[DataKey]:
        """The planned training data that have a minority, most unbalanced first."""
        keys = set(self.data or map(data_key, cells))
        return sorted((key for key in keys if has_minority(key)), reverse=True)

    def primary_pair(self, cells: Sequence[CellResult]) -> tuple[str, str]:
        """The shallow and the deep model of the primary claim; equal where there is only one."""
        if self.primary:
            return self.primary[0], self.primary[1]
        names = model_names(cells)
        return names[0], names[-1]

    def seeds_of(self, models: Sequence[str]) -> list[int]:
        """The planned seeds that all of these models are trained on."""
        limits = [self.model_seeds[model] for model in models if model in self.model_seeds]
        return [seed for seed in self.seeds if all(seed in limit for limit in limits)]

    def explain_roles(self, models: Sequence[str] = ()) -> str:
        """Why the planned seeds of these models can decide nothing; empty where they can."""
        seeds = self.seeds_of(models)
        if len(seeds) < 2:
            return "one seed has no interval between seeds"
        odd = sum(seed % 2 for seed in seeds)
        even = len(seeds) - odd
        if self.alternate and odd != even:
            return (
                f"{even} planned seeds have the first class as the majority and {odd} the second; "
                "plan as many of both"
            )
        return ""
