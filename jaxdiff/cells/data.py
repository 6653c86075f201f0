"""A study's data: the dataset of a cell's settings, and the splits that a cell uses."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files, timing
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets import registry
from jaxdiff.datasets.dataset import Dataset, Split
from jaxdiff.datasets.mixtures import match_counts, mixture
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.progress import Progress

# The pools that no model of a study is trained on; a classifier's images are new to a model too.
UNSEEN_POOLS = ("held_out", "classifier_test", "classifier")


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


def load_cell_splits(
    cell: Cell, paths: DataPaths, workdir: epath.Path, progress: Progress
) -> dict[str, Split]:
    """The splits of a cell's dataset, which is prepared where it is not yet."""
    dataset = open_cell_dataset(cell, paths.data_dir)
    train = cell_training_set(cell, dataset)
    with timing.clock("preparing data"):
        return registry.load_splits(dataset, paths.cache_dir(workdir), train, progress)


def join_splits(splits: Sequence[Split]) -> Split:
    """Splits of one prepared dataset as one."""
    indices = np.concatenate([split.indices for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    return Split(splits[0].source, indices, labels)


def match_splits(
    train: Split,
    unseen: Split,
    train_strata: Int[np.ndarray, " n"],
    unseen_strata: Int[np.ndarray, " m"],
) -> MatchedSplits | None:
    """As many images of either split in every stratum, by the rule of `match_counts`.

    None where they have no image of the most frequent stratum in common.

    Parameters
    ----------
    train, unseen
        The two splits.
    train_strata, unseen_strata
        Class or group of each image.
    """
    counts = match_counts(train_strata, unseen_strata)
    if not any(counts.values()):
        return None
    rows = mixture(train_strata, counts)
    # The unseen split may be much larger than what is taken of it: only that is read.
    unseen_images = unseen.select(mixture(unseen_strata, counts)).images
    return MatchedSplits(train.images[rows], unseen_images, train_strata[rows])
