"""Two models compared seed by seed, and how far unreadable samples may move it. No JAX.

The unit is the seed. Seeds alternate which of the two classes has the majority, so that each
class has both roles. What a class does in either role cancels in the mean of the two roles' means.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy
from scipy.special import expit

from jaxdiff.analysis.queries import Mix
from jaxdiff.estimates import Estimate, bounded_logit
from jaxdiff.results import CellResult, DataKey, data_key

LARGEST_RATIO = 1e6  # beyond it a ratio of lost fractions counts as infinite


@dataclasses.dataclass(frozen=True)
class BlockedMean:
    """The mean of the roles' means of independent values, one value a seed.

    Parameters
    ----------
    value
        The mean of the means.
    standard_error
        From the residuals within roles; nan without degrees of freedom.
    dof
        Degrees of freedom: the number of seeds minus the number of roles.
    n
        Number of seeds.
    """

    value: float
    standard_error: float
    dof: int
    n: int

    @classmethod
    def of(cls, values: Sequence[float], majorities: Sequence[int]) -> "BlockedMean":
        """The blocked mean; nan of no value.

        Parameters
        ----------
        values
            A value for each seed.
        majorities
            The class that has the majority in each seed's training data.
        """
        if not values:
            return cls(math.nan, math.nan, 0, 0)
        table = np.array(values, float)
        blocks = [table[np.array(majorities) == label] for label in sorted(set(majorities))]
        dof = len(values) - len(blocks)
        center = float(np.mean([block.mean() for block in blocks]))
        if dof < 1:
            return cls(center, math.nan, dof, len(values))
        residuals = sum(float(np.square(block - block.mean()).sum()) for block in blocks)
        # Each role's mean has the variance s^2 / n_r, and they are weighted equally. With S / 2
        # seeds in each of two roles this is method.md's sum r^2 / (S (S - 2)).
        weight = sum(1 / len(block) for block in blocks) / len(blocks) ** 2
        return cls(center, math.sqrt(residuals / dof * weight), dof, len(values))

    @property
    def p_value(self) -> float | None:
        """Two-sided, of the t test that the mean is 0; None where there is no error to test by."""
        if not self.standard_error > 0:
            return None
        return float(2 * scipy.stats.t.sf(abs(self.value) / self.standard_error, self.dof))

    def estimate(self, level: float = 0.95) -> Estimate:
        """The mean with its t interval; without one where there are no degrees of freedom."""
        if self.dof < 1:
            return Estimate(self.value if self.n else None, n=self.n)
        half = float(scipy.stats.t.ppf(0.5 + level / 2, self.dof)) * self.standard_error
        method = f"t {100 * level:g} % over seeds, roles blocked"
        ends = (self.value - half, self.value + half)
        return Estimate(self.value, *ends, self.n, method, self.standard_error)


def shift_by_lost_images(gate: float, share: float, ratio: float) -> float:
    """How far a logit share moves where the minority is lost `ratio` times as often.

    Parameters
    ----------
    gate
        Fraction of samples that can be read, above 0 and at most 1.
    share
        The minority's share, between 0 and 1.
    ratio
        R: the lost fraction of the minority over that of the majority.

    Returns
    -------
    shift
        log[(1 - R l) / (1 - l)] with l = (1 - gate) / (R share + 1 - share), the majority's:
        0 at R = 1, below 0 above it; -inf where the minority would be lost altogether.
    """
    # 1 - gate = l (1 - share) + R l share: the samples that cannot be read are those that are
    # lost of either class.
    lost_of_majority = (1 - gate) / (ratio * share + 1 - share)
    lost_of_minority = ratio * lost_of_majority
    if lost_of_minority >= 1:
        return -math.inf
    if lost_of_majority >= 1:
        return math.inf
    return math.log((1 - lost_of_minority) / (1 - lost_of_majority))


@dataclasses.dataclass(frozen=True)
class Arm:
    """One model of a contrast: gate and share of its samples in each mix, means over seeds."""

    model: str
    gates: tuple[float, ...]
    shares: tuple[float, ...]

    @property
    def gate(self) -> float:
        """Mean fraction of samples that can be read."""
        return float(np.mean(self.gates))

    def shift(self, ratio: float) -> float:
        """Mean shift of the logit share where the lost fractions have this ratio."""
        pairs = zip(self.gates, self.shares, strict=True)
        return float(np.mean([shift_by_lost_images(gate, share, ratio) for gate, share in pairs]))


@dataclasses.dataclass(frozen=True)
class Contrast:
    """The change of the minority's logit share from a shallow to a deep model.

    Parameters
    ----------
    shallow, deep
        The two models.
    mixes
        Training data that are pooled; a seed's change is its mean over them.
    logits
        By seed: logit shares of the shallow and of the deep model, means over the mixes.
    majorities
        By seed: the class that has the majority.
    undefined
        Finished cells whose share is undefined; their seeds have no change.
    condition
        What is equal in the compared models besides their data, in words.
    """

    shallow: Arm
    deep: Arm
    mixes: tuple[Mix, ...]
    logits: Mapping[int, tuple[float, float]]
    majorities: Mapping[int, int]
    undefined: tuple[str, ...] = ()
    condition: str = ""

    @property
    def changes(self) -> dict[int, float]:
        """By seed: logit share of the deep model minus that of the shallow one."""
        return {seed: deep - shallow for seed, (shallow, deep) in self.logits.items()}

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """The shallow model first."""
        return self.shallow, self.deep

    @property
    def mean(self) -> BlockedMean:
        """The mean change over seeds."""
        changes = self.changes
        return BlockedMean.of(list(changes.values()), [self.majorities[seed] for seed in changes])

    def widening(self, ratio: float) -> float:
        """The larger shift of the two arms, without its sign."""
        return max(abs(arm.shift(ratio)) for arm in self.arms)

    def critical_ratio(self, distance: float) -> float:
        """R*, the ratio of losses at which the arms' larger shift reaches a distance.

        Parameters
        ----------
        distance
            From 0 to the nearer end of an interval, at least 0.

        Returns
        -------
        ratio
            1 where the distance is 0, inf where no ratio shifts a logit so far.
        """
        # At a gate of 0 the shift is infinite even at a ratio of 1.
        if not 0 <= self.widening(1.0) < distance:
            return 1.0
        # R l tends to (1 - gate) / share as R grows: below 1 that leaves the shift a finite limit.
        if self.widening(LARGEST_RATIO) <= distance:
            return math.inf

        def excess(log_ratio: float) -> float:
            # The clip keeps an infinite shift usable in the search for the root.
            return min(self.widening(math.exp(log_ratio)), 1e3) - distance

        return math.exp(scipy.optimize.brentq(excess, 0.0, math.log(LARGEST_RATIO)))


class SampleReading(NamedTuple):
    """What one cell's samples show: the minority's logit share, and their quality gate."""

    logit_share: float
    gate: float


# From a shallow and a deep cell of one seed to what is compared; None where it is undefined.
ReadPair: TypeAlias = Callable[[CellResult, CellResult], tuple[SampleReading, SampleReading] | None]


class FinishedSeeds(NamedTuple):
    """The seeds of which every cell is finished.

    Parameters
    ----------
    cells
        By seed: for each mix the cells of the models, in order.
    undefined
        Cells without the value that was asked for; their seeds are not in `cells`.
    """

    cells: dict[int, list[list[CellResult]]]
    undefined: tuple[str, ...]

    def majorities(self) -> dict[int, int]:
        """By seed: the class that has the majority."""
        return {seed: rows[0][0].info.majority for seed, rows in self.cells.items()}


def find_finished(
    cells: Sequence[CellResult],
    models: Sequence[str],
    seeds: Sequence[int],
    data: Sequence[DataKey],
    find_value: Callable[[CellResult], Estimate | None],
) -> FinishedSeeds:
    """The seeds of which every model is finished on all training data."""
    by_key = {(data_key(cell), cell.info.model, cell.info.seed): cell for cell in cells}
    finished = {}
    undefined: list[str] = []
    for seed in seeds:
        rows = [[by_key.get((key, model, seed)) for model in models] for key in data]
        complete = [[cell for cell in row if cell is not None] for row in rows]
        if not rows or any(len(row) < len(models) for row in complete):
            continue
        names = [cell.name for row in complete for cell in row if find_value(cell) is None]
        if names:
            undefined += names
        else:
            finished[seed] = complete
    return FinishedSeeds(finished, tuple(undefined))


def read_final(shallow: CellResult, deep: CellResult) -> tuple[SampleReading, SampleReading] | None:
    """What the samples of the finished models show."""
    if find_share(shallow) is None or find_share(deep) is None:
        return None
    return (
        SampleReading(logit_share(shallow), mean_gate([shallow])),
        SampleReading(logit_share(deep), mean_gate([deep])),
    )


def build_arm(model: str, readings: Sequence[Sequence[SampleReading]]) -> Arm:
    """An arm from its readings, of each mix those of all seeds."""
    gates = [_mean([r.gate for r in of_mix]) for of_mix in readings]
    shares = [_mean([float(expit(r.logit_share)) for r in of_mix]) for of_mix in readings]
    return Arm(model, tuple(gates), tuple(shares))


def build_contrast(
    cells: Sequence[CellResult],
    shallow: str,
    deep: str,
    seeds: Sequence[int],
    data: Sequence[DataKey],
    read_pair: ReadPair = read_final,
) -> Contrast:
    """The contrast of two models over these seeds, as far as both are finished on all data."""
    finished = find_finished(cells, (shallow, deep), seeds, data, find_share)
    pairs: dict[int, list[tuple[SampleReading, SampleReading]]] = {}
    undefined = list(finished.undefined)
    for seed, rows in finished.cells.items():
        read = [read_pair(a, b) for a, b in rows]
        complete = [pair for pair in read if pair is not None]
        if len(complete) == len(rows):
            pairs[seed] = complete
        else:
            missing = [row for row, pair in zip(rows, read, strict=True) if pair is None]
            undefined += [f"{a.name} and {b.name}" for a, b in missing]
    logits = {
        seed: (_mean([a.logit_share for a, _ in rows]), _mean([b.logit_share for _, b in rows]))
        for seed, rows in pairs.items()
    }
    arms = [
        build_arm(model, [[rows[j][i] for rows in pairs.values()] for j in range(len(data))])
        for i, model in enumerate((shallow, deep))
    ]
    mixes = tuple(to_mix(key) for key in data)
    majorities = {seed: label for seed, label in finished.majorities().items() if seed in pairs}
    return Contrast(arms[0], arms[1], mixes, logits, majorities, tuple(undefined))


def to_mix(key: DataKey) -> Mix:
    """The shares of the two classes, of which four groups are halves."""
    shares, n = key
    if len(shares) == 4:
        return Mix((shares[0] + shares[1], shares[2] + shares[3]), n, shares)
    return Mix(shares, n)


def has_minority(key: DataKey) -> bool:
    """Whether the training data show both classes, and one of them more often."""
    shares = to_mix(key).proportions
    # The margin is for shares that are sums over groups, which are not exact.
    return len(shares) == 2 and shares[0] > shares[1] + 1e-9 and shares[1] > 0


def find_share(cell: CellResult) -> Estimate | None:
    """The minority's share in the form that the study names; None where it is undefined."""
    share = cell.find("share", "share")
    return None if share is None or share.value is None else share


def logit_share(cell: CellResult) -> float:
    """The logit of a cell's share, which has one."""
    share = find_share(cell)
    assert share is not None
    assert share.n is not None
    return bounded_logit(float(share), share.n)


def mean_gate(cells: Sequence[CellResult]) -> float:
    """The mean quality gate; nan where one was not measured."""
    gates = [cell.find("quality", "gate") for cell in cells]
    return _mean([math.nan if gate is None else float(gate) for gate in gates])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
