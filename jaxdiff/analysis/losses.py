"""Held-out losses of models compared in pairs: the same images, the same noise. No JAX."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxdiff.analysis.queries import Mix, group_by_mix, model_name, model_names
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellResult, CheckpointLosses


@dataclasses.dataclass(frozen=True)
class LossComparison:
    """The eps loss of unseen images of two models at their last checkpoints.

    Parameters
    ----------
    shallow, deep
        The two cells, of the same training data and seed.
    mix
        Their training data.
    shallow_loss, deep_loss
        Means over images, whose intervals hold the images' own differences.
    difference
        Deep minus shallow: the mean over images of the differences, with its paired t interval.
    """

    shallow: CellResult
    deep: CellResult
    mix: Mix
    shallow_loss: Estimate
    deep_loss: Estimate
    difference: Estimate


def compare_losses(cells: Sequence[CellResult]) -> list[LossComparison]:
    """Every model against the shallowest one of the same training data and seed.

    Cells whose losses were not kept, or are of other images or noise levels, are left out.
    """
    comparisons = []
    for mix, group in group_by_mix(cells).items():
        order = model_names(group)
        for seed in sorted({cell.info.seed for cell in group}):
            members = [cell for cell in group if cell.info.seed == seed and cell.losses]
            members.sort(key=lambda cell: order.index(model_name(cell)))
            comparisons += [
                _compare_pair(members[0], cell, mix)
                for cell in members[1:]
                if _have_equal_images(members[0], cell)
            ]
    return comparisons


def _have_equal_images(shallow: CellResult, deep: CellResult) -> bool:
    a = _require_losses(shallow)
    b = _require_losses(deep)
    # Images and their noise follow from mix, seed and t (measure `checkpoints`), and need no check.
    return a.last_unseen.shape == b.last_unseen.shape and np.array_equal(a.t, b.t)


def _compare_pair(shallow: CellResult, deep: CellResult, mix: Mix) -> LossComparison:
    shallow_losses = _require_losses(shallow).last_unseen
    deep_losses = _require_losses(deep).last_unseen
    # An image that is hard for one model is hard for the other: the difference lacks that spread.
    differences = deep_losses - shallow_losses
    return LossComparison(
        shallow,
        deep,
        mix,
        Estimate.mean(shallow_losses.tolist(), "images"),
        Estimate.mean(deep_losses.tolist(), "images"),
        Estimate.mean(differences.tolist(), "images"),
    )


def _require_losses(cell: CellResult) -> CheckpointLosses:
    assert cell.losses is not None
    return cell.losses
