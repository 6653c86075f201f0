"""What changes when another model starts from the same noise (Figures 1, 5, A and B of the paper).

The paper looks at initial noises from which the shallow model drew the minority and finds that the
deep one often drew the majority. That selection by itself produces the effect (regression to the
mean), so both selections are shown, and the test is of the counts each way.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxdiff.estimates import Estimate, mcnemar

ROLES = ("majority", "minority", "neither")

RoleIndices = Int[np.ndarray, " n"]
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Flips:
    """How the roles of n samples change from a model a to a model b on the same initial noises.

    Parameters
    ----------
    table
        Counts [role in a, role in b], in the order of `ROLES`.
    selections
        ``minority_in_a``: of the noises whose sample in a is the minority, the fraction whose
        sample in b is the majority (the paper's selection). ``minority_in_b``: the same with a and
        b exchanged. Where the two agree, selection alone explains them.
    """

    table: Int[np.ndarray, "3 3"]
    selections: list[Estimate]

    @property
    def to_majority(self) -> int:
        """Noises with the minority in a and the majority in b."""
        return int(self.table[1, 0])

    @property
    def to_minority(self) -> int:
        """Noises with the majority in a and the minority in b."""
        return int(self.table[0, 1])

    @property
    def p_value(self) -> float:
        """Of McNemar's exact test that both changes are equally likely."""
        return mcnemar(self.to_majority, self.to_minority)

    def to_json(self) -> dict[str, Any]:
        """The entry of comparisons.json."""
        return {
            "n": int(self.table.sum()),
            "table": self.table.tolist(),
            "b_count": self.to_majority,
            "c_count": self.to_minority,
            "p_value": self.p_value,
            "selections": [selection.to_json() for selection in self.selections],
        }


def role_indices(labels: Int[np.ndarray, " n"], majority: int, minority: int) -> RoleIndices:
    """Index in `ROLES` of each label."""
    return np.where(labels == majority, 0, np.where(labels == minority, 1, 2))


def count_flips(roles_a: RoleIndices, roles_b: RoleIndices) -> Flips:
    """Count the changes from model a to model b; both draw from the same n noises."""
    table = np.zeros((3, 3), int)
    np.add.at(table, (roles_a, roles_b), 1)
    changes = {
        "minority_in_a": (int(table[1, 0]), int(table[1].sum())),
        "minority_in_b": (int(table[0, 1]), int(table[:, 1].sum())),
    }
    # A selection without a noise has no fraction.
    selections = [
        Estimate.proportion(count, total, name) for name, (count, total) in changes.items() if total
    ]
    return Flips(table, selections)


def similarity(a: np.ndarray, b: np.ndarray, distance: Distance, shifts: int = 2) -> list[Estimate]:
    """How similar two models' samples of the same noises are, beside those of different noises.

    Parameters
    ----------
    a, b
        Images [n, ...] of the same noises.
    distance
        LPIPS of each pair of images.
    shifts
        Number of cyclic shifts that pair different noises.

    Returns
    -------
    estimates
        ``lpips`` (smaller is more similar) and ``correlation`` of the pixels (-1..1, larger is
        more similar), with the label ``pairing`` of ``paired`` and ``shuffled``: means with normal
        95 % intervals over noises. None of fewer than two images, which have no other noise.
    """
    n = len(a)
    if n < 2:
        return []
    # Of two images the second shift would be a whole turn, and pair equal noises.
    num_shifts = shifts if n > 2 else 1
    # A cyclic shift pairs each image with one of another noise.
    offsets = [1 + i * max(1, n // shifts) for i in range(num_shifts)]
    estimates = []
    for name, compare in (("lpips", distance), ("correlation", correlation)):
        paired = compare(a, b)
        shuffled = np.array([compare(a, np.roll(b, offset, axis=0)) for offset in offsets])
        # A noise is in two pairs of each shift: once as a's, once as b's.
        of_noise = [
            values + np.roll(values, -offset)
            for values, offset in zip(shuffled, offsets, strict=True)
        ]
        estimates += [
            _mean_over_noises(paired, paired).named(name, pairing="paired"),
            _mean_over_noises(shuffled.mean(axis=0), np.mean(of_noise, axis=0)).named(
                name, pairing="shuffled"
            ),
        ]
    return estimates


def _mean_over_noises(
    values: Float[np.ndarray, " n"], of_noise: Float[np.ndarray, " n"]
) -> Estimate:
    """The mean of values, whose interval is from what each noise adds to their sum."""
    n = len(values)
    # It is 0 for two noises, whose pairs are the same two.
    error = float(np.std(of_noise, ddof=1)) / n**0.5
    return Estimate.normal(float(np.mean(values)), error, n, "normal 95 % over noises")


def correlation(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " n"]:
    """Pearson's correlation over the pixels of each pair; 0 where an image is flat."""
    x = _center(a)
    y = _center(b)
    length = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return (x * y).sum(axis=1) / np.where(length > 0, length, np.inf)


def _center(images: np.ndarray) -> Float[np.ndarray, "n d"]:
    rows = images.reshape(len(images), -1).astype(float)
    return rows - rows.mean(axis=1, keepdims=True)
