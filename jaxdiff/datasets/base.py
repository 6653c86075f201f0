"""What a dataset is: where its images come from, their annotations, and the table of datasets.

Neither JAX nor TFDS is imported, so that a process which only decodes images starts fast.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

Image = UInt8[np.ndarray, "height width channel"]
Images = UInt8[np.ndarray, "_n _height _width _channel"]
POOLS = ("generator", "classifier", "classifier_test", "held_out")
# Of each class; of full MNIST 4,500 and more images to train on, 950 to test with.
POOL_SHARES = (0.7145, 0.0925, 0.1505, 0.04)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What is known about every image beside its pixels.

    Parameters
    ----------
    labels
        Class of each image, an index of ``classes``.
    classes
        Names of the classes.
    attributes
        Yes or no for each of ``attribute_names``; None where there are none.
    attribute_names
        Names of the attributes.
    partition
        The publisher's own split: 0 train, 1 validation, 2 test; None where there is none.
    """

    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    attributes: Bool[np.ndarray, "n attribute"] | None = None
    attribute_names: tuple[str, ...] = ()
    partition: Int[np.ndarray, " n"] | None = None

    def attribute(self, name: str) -> Bool[np.ndarray, " n"]:
        """Whether each image has an attribute.

        Raises
        ------
        ValueError
            For an unknown attribute, listing those that exist.
        """
        if self.attributes is None or name not in self.attribute_names:
            names = ", ".join(self.attribute_names)
            advice = f"choose one of {names}" if names else "the dataset has none, so name none"
            raise ValueError(f"attribute {name!r} is not known; {advice}")
        return self.attributes[:, self.attribute_names.index(name)]


@dataclasses.dataclass(frozen=True)
class Source:
    """Images wherever they come from.

    Parameters
    ----------
    about
        Description in a few words.
    identity
        What tells one version of the images from another, as JSON holds it; a prepared dataset
        is found by its hash. Code is not part of it: where decoding changes, add a version.
    length
        Number of images.
    read_annotations
        Reads the annotations; called once.
    decode
        The i-th image at the size asked for. Large datasets are decoded by several processes,
        which need a function that can be pickled.
    pool_shares
        Share of every class that each of POOLS gets where the publisher has no partition.
    paired_offset
        Image i + paired_offset is image i in another form, and a mixture takes one of the two;
        0 where there are no pairs.
    """

    about: str
    identity: dict[str, Any]
    length: int
    read_annotations: Callable[[], Annotations]
    decode: Callable[[int], Image]
    pool_shares: tuple[float, ...] = POOL_SHARES
    paired_offset: int = 0

    @functools.cached_property
    def annotations(self) -> Annotations:
        """The annotations, read once."""
        return self.read_annotations()

    def __len__(self) -> int:
        return self.length


@dataclasses.dataclass(frozen=True)
class DatasetRequest:
    """What a dataset is asked for.

    Parameters
    ----------
    size
        Pixels on a side.
    channels
        1 (gray) or 3 (RGB).
    data_dir
        Folder of the data as published; None where none was given.
    argument
        What follows a prefix in the dataset's name, as PATH in folder:PATH.
    """

    size: int
    channels: int
    data_dir: str | None = None
    argument: str = ""


@dataclasses.dataclass(frozen=True)
class Registration:
    """A dataset by name, or a family of datasets by prefix.

    Parameters
    ----------
    name
        Name of the dataset, or its prefix with the colon; also its folder on disk.
    open_source
        Returns the images; raises ValueError, saying what to do, where the data are missing.
    channels, size
        Defaults where a user gives none.
    aliases
        Other names of the same dataset.
    argument
        What follows a prefix, in capitals for help texts.
    default_group
        Attribute that splits the classes into groups where a user names none.
    reported_percent
        Percent of the images in a class or group by its name, as the paper reports it.
    """

    name: str
    open_source: Callable[[DatasetRequest], Source]
    channels: int = 3
    size: int = 64
    aliases: tuple[str, ...] = ()
    argument: str = ""
    default_group: str = ""
    reported_percent: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def is_prefix(self) -> bool:
        """Whether the name is a prefix, as folder: is."""
        return self.name.endswith(":")


DATASETS: dict[str, Registration] = {}


def register_dataset(name: str, **fields: Any) -> Callable[..., Callable[[DatasetRequest], Source]]:
    """Register a function from a `DatasetRequest` to a `Source` as the dataset `name`.

    Parameters
    ----------
    name
        The dataset's name, or a prefix such as ``folder:``.
    **fields
        The other fields of `Registration`.

    Raises
    ------
    ValueError
        Where another module has registered the name.
    """

    def register(
        open_source: Callable[[DatasetRequest], Source],
    ) -> Callable[[DatasetRequest], Source]:
        registration = Registration(name, open_source, **fields)
        for key in (name, *registration.aliases):
            # the same module may be imported again, as a notebook reloads it
            registered = DATASETS.get(key)
            if registered and registered.open_source.__module__ != open_source.__module__:
                raise ValueError(
                    f"dataset {key!r} of {open_source.__module__} is also in "
                    f"{registered.open_source.__module__}; choose another name"
                )
            DATASETS[key] = registration
        return open_source

    return register
