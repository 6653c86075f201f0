"""A study's data: the dataset that its settings describe, and the splits of each cell."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath

from jaxdiff import files
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.registry import Dataset, Split
from jaxdiff.progress import Progress

Splits = Callable[[], dict[str, Split]]


class Places(NamedTuple):
    """Where data are, which results do not depend on: as published, and as prepared (by default under the workdir)."""

    data_dir: str = ""
    cache: str = ""

    def prepared(self, workdir: epath.Path) -> epath.Path:
        """The folder of prepared datasets, which has to be on this machine."""
        if self.cache:
            return epath.Path(self.cache)
        home = epath.Path("~/.cache/jaxdiff").expanduser()
        return home if files.is_in_bucket(workdir) else workdir / "shared" / "data"


def dataset(settings: dict[str, Any], data_dir: str = "") -> Dataset:
    """The dataset of a cell's settings; read from the lists alone, no image is decoded."""
    data = settings["data"]
    keys = ("source", "size", "channels", "attribute", "group")
    return _describe(data_dir, *(data[key] for key in keys))


@functools.lru_cache(maxsize=2)
def _describe(
    data_dir: str, name: str, size: int, channels: int, attribute: str, group: str
) -> Dataset:
    return sources.describe(
        name,
        size=size,
        channels=channels,
        data_dir=data_dir or None,
        attribute=attribute,
        group=group,
    )


def check(cells: Sequence[Cell], data_dir: str = "") -> None:
    """Raise ValueError, saying what can be had, for the first cell whose classes or images the dataset does not have."""
    for cell in cells:
        found, data = dataset(cell.settings, data_dir), cell.settings["data"]
        for label in (cell.majority, cell.minority):
            if label >= len(found.classes):
                raise ValueError(
                    f"config.data.classes holds {label}; the {len(found.classes)} classes of {data['source']} are "
                    + ", ".join(f"{i} ({name})" for i, name in enumerate(found.classes))
                )
        if cell.grouped:
            _check_groups(cell, found)
            continue
        most = sources.most(found, (cell.majority, cell.minority), cell.proportions, data["parts"])
        if cell.n > most:
            raise ValueError(
                f"config.data.n is {cell.n} and there are too few images for it at {cell.proportions}: at most {most} can be "
                f"had of {found.source.about}, of which the generator may have {len(found.pools['generator']):,} "
                f"(in {data['parts']} part{'s' * (data['parts'] > 1)})"
            )


def _check_groups(cell: Cell, found: Dataset) -> None:
    try:
        training_set(cell, found)
    except ValueError as error:
        shares, parts = cell.settings["proportions"], cell.settings["data"]["parts"]
        most = sources.most_of_groups(found, (cell.majority, cell.minority), shares, parts, cell.n)
        raise ValueError(
            f"config.data.n is {cell.n} at {tuple(shares)}: {error}; at most {most} can be had of {found.source.about}"
        ) from None


def training_set(cell: Cell, found: Dataset) -> Any:
    """Indices of a cell's training images. Seeds take the disjoint parts in turn, then reshuffle."""
    parts = cell.settings["data"]["parts"]
    turn, part = divmod(cell.seed, parts)
    counts = {c: cell.counts[c] for c in sorted(cell.counts)}
    return sources.training_set(
        found, counts, part=part, parts=parts, seed=turn, grouped=cell.grouped
    )


def load(cell: Cell, places: Places, workdir: epath.Path, progress: Progress) -> dict[str, Split]:
    """The splits of a cell's dataset, prepared where it is not yet."""
    found = dataset(cell.settings, places.data_dir)
    return sources.splits(found, places.prepared(workdir), training_set(cell, found), progress)
