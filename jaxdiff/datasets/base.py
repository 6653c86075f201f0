"""Where a dataset's images come from, and what is known of them. No JAX and no TFDS, so that a process which only decodes
images starts fast.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

Image = UInt8[np.ndarray, "height width channel"]
Images = UInt8[np.ndarray, "n height width channel"]
POOLS = ("generator", "classifier", "classifier_test", "held_out")
SHARES = (
    0.7145,
    0.0925,
    0.1505,
    0.04,
)  # of each class; of full MNIST 4,500 and more to train on, 950 to test with


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is known of every image beside its pixels.

    labels: the class of each, an index of `classes`. attributes: yes or no for each of `attribute_names`. partition: the
    part of the publisher's own split, 0 where there is none.
    """

    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    attributes: Bool[np.ndarray, "n attribute"] | None = None
    attribute_names: tuple[str, ...] = ()
    partition: Int[np.ndarray, " n"] | None = None

    def attribute(self, name: str) -> Bool[np.ndarray, " n"]:
        """Which images have an attribute. Raises ValueError, listing those that exist, for an unknown one."""
        if self.attributes is None or name not in self.attribute_names:
            known = ", ".join(self.attribute_names) or "none"
            raise ValueError(f"attribute {name!r} is not known; the dataset's are {known}")
        return self.attributes[:, self.attribute_names.index(name)]


@dataclasses.dataclass(frozen=True)
class Source:
    """Images wherever they come from.

    about: in a few words, where; identity: all that the pixels depend on, as JSON holds it; length: how many; describe:
    reads the columns; decode: the i-th image at the size that is wanted, a function that other processes can have (pickled);
    shares: of every class, what each of POOLS gets where the publisher has no partition.
    """

    about: str
    identity: dict[str, Any]
    length: int
    describe: Callable[[], Columns]
    decode: Callable[[int], Image]
    shares: tuple[float, ...] = SHARES

    @functools.cached_property
    def columns(self) -> Columns:
        """Read once."""
        return self.describe()

    def __len__(self) -> int:
        return self.length
