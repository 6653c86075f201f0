"""Every dataset by its name: its classes, groups and pools, and the splits that a study trains on and measures with.

Names: digits, coloured_digits, celeba, folder:PATH, tfds:NAME. Pools are fixed and disjoint: a mixture is drawn from the
generator's; the classifier never sees the others.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff.datasets import colored_mnist as coloured
from jaxdiff.datasets.base import POOLS, Columns, Image, Source
from jaxdiff.datasets.celeba import HELP, celeba
from jaxdiff.datasets.image_folder import image_folder
from jaxdiff.datasets.images import Images8
from jaxdiff.datasets.mixtures import group_counts, mixture, most_images, part_of
from jaxdiff.datasets.mnist import digits
from jaxdiff.datasets.prepare import Prepared, prepare
from jaxdiff.datasets.tfds import find, from_tfds
from jaxdiff.progress import Progress, no_progress

NAMES = ("digits", "coloured_digits", "celeba")
FOLDER, TFDS = "folder:", "tfds:"
KNOWN = f"{', '.join(NAMES)}, {FOLDER}PATH or {TFDS}NAME"


@dataclasses.dataclass(frozen=True)
class Split:
    """Some images of a prepared dataset and their labels, in the dataset's order; read whole when `images` is asked for.

    `split[i]` reads one, which is how grain takes them.
    """

    source: Prepared
    indices: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]

    @functools.cached_property
    def images(self) -> Images8:
        """uint8 [n, size, size, channel]."""
        return self.source.read(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Image:
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset that is described but not yet decoded.

    labels: the class of each image, an index of `classes`; groups: 2 class + (0 or 1 by an attribute) where one was
    chosen; pools: indices by name. twin: image i + twin is image i in another guise, and a mixture takes one of the two;
    0 where there are none.
    """

    name: str
    source: Source
    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    groups: Int[np.ndarray, " n"] | None
    group_names: tuple[str, ...]
    pools: Mapping[str, Int[np.ndarray, " _n"]]
    twin: int = 0

    def prepare(self, cache: epath.PathLike, progress: Progress = no_progress) -> Prepared:
        """All its images, decoded and written under `cache` where they are not there yet."""
        return prepare(self.source, cache, self.name.partition(":")[0], progress)


def describe(
    name: str,
    *,
    size: int,
    channels: int,
    data_dir: epath.PathLike | None = None,
    attribute: str = "",
    group: str = "",
) -> Dataset:
    """The dataset of that name. attribute: its yes and no are the classes, in place of the dataset's own; group: the
    attribute that makes groups of them. Raises ValueError for an unknown name or attribute, or data that are not there.
    """
    source = raw(
        name, size=size, channels=channels, data_dir=os.fspath(data_dir) if data_dir else None
    )
    columns, twin = source.columns, 0
    labels, classes = columns.labels, columns.classes
    if attribute:
        labels, classes = (
            columns.attribute(attribute).astype(np.int64),
            (f"not {attribute}", attribute),
        )
    if name == "coloured_digits":
        group, twin = group or coloured.ATTRIBUTE, len(labels) // 2
    groups = 2 * labels + columns.attribute(group) if group else None
    names = tuple(f"{c}, {no}{group}" for c in classes for no in ("not ", "")) if group else ()
    pools = _pools(columns, labels, source.shares, twin)
    return Dataset(name, source, labels, classes, groups, names, pools, twin)


def is_name(name: str) -> bool:
    """Whether this names a dataset (which may not be here), and no file or folder."""
    return name in NAMES or name.startswith((FOLDER, TFDS))


def default_channels(name: str) -> int:
    """1 (grey) for digits, 3 (RGB) for every other dataset."""
    return 1 if name == "digits" else 3


def raw(name: str, *, size: int, channels: int, data_dir: str | None = None) -> Source:
    """The source of a dataset's images by name. Raises ValueError for an unknown name or data that are not there."""
    if name == "digits":
        return digits(data_dir, size, channels)
    if name == "coloured_digits":
        if channels != 3:
            raise ValueError(f"coloured_digits have 3 channels; {channels} were asked for")
        return coloured.coloured_digits(data_dir, size)
    if name == "celeba":
        if data_dir and not find("celeb_a", data_dir):
            return celeba(data_dir, size, channels)
        if not data_dir and not find("celeb_a"):
            raise ValueError(
                f"CelebA is not here and cannot be downloaded; {HELP}, and name that folder as data_dir"
            )
        return from_tfds("celeb_a", data_dir, size, channels)
    if name.startswith(FOLDER):
        return image_folder(name.removeprefix(FOLDER), size, channels)
    if name.startswith(TFDS):
        return from_tfds(name.removeprefix(TFDS), data_dir, size, channels)
    raise ValueError(f"dataset {name!r} is not known; choose one of {KNOWN}")


