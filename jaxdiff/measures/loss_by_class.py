"""What a model loses of each class: held-out images that it denoises to neither class."""

import math

from jaxdiff.estimates import Estimate, Proportion
from jaxdiff.measures.artifacts import Artifacts, require
from jaxdiff.measures.registry import measure
from jaxdiff.measures.shares import CONTINUITY, count_lost


def loss_ratio(majority: Proportion, minority: Proportion) -> Estimate:
    """R: how many times as often the minority is lost as the majority.

    Half an image is added to each count, so that R is defined where nothing of a class is lost; the
    interval is the normal one of the logarithm. It has none where all of both classes are lost.

    References
    ----------
    Walter (1975), The distribution of Levin's measure of attributable risk, for the half image.
    """
    logarithm = 0.0
    variance = 0.0
    for sign, lost in ((1, minority), (-1, majority)):
        count = lost.successes + CONTINUITY
        total = lost.trials + CONTINUITY
        logarithm += sign * math.log(count / total)
        variance += 1 / count - 1 / total
    n = majority.trials + minority.trials
    error = math.sqrt(variance)
    estimate = Estimate.normal(logarithm, error, n, "normal 95 % of the log", "loss_ratio")
    return estimate.map(math.exp)


@measure(
    "loss_by_class",
    title="Loss by class",
    caption=(
        "The fraction of each class that the classifier calls neither class, among held-out images "
        "that the model noised and denoised. R is the minority's fraction over the majority's; if "
        "it is above 1, a gated share is too low."
    ),
    needs=("roles", "denoised_confusion"),
    topic="quality",
)
def loss_by_class(artifacts: Artifacts) -> list[Estimate]:
    """The lost fraction of either class, and their ratio."""
    roles = require(artifacts.roles)
    counts = count_lost(require(artifacts.denoised_confusion), roles)
    if min(lost.trials for lost in counts) == 0:
        return []
    named = zip(("majority", "minority"), roles.classes, counts, strict=True)
    estimates = [
        Estimate.proportion(lost.successes, lost.trials, "lost", role=role, label=label)
        for role, label, lost in named
    ]
    return [*estimates, loss_ratio(*counts)]
