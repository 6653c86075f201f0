"""What is measured of one model over its seeds: shares, and what is lost of each class. No JAX."""

import dataclasses
from collections.abc import Iterator, Sequence

from scipy.special import expit

from jaxdiff.analysis.contrasts import BlockedMean, find_share, logit_share
from jaxdiff.analysis.queries import Mix, group_by_mix, model_names
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellResult


@dataclasses.dataclass(frozen=True)
class OverSeeds:
    """Values of one model and training data over its seeds, and their mean.

    Parameters
    ----------
    values
        The value of each seed.
    estimate
        Estimate of the mean; without an interval where the seeds leave no degrees of freedom.
    """

    model: str
    bottleneck: int | None
    mix: Mix
    values: tuple[float, ...]
    estimate: Estimate


def shares_over_seeds(cells: Sequence[CellResult]) -> list[OverSeeds]:
    """The minority's share of every model and mix: the mean logit over seeds, roles blocked."""
    rows = []
    for mix, model, group in _by_model(cells):
        members = [cell for cell in group if find_share(cell) is not None]
        if members:
            logits = [logit_share(cell) for cell in members]
            mean = BlockedMean.of(logits, [cell.info.majority for cell in members])
            values = tuple(float(share) for share in map(find_share, members) if share is not None)
            estimate = mean.estimate().map(expit)
            rows.append(OverSeeds(model, members[0].info.bottleneck, mix, values, estimate))
    return rows


def lost_fractions_over_seeds(cells: Sequence[CellResult], role: str) -> list[OverSeeds]:
    """What is lost of the class in a role ("majority", "minority"): the mean over seeds."""
    rows = []
    for mix, model, group in _by_model(cells):
        pairs = [(cell, cell.find("loss_by_class", "lost", role=role)) for cell in group]
        known = [(cell, lost) for cell, lost in pairs if lost is not None]
        if known:
            values = tuple(float(lost) for _, lost in known)
            mean = BlockedMean.of(values, [cell.info.majority for cell, _ in known])
            # The t interval of a small fraction may pass its ends.
            estimate = mean.estimate().map(lambda x: min(max(x, 0.0), 1.0))
            rows.append(OverSeeds(model, group[0].info.bottleneck, mix, values, estimate))
    return rows


def _by_model(cells: Sequence[CellResult]) -> Iterator[tuple[Mix, str, list[CellResult]]]:
    """The cells of each mix and model, in the order of the report."""
    for mix, group in group_by_mix(cells).items():
        for model in model_names(cells):
            members = [cell for cell in group if cell.info.model == model]
            if members:
                yield mix, model, members
