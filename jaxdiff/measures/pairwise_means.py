"""Means of a squared Euclidean distance over all pairs of a set, from sums over its images.

For N embeddings phi the mean over all pairs is 2N/(N-1) (mean |phi|^2 - |mean phi|^2), so that N
embeddings take the place of N(N-1)/2 distances.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from jaxdiff.estimates import Estimate, jackknife

MIN_CLASS_SIZE = 3  # two images have one distance, and a mean without a standard error
Value = float | np.ndarray  # of a set, or of a set with each group left out


@dataclasses.dataclass(frozen=True)
class Pairwise:
    """Means over pairs within and between the classes of a set.

    Parameters
    ----------
    labels
        The k classes.
    size
        Images of each class.
    power
        Sum of |phi|^2 of each class.
    inner
        Products of the classes' sums of phi.
    without
        The same with each of g jackknife groups left out: the arrays have a leading axis of groups.
    group_sizes
        Images of each group.
    """

    labels: tuple[int, ...]
    size: Float[np.ndarray, "*g k"]
    power: Float[np.ndarray, "*g k"]
    inner: Float[np.ndarray, "*g k k"]
    without: "Pairwise | None" = None
    group_sizes: Float[np.ndarray, " g"] | None = None

    @classmethod
    def from_sums(
        cls,
        labels: tuple[int, ...],
        size: Int[np.ndarray, "k g"],
        power: Float[np.ndarray, "k g"],
        sums: Float[np.ndarray, "k g d"],
    ) -> "Pairwise":
        """Build from each class's and group's number of images, sum of |phi|^2 and sum of phi."""
        num_groups = sums.shape[1]
        # Products of sums are nearly equal terms of a small difference: float64 from here.
        total = sums.sum(axis=1, dtype=np.float64)
        inner = total @ total.T
        # With group g left out: (S_a - S_ag) . (S_b - S_bg), multiplied out.
        cross = np.stack([_products_with_groups(total, class_sums) for class_sums in sums], -1)
        group_sums = [sums[:, g].astype(np.float64) @ sums[:, g].T for g in range(num_groups)]
        left_inner = inner[None] - cross - cross.swapaxes(1, 2) + np.stack(group_sums)
        class_size = size.sum(axis=1).astype(float)
        class_power = power.sum(axis=1)
        without = cls(labels, class_size[None] - size.T, class_power[None] - power.T, left_inner)
        group_sizes = size.sum(axis=0).astype(float)
        return cls(labels, class_size, class_power, inner, without, group_sizes)

    def overall(self) -> Estimate:
        """The mean over all pairs of the set."""

        def statistic(pairs: "Pairwise") -> Value:
            inner = pairs.inner.sum((-2, -1))
            return _within_mean(pairs.size.sum(-1), pairs.power.sum(-1), inner)

        return self._estimate(statistic, self.size.sum())

    def within(self, label: int) -> Estimate | None:
        """The mean over the pairs inside one class; None where it has fewer than three images."""
        k = self.labels.index(label)
        if self.size[k] < MIN_CLASS_SIZE:
            return None
        return self._estimate(lambda pairs: pairs.within_mean(k), self.size[k])

    def between(self, first: int, second: int) -> Estimate:
        """The mean over the pairs of one image of either class."""
        i = self.labels.index(first)
        j = self.labels.index(second)
        return self._estimate(lambda pairs: pairs.between_mean(i, j), self.size[i] + self.size[j])

    def at_mix(self, mix: Mapping[int, float]) -> Estimate | None:
        """The mean over pairs that are drawn from the classes with given shares.

        It is what diversity would be at that class mix, and so takes away the part of a change
        that comes from the classes' shares alone.

        Parameters
        ----------
        mix
            Share of each class; they sum to 1.

        Returns
        -------
        estimate
            None without a mix, or where a class has fewer than three images.
        """
        if not mix or not all(self._is_large(label) for label in mix):
            return None
        shares = [(self.labels.index(label), share) for label, share in mix.items()]

        def statistic(pairs: "Pairwise") -> Value:
            total: Value = 0
            # Both images of a pair are drawn from the mix: classes i and j meet with p_i p_j.
            for i, share in shares:
                for j, second_share in shares:
                    mean = pairs.within_mean(i) if i == j else pairs.between_mean(i, j)
                    total = total + share * second_share * mean
            return total

        return self._estimate(statistic, sum(self.size[i] for i, _ in shares))

    def within_mean(self, k: int) -> Value:
        """The value behind `within`, of the set or with each group left out."""
        return _within_mean(self.size[..., k], self.power[..., k], self.inner[..., k, k])

    def between_mean(self, i: int, j: int) -> Value:
        """The value behind `between`, of the set or with each group left out."""
        n = self.size[..., i]
        m = self.size[..., j]
        # A group may hold all images of a class: the jackknife's standard error is then nan.
        with np.errstate(divide="ignore", invalid="ignore"):
            powers = self.power[..., i] / n + self.power[..., j] / m
            return powers - 2 * self.inner[..., i, j] / (n * m)

    def _is_large(self, label: int) -> bool:
        if label not in self.labels:
            return False
        return bool(self.size[self.labels.index(label)] >= MIN_CLASS_SIZE)

    def _estimate(self, statistic: Callable[["Pairwise"], Value], count: float) -> Estimate:
        assert self.without is not None
        assert self.group_sizes is not None
        value = float(statistic(self))
        left_out = np.asarray(statistic(self.without))
        error = jackknife(value, left_out, self.group_sizes)
        return Estimate.normal(value, error, int(count), "jackknife 95 %")


def _within_mean(n: Value, power: Value, inner: Value) -> Value:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * (n * power - inner) / (n * (n - 1))


def _products_with_groups(
    total: Float[np.ndarray, "k d"], class_sums: Float[np.ndarray, "g d"]
) -> Float[np.ndarray, "g k"]:
    """Products of the classes' sums with the sums of one class's groups."""
    return np.stack([total @ group_sum for group_sum in class_sums])
