"""Datasets by name, and the splits that a study uses.

A dataset is added by one function in one file, decorated with `base.register_dataset`.
"""

import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Int

# Importing a dataset's module registers it.
from jaxdiff.datasets import celeba, colored_mnist, image_folder, mnist, tfds  # noqa: F401
from jaxdiff.datasets.base import (
    DATASETS,
    POOLS,
    DatasetRequest,
    Registration,
    Source,
    register_dataset,
)
from jaxdiff.datasets.dataset import Dataset, Split, make_pools
from jaxdiff.datasets.image_files import say_once
from jaxdiff.datasets.training_sets import max_grouped_train_size, max_train_size, training_set
from jaxdiff.progress import Progress, no_progress

__all__ = [
    "DATASET_NAMES_HELP",
    "POOLS",
    "Dataset",
    "Split",
    "default_channels",
    "find_registration",
    "is_dataset_name",
    "load_splits",
    "log_class_names",
    "max_grouped_train_size",
    "max_train_size",
    "open_dataset",
    "open_source",
    "register_dataset",
    "training_set",
]


def open_dataset(
    name: str,
    *,
    size: int,
    channels: int,
    data_dir: epath.PathLike | None = None,
    attribute: str = "",
    group: str = "",
) -> Dataset:
    """Open a dataset by name; no image is decoded.

    Parameters
    ----------
    name
        A registered name; see DATASET_NAMES_HELP.
    size
        Pixels on a side.
    channels
        1 (gray) or 3 (RGB).
    data_dir
        Folder of the data as published.
    attribute
        Attribute whose no and yes are the classes, in place of the dataset's own.
    group
        Attribute that splits each class into two groups; by default the dataset's, if any.

    Raises
    ------
    ValueError
        For an unknown name or attribute, or data that are not there.
    """
    registration = find_registration(name)
    source = open_source(
        name, size=size, channels=channels, data_dir=os.fspath(data_dir) if data_dir else None
    )
    annotations = source.annotations
    labels = annotations.labels
    classes = annotations.classes
    if attribute:
        labels = annotations.attribute(attribute).astype(np.int64)
        classes = (f"not {attribute}", attribute)
        offset = source.paired_offset
        if offset and not np.array_equal(labels[:offset], labels[offset:]):
            raise ValueError(
                f"the attribute {attribute!r} tells the two forms of an image of {name} apart, and "
                "both forms of an image must be of one class; leave the attribute out, and the "
                "classes are the dataset's own"
            )
    group = group or registration.default_group
    return Dataset(
        name=name if registration.is_prefix else registration.name,
        source=source,
        labels=labels,
        classes=classes,
        groups=2 * labels + annotations.attribute(group) if group else None,
        group_names=_name_groups(classes, group) if group else (),
        pools=make_pools(source, labels),
    )


def log_class_names(dataset: Dataset, labels: Sequence[int]) -> None:
    """Log once which classes these numbers mean, where their names are not the numbers."""
    names = [dataset.classes[label] for label in labels if 0 <= label < len(dataset.classes)]
    if names != [str(label) for label in labels]:
        numbers = ",".join(map(str, labels))
        say_once(
            f"classes {numbers} of {dataset.name}, counted from 0, are named {', '.join(names)}"
        )


def _name_groups(classes: tuple[str, ...], attribute: str) -> tuple[str, ...]:
    values = (f"not {attribute}", attribute)
    return tuple(f"{label}, {value}" for label in classes for value in values)


def open_source(name: str, *, size: int, channels: int, data_dir: str | None = None) -> Source:
    """Open the images of a dataset by name.

    Raises
    ------
    ValueError
        For an unknown name, or data that are not there.
    """
    registration = find_registration(name)
    _, _, argument = name.partition(":")
    request = DatasetRequest(size=size, channels=channels, data_dir=data_dir, argument=argument)
    return registration.open_source(request)


def find_registration(name: str) -> Registration:
    """What is registered under a name.

    Raises
    ------
    ValueError
        For an unknown name, or a prefix with nothing after it.
    """
    # folder:PATH is registered as folder:
    prefix, colon, argument = name.partition(":")
    registration = DATASETS.get(prefix + colon)
    if registration is None:
        raise ValueError(f"dataset {name!r} is not known; choose one of {_describe_names()}")
    if registration.is_prefix and not argument:
        raise ValueError(f"dataset {name!r} is not complete; write {name}{registration.argument}")
    return registration


def is_dataset_name(name: str) -> bool:
    """Whether this names a dataset (whose data may be missing), rather than a file or folder."""
    # a bucket's address, as gs://images, has a colon too and is no prefix of ours
    prefix, colon, _ = name.partition(":")
    return prefix + colon in DATASETS


def default_channels(name: str) -> int:
    """1 for a dataset of gray images, 3 for RGB."""
    return find_registration(name).channels


def _describe_names() -> str:
    """Every name for a help text or an error: names, then prefixes with their argument."""
    plain = [entry.name for entry in DATASETS.values() if not entry.is_prefix]
    prefixes = [f"{entry.name}{entry.argument}" for entry in DATASETS.values() if entry.is_prefix]
    names = sorted(set(plain)) + sorted(prefixes)
    return f"{', '.join(names[:-1])} or {names[-1]}"


DATASET_NAMES_HELP = _describe_names()


def load_splits(
    dataset: Dataset,
    cache: epath.PathLike,
    train: Int[np.ndarray, " n"],
    progress: Progress = no_progress,
) -> dict[str, Split]:
    """The splits of a study: `train`, these images, and the other pools whole.

    The dataset is prepared under `cache` where it is not yet.
    """
    prepared = dataset.prepare(cache, progress)
    indices = {"train": train}
    for name, pool in dataset.pools.items():
        if name != "generator":
            # In the dataset's order, which reads the files from front to back.
            indices[name] = np.sort(pool)
    return {name: Split(prepared, rows, dataset.labels[rows]) for name, rows in indices.items()}
