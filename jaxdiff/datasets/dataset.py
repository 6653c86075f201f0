"""A dataset's classes, groups and pools, and splits of it.

Pools are fixed and disjoint: a mixture is drawn from the generator's; the classifier never sees the
others.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files
from jaxdiff.datasets.base import POOLS, Image, Images, Source
from jaxdiff.datasets.prepare import Prepared, check_prepared, prepare
from jaxdiff.progress import Progress, no_progress


@dataclasses.dataclass(frozen=True)
class Split:
    """Some images of a prepared dataset and their labels, in the dataset's order.

    ``split[i]`` reads one image, which is how grain takes them; `images` reads all.
    """

    source: Prepared
    indices: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]

    @functools.cached_property
    def images(self) -> Images:
        """uint8 [n, size, size, channel]."""
        return self.source.read(self.indices)

    def select(self, rows: Int[np.ndarray, " selected"]) -> "Split":
        """Some of the images; no other one is read."""
        return Split(self.source, self.indices[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset whose annotations are read and whose images are not yet decoded.

    Parameters
    ----------
    name
        Name it was opened by; of aliases the first one.
    source
        Where the images come from.
    labels
        Class of each image, an index of ``classes``.
    classes
        Names of the classes.
    groups
        2 x class + (0 or 1 by an attribute); None where no attribute makes groups.
    group_names
        Names of the groups.
    pools
        Indices of the images of each of POOLS.
    """

    name: str
    source: Source
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    groups: Int[np.ndarray, " n"] | None
    group_names: tuple[str, ...]
    pools: Mapping[str, Int[np.ndarray, " _n"]]

    @property
    def paired_offset(self) -> int:
        """Image i + paired_offset is image i in another form; 0 where there are no pairs."""
        return self.source.paired_offset

    @property
    def contents(self) -> dict[str, Any]:
        """All that images, labels, groups and pools depend on, as JSON holds it.

        The source's identity is that of its images, and classes of the same names may be others:
        those of another attribute, or of another table of labels.
        """
        arrays = [self.labels, *(self.pools[name] for name in sorted(self.pools))]
        if self.groups is not None:
            arrays.append(self.groups)
        return {
            "identity": self.source.identity,
            "classes": list(self.classes),
            "labels": files.array_digest(*arrays),
        }

    def prepare(self, cache: epath.PathLike, progress: Progress = no_progress) -> Prepared:
        """Decode all images and write them under `cache`, where they are not there yet."""
        return prepare(self.source, cache, self._folder_name, progress)

    def check_prepared(self, cache: epath.PathLike) -> None:
        """Check what `prepare` has written under `cache`, once in a process.

        Raises
        ------
        ValueError
            Naming the first file that is not what was written.
        """
        check_prepared(self.source, cache, self._folder_name)

    @property
    def _folder_name(self) -> str:
        return self.name.partition(":")[0]


def make_pools(source: Source, labels: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """The publisher's partition where there is one, else shares of every class."""
    offset = source.paired_offset
    if source.annotations.partition is not None:
        return _pools_of_partition(source.annotations.partition)
    if not offset:
        return _pools_of_shares(labels, source.pool_shares)
    # both forms of an image are in one pool
    pools = _pools_of_shares(labels[:offset], source.pool_shares)
    return {name: np.concatenate([pool, pool + offset]) for name, pool in pools.items()}


def _pools_of_partition(partition: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """Train, validation, and the test images in turn."""
    test = np.flatnonzero(partition == 2)
    train = np.flatnonzero(partition == 0)
    validation = np.flatnonzero(partition == 1)
    return dict(zip(POOLS, (train, validation, test[::2], test[1::2]), strict=True))


def _pools_of_shares(
    labels: Int[np.ndarray, " n"], shares: Sequence[float]
) -> dict[str, np.ndarray]:
    cuts: list[list[np.ndarray]] = []
    for label in np.unique(labels):
        # the seed does not depend on a study's, so that pools are the same in every study
        members = np.random.default_rng([20, label]).permutation(np.flatnonzero(labels == label))
        # What the shares leave over is np.split's last part, and in no pool.
        ends = np.cumsum([round(share * len(members)) for share in shares])
        cuts.append(np.split(members, ends))
    return {name: np.concatenate([cut[i] for cut in cuts]) for i, name in enumerate(POOLS)}
