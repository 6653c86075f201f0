"""A study's data: the dataset of a cell's settings, and the splits that a cell uses."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets import registry
from jaxdiff.datasets.dataset import Dataset

PARTS_OF_POOLS = {
    "classifier": "the classifiers' training images",
    "classifier_test": "the classifiers' test images",
    "held_out": "held-out images",
}


class DataPaths(NamedTuple):
    """Where data are, which results do not depend on.

    Parameters
    ----------
    data_dir
        Folder of the data as published.
    cache
        Folder of prepared datasets; by default under the workdir.
    """

    data_dir: str = ""
    cache: str = ""

    def cache_dir(self, workdir: epath.Path) -> epath.Path:
        """The folder of prepared datasets."""
        if self.cache:
            return epath.Path(self.cache)
        if files.is_in_bucket(workdir):
            # records are read at random, which needs a disk of this machine
            return epath.Path("~/.cache/jaxdiff").expanduser()
        return workdir / "shared" / "data"


def open_cell_dataset(cell: Cell, data_dir: str = "") -> Dataset:
    """The dataset of a cell, from the lists alone; no image is decoded."""
    data = cell.data
    return _open_dataset(
        data.source, data.size, data.channels, data.attribute, data.group, data_dir
    )


@functools.lru_cache(maxsize=2)
def _open_dataset(
    name: str, size: int, channels: int, attribute: str, group: str, data_dir: str
) -> Dataset:
    """Cached, since the cells of a study have the same dataset."""
    return registry.open_dataset(
        name,
        size=size,
        channels=channels,
        data_dir=data_dir or None,
        attribute=attribute,
        group=group,
    )


def count_test_images(cell: Cell, data_dir: str = "") -> int:
    """Images on which the classifier is tested, of the class that has fewer."""
    dataset = open_cell_dataset(cell, data_dir)
    labels = dataset.labels[dataset.pools["classifier_test"]]
    return min(int((labels == label).sum()) for label in (cell.majority, cell.minority))


def check_training_sets(cells: Sequence[Cell], data_dir: str = "") -> None:
    """Check that the dataset has the classes and images of every cell.

    Raises
    ------
    ValueError
        For the first cell whose dataset has not, saying what can be had.
    """
    for cell in cells:
        dataset = open_cell_dataset(cell, data_dir)
        _check_classes(cell, dataset)
        _check_pools(cell, dataset)
        if cell.is_grouped:
            _check_groups(cell, dataset)
        else:
            _check_size(cell, dataset)


def _check_classes(cell: Cell, dataset: Dataset) -> None:
    count = len(dataset.classes)
    for label in cell.roles.trained_classes:
        if label >= count:
            key = "others" if label in cell.data.others else "classes"
            names = [
                name if name == str(i) else f"{i} ({name})"
                for i, name in enumerate(dataset.classes)
            ]
            raise ValueError(
                f"config.data.{key} holds {label}; choose among the {count} classes of "
                f"{cell.data.source}: {', '.join(names)}"
            )
    registry.log_class_names(dataset, cell.roles.trained_classes)


def _check_pools(cell: Cell, dataset: Dataset) -> None:
    """Check that the classifiers have images of both classes to learn from and to be tested on."""
    for name, pool in dataset.pools.items():
        for label in (cell.majority, cell.minority):
            if name != "generator" and not (dataset.labels[pool] == label).any():
                part = PARTS_OF_POOLS[name]
                raise ValueError(
                    f"config.data.classes holds {label} ({dataset.classes[label]}), of which none "
                    f"of the {len(pool):,} images is that are set aside as {part}, of "
                    f"{dataset.source.about}; give more of it, in every part if it has parts"
                )


def _check_size(cell: Cell, dataset: Dataset) -> None:
    parts = cell.data.parts
    mix = cell.roles.mix
    largest = registry.max_train_size(dataset, list(mix), list(mix.values()), parts)
    if cell.n > largest:
        plural = "s" if parts > 1 else ""
        raise ValueError(
            f"config.data.n is {cell.n} and there are too few images for it at {cell.proportions}: "
            f"at most {largest} can be had of {dataset.source.about}, of which the generator may "
            f"have {len(dataset.pools['generator']):,} (in {parts} part{plural})"
        )


def _check_groups(cell: Cell, dataset: Dataset) -> None:
    try:
        cell_training_set(cell, dataset)
    except ValueError as error:
        shares = cell.shares
        parts = cell.data.parts
        classes = (cell.majority, cell.minority)
        largest = registry.max_grouped_train_size(dataset, classes, shares, parts, cell.n)
        raise ValueError(
            f"config.data.n is {cell.n} at {shares}: {error}; "
            f"at most {largest} can be had of {dataset.source.about}"
        ) from None


def cell_training_set(cell: Cell, dataset: Dataset) -> Int[np.ndarray, " n"]:
    """Indices of a cell's training images.

    Seeds take the disjoint parts in turn, and no two seeds of one turn share an image. Every turn
    cuts the data anew, so that neither class as the majority keeps parts of its own. Of two parts
    and alternating majorities, seeds of one majority are never of one turn: two of them that share
    no image need three parts.
    """
    parts = cell.data.parts
    shuffle, part = divmod(cell.seed, parts)
    # ascending, whichever class has the majority
    counts = {label: cell.counts[label] for label in sorted(cell.counts)}
    return registry.training_set(
        dataset, counts, part=part, parts=parts, seed=shuffle, grouped=cell.is_grouped
    )
