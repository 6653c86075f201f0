"""Straight lines through a study's cells: the law of Theorem 2, and LPIPS at equal KID. No JAX."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import scipy
from scipy.special import logit

from jaxdiff.analysis.contrasts import find_share, logit_share
from jaxdiff.analysis.queries import Mix, group_by_mix, model_names
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellResult

MIN_POINTS = 3  # two points leave a line no error


class Line(NamedTuple):
    """The slope and the intercept of a least-squares line, with t intervals over its points."""

    slope: Estimate
    intercept: Estimate


def fit_line(
    x: Sequence[float], y: Sequence[float], *, over: str = "the line's points"
) -> Line | None:
    """The least-squares line of y on x; None of fewer than three points, or of one x alone.

    `over` says in the intervals' method what the points are.
    """
    if len(x) < MIN_POINTS or len(set(x)) < 2:
        return None
    fit = scipy.stats.linregress(x, y)
    quantile = scipy.stats.t.ppf(0.975, len(x) - 2)

    def estimate(value: float, error: float) -> Estimate:
        ends = (float(value - quantile * error), float(value + quantile * error))
        return Estimate(float(value), *ends, len(x), f"t 95 % over {over}", float(error))

    return Line(estimate(fit.slope, fit.stderr), estimate(fit.intercept, fit.intercept_stderr))


def fit_both_roles(
    majorities: Sequence[int],
    trained: Sequence[float],
    generated: Sequence[float],
    *,
    over: str = "the line's points",
) -> Line | None:
    """logit(generated) = b + S logit(trained) of the class of the smaller label.

    Parameters
    ----------
    majorities
        Label of the class that has the majority, for each point.
    trained, generated
        The minority's logit in the training data and among the samples, for each point.
    over
        What the points are.

    Returns
    -------
    line
        S and b. None where one class has the majority at all points, with which S and b cannot be
        told apart; where both are trained equally; and of fewer than three points. Of one seed a
        point, and one mix, its intervals are those over seeds with the roles blocked.
    """
    if len(set(majorities)) < 2:
        return None
    # The logit of the first class is that of the minority where it is the minority.
    first = min(majorities)
    signs = [-1 if majority == first else 1 for majority in majorities]
    x = [sign * value for sign, value in zip(signs, trained, strict=True)]
    y = [sign * value for sign, value in zip(signs, generated, strict=True)]
    return fit_line(x, y, over=over)


@dataclasses.dataclass(frozen=True)
class AmplificationLaw:
    """logit(generated) = b + S logit(trained) of one class, over the cells of a model.

    Parameters
    ----------
    model, n
        The model, and the number of its training images.
    class_label
        The class whose share it is; of the other one b has the opposite sign, and S is the same.
    exponent
        S: 1 is no amplification.
    offset
        b: what belongs to the class, whichever share it has.

    References
    ----------
    "Deeper Diffusion Models Amplify Bias", Theorem 2 and Eq. 15, where b = 0.
    """

    model: str
    n: int
    class_label: int
    exponent: Estimate
    offset: Estimate


def amplification_laws(cells: Sequence[CellResult]) -> list[AmplificationLaw]:
    """The law of every model and number of images whose cells give each class both roles.

    With one role alone S and b cannot be told apart.
    """
    laws = []
    defined = [
        cell
        for cell in cells
        if find_share(cell) is not None
        and cell.info.majority >= 0
        and len(cell.info.proportions) == 2
        and cell.info.proportions[1] > 0
    ]
    for n in sorted({cell.info.n for cell in defined}):
        for model in model_names(cells):
            members = [cell for cell in defined if (cell.info.model, cell.info.n) == (model, n)]
            majorities = [cell.info.majority for cell in members]
            trained = [float(logit(cell.info.proportions[1])) for cell in members]
            line = fit_both_roles(majorities, trained, [logit_share(cell) for cell in members])
            if line is not None:
                label = min(majorities)
                laws.append(AmplificationLaw(model, n, label, line.slope, line.intercept))
    return laws


class LpipsAtEqualKid(NamedTuple):
    """The change of LPIPS between two models where their KID is equal, over seeds."""

    shallow: str
    deep: str
    mix: Mix
    space: str
    slope: Estimate
    at_equal_kid: Estimate


def lpips_at_equal_kid(cells: Sequence[CellResult]) -> list[LpipsAtEqualKid]:
    """Each model against the shallowest of its data: the change of LPIPS on that of KID.

    A seed is a point; the intercept of the line is the change at equal KID.
    """
    rows = []
    for mix, group in group_by_mix(cells).items():
        names = model_names(group)
        for deep in names[1:]:
            rows += _compare_at_equal_kid(group, names[0], deep, mix)
    return rows


def _compare_at_equal_kid(
    cells: Sequence[CellResult], shallow: str, deep: str, mix: Mix
) -> list[LpipsAtEqualKid]:
    """A row for each feature space of KID that at least three seeds have."""
    by_model = {
        name: {
            cell.info.seed: _diversity_and_kid(cell) for cell in cells if cell.info.model == name
        }
        for name in (shallow, deep)
    }
    seeds = sorted(by_model[shallow].keys() & by_model[deep].keys())
    pairs = [(by_model[shallow][seed], by_model[deep][seed]) for seed in seeds]
    points: dict[str, list[tuple[float, float]]] = {}
    for (first_lpips, first_kid), (second_lpips, second_kid) in pairs:
        if first_lpips is None or second_lpips is None:
            continue
        for space in first_kid.keys() & second_kid.keys():
            change = (second_kid[space] - first_kid[space], second_lpips - first_lpips)
            points.setdefault(space, []).append(change)
    rows = []
    for space in sorted(points):
        line = fit_line(*zip(*points[space], strict=True))
        if line is not None:
            rows.append(LpipsAtEqualKid(shallow, deep, mix, space, line.slope, line.intercept))
    return rows


def _diversity_and_kid(cell: CellResult) -> tuple[float | None, dict[str, float]]:
    """LPIPS at the training data's mix, and KID against unseen images by feature space."""
    found = cell.find("lpips", "at_training_mix")
    kids = {
        estimate.labels["space"]: float(estimate)
        for estimate in cell.estimates("fidelity", "kid", against="unseen")
        if estimate.value is not None
    }
    return (None if found is None else found.value), kids