def _pools(
    columns: Columns, labels: np.ndarray, shares: Sequence[float], twin: int
) -> dict[str, np.ndarray]:
    """The publisher's partition where there is one (train; validation; halves of test), else shares of every class."""
    if columns.partition is not None:
        test = np.flatnonzero(columns.partition == 2)
        parts = (
            np.flatnonzero(columns.partition == 0),
            np.flatnonzero(columns.partition == 1),
            test[::2],
            test[1::2],
        )
        return dict(zip(POOLS, parts, strict=True))
    base = labels[:twin] if twin else labels
    cuts: list[list[np.ndarray]] = []
    for label in np.unique(base):
        members = np.random.default_rng([20, label]).permutation(np.flatnonzero(base == label))
        cuts.append(np.split(members, np.cumsum([round(share * len(members)) for share in shares])))
    pools = {name: np.concatenate([cut[i] for cut in cuts]) for i, name in enumerate(POOLS)}
    return (
        {name: np.concatenate([pool, pool + twin]) for name, pool in pools.items()}
        if twin
        else pools
    )


def most(dataset: Dataset, classes: Sequence[int], proportions: Sequence[float], parts: int) -> int:
    """The largest n that the generator's pool has at these proportions of these classes."""
    labels = dataset.labels[dataset.pools["generator"]]
    sizes = [int((labels == label).sum()) // (2 if dataset.twin else 1) for label in classes]
    return most_images(sizes, proportions, parts)


def most_of_groups(
    dataset: Dataset, classes: Sequence[int], shares: Sequence[float], parts: int, below: int
) -> int:
    """The largest n below a number that the pool has at these shares of the groups (each class without and with)."""
    generator = dataset.pools["generator"]
    keys = dataset.labels if dataset.twin or dataset.groups is None else dataset.groups
    wanted = classes if dataset.twin else [2 * label + i for label in classes for i in (0, 1)]
    have = [
        int((keys[generator] == key).sum()) // (2 if dataset.twin else 1) // parts for key in wanted
    ]
    for n in range(below - 1, 0, -1):
        try:
            counts = group_counts(n, shares)
        except ValueError:
            return 0
        asked = [counts[0] + counts[1], counts[2] + counts[3]] if dataset.twin else counts
        if all(a <= b for a, b in zip(asked, have, strict=True)):
            return n
    return 0


def training_set(
    dataset: Dataset,
    counts: Mapping[int, int],
    *,
    part: int,
    parts: int,
    seed: int,
    grouped: bool = False,
) -> Int[np.ndarray, " n"]:
    """Indices, ascending, of a mixture of the generator's pool with exactly counts[c] images of class (or group) c.

    Parts with the same seed are disjoint; with equal part and seed a smaller mixture is contained in a larger one.
    Raises ValueError where a part has too few images.
    """
    generator = dataset.pools["generator"]
    if not dataset.twin:
        keys = dataset.groups if grouped else dataset.labels
        if keys is None:
            raise ValueError(f"{dataset.name} has no groups; name the attribute that makes them")
        return np.sort(
            generator[mixture(keys[generator], counts, part=part, parts=parts, seed=seed)]
        )
    each = (
        counts
        if grouped
        else {2 * c + i: (n + 1 - i) // 2 for c, n in counts.items() for i in (0, 1)}
    )
    once = generator[generator < dataset.twin]
    chosen = []
    for label in sorted({group // 2 for group in each}):
        # the one guise from the front of the order, the other from its end
        plain, other = each.get(2 * label, 0), each.get(2 * label + 1, 0)
        order = part_of(
            once[dataset.labels[once] == label],
            plain + other,
            label,
            part=part,
            parts=parts,
            seed=seed,
        )
        chosen += [order[:plain], order[::-1][:other] + dataset.twin]
    return np.sort(np.concatenate(chosen))


def splits(
    dataset: Dataset,
    cache: epath.PathLike,
    train: Int[np.ndarray, " n"],
    progress: Progress = no_progress,
) -> dict[str, Split]:
    """`train`, these images, and the other pools whole; the dataset is prepared under `cache` where it is not yet."""
    prepared = dataset.prepare(cache, progress)
    held = {"train": train} | {
        name: np.sort(pool) for name, pool in dataset.pools.items() if name != "generator"
    }
    return {
        name: Split(prepared, indices, dataset.labels[indices]) for name, indices in held.items()
    }
