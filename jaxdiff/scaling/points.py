"""The points of a scaling study, the checks that its fits share, and what is refused. No JAX."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from jaxdiff.estimates import Estimate

MIN_LEVELS = 3  # sizes or lengths; two leave a power law with an offset undetermined
NEARLY_EQUAL = 0.01  # relative; sizes, lengths or budgets this close count as one

Depth: TypeAlias = int | str


@dataclasses.dataclass(frozen=True)
class LossPoint:
    """The held-out loss of one model after one length of training.

    Parameters
    ----------
    loss
        Held-out loss, above 0.
    flops
        F: floating-point operations of one forward pass of one image.
    images
        D: images seen in training, repeats counted.
    unique_images
        U: different training images.
    depth
        The model's depth, as a number or a label.
    seed
        The seed of the training run.
    """

    loss: float
    flops: float
    images: float
    unique_images: float
    depth: Depth = 0
    seed: int = 0

    @property
    def compute(self) -> float:
        """C = 3 F D: FLOP of training, a backward pass being twice a forward pass."""
        return 3 * self.flops * self.images


@dataclasses.dataclass(frozen=True)
class Refused:
    """What stands in place of a number that the points cannot give.

    Parameters
    ----------
    refused
        Why there is no number, in words.
    """

    refused: str

    def __str__(self) -> str:
        return f"refused: {self.refused}"


Answer: TypeAlias = Estimate | Refused


def check_points(points: Sequence[LossPoint]) -> None:
    """Check that there are points and that their numbers are finite and above 0.

    Raises
    ------
    ValueError
        Otherwise, naming the first number that is not.
    """
    if not points:
        raise ValueError("a scaling fit needs points, got none: give losses of finished runs")
    for point in points:
        check_positive(point, ("loss", "flops", "images", "unique_images"))


def check_positive(record: object, names: Sequence[str]) -> None:
    """Check that these fields of a record are finite and above 0; ValueError otherwise."""
    for name in names:
        value = getattr(record, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(
                f"{name} must be finite and above 0, got {value} in {record}: "
                "leave it out or measure it again"
            )


def order_depths(depths: Sequence[Depth]) -> tuple[Depth, ...]:
    """The different depths, shallowest first: numbers by size, labels as they come first."""
    different = tuple(dict.fromkeys(depths))
    numbers = [depth for depth in different if isinstance(depth, int)]
    return tuple(sorted(numbers)) if len(numbers) == len(different) else different


def group_nearly_equal(
    values: Float[np.ndarray, " n"], tolerance: float = NEARLY_EQUAL
) -> Int[np.ndarray, " n"]:
    """Number the groups of nearly equal values, from the smallest.

    Parameters
    ----------
    values
        Numbers above 0.
    tolerance
        How far a value may lie above the smallest one of its group, relative to it.
    """
    groups = np.zeros(len(values), int)
    group = -1
    limit = -math.inf
    for index in np.argsort(values, kind="stable"):
        if values[index] > limit:
            group += 1
            limit = values[index] * (1 + tolerance)
        groups[index] = group
    return groups


def count_distinct(values: Sequence[float]) -> int:
    """The number of values that are not nearly equal."""
    return int(group_nearly_equal(np.array(values, float)).max(initial=-1)) + 1
