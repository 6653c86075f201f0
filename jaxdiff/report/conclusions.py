"""What may be concluded: claims with their verdicts, and the shares behind them."""

import math

import numpy as np

from jaxdiff.analysis.claim import Claim
from jaxdiff.analysis.claims import judge_study
from jaxdiff.analysis.contrasts import Contrast, to_mix
from jaxdiff.analysis.over_seeds import OverSeeds, lost_fractions_over_seeds, shares_over_seeds
from jaxdiff.analysis.queries import format_mix
from jaxdiff.report.registry import TableRows, section
from jaxdiff.report.tables import value_columns
from jaxdiff.results import StudyResults, data_key


@section(
    "verdicts",
    title="Claims",
    caption="The claims with their verdicts: one primary claim, which was planned and whose rules "
    "were fixed before the runs, and the secondary claims. The interval of the primary claim "
    "decides only after both ends are widened by what unreadable samples could hide if the "
    "minority were lost 1.5 times as often as the majority (R = 1.5). R* is the ratio at which the "
    "interval would touch 0; the measured R is that of denoised held-out images. Secondary claims "
    "are corrected for their number (Holm), both intervals and verdicts; only the agreement with "
    "the trained share has its own level. All other tables and figures are exploratory.",
    topic="conclusions",
)
def verdicts(study: StudyResults) -> TableRows:
    """A row for each claim, the primary one first."""
    if not study.cells:
        return []
    return [_claim_columns(claim, study) for claim in judge_study(study)]


def _claim_columns(claim: Claim, study: StudyResults) -> dict[str, object]:
    estimate = claim.estimate
    widening = claim.widening
    widened: list[float | str] = ["", ""]
    if widening is not None and estimate.low is not None and estimate.high is not None:
        widened = [estimate.low - widening, estimate.high + widening]
    ratio = claim.critical_ratio
    return {
        "claim": claim.claim,
        "rank": claim.rank,
        "verdict": claim.verdict,
        "why": claim.why,
        "data": claim.data,
        "quantity": claim.quantity,
        **value_columns(estimate),
        "low at R = 1.5": widened[0],
        "high at R = 1.5": widened[1],
        "R*": "" if ratio is None else _format_ratio(ratio),
        **_arm_columns(claim.contrast, study),
        "seeds": claim.mean.n,
        "level": "" if claim.alpha is None else 1 - claim.alpha,
        "p": "" if claim.p_value is None else claim.p_value,
    }


def _arm_columns(contrast: Contrast | None, study: StudyResults) -> dict[str, object]:
    """The gate and the measured ratio of losses of both models; blank without a contrast."""
    columns: dict[str, object] = {}
    for i, place in enumerate(("shallow", "deep")):
        arm = None if contrast is None else contrast.arms[i]
        columns[f"gate, {place}"] = "" if arm is None else arm.gate
        ratio = None
        if contrast is not None and arm is not None:
            ratio = _measured_ratio(study, contrast, arm.model)
        columns[f"measured R, {place}"] = "" if ratio is None else _format_ratio(ratio)
    return columns


def _measured_ratio(study: StudyResults, contrast: Contrast, model: str) -> float | None:
    """The minority's mean loss over the majority's, of denoised held-out images; None if 0."""
    cells = [
        cell
        for cell in study.cells
        if cell.info.seed in contrast.changes and to_mix(data_key(cell)) in contrast.mixes
    ]
    means = {}
    for role in ("minority", "majority"):
        rows = [row for row in lost_fractions_over_seeds(cells, role) if row.model == model]
        means[role] = float(np.mean([float(row.estimate) for row in rows])) if rows else 0.0
    return means["minority"] / means["majority"] if means["majority"] > 0 else None


def _format_ratio(ratio: float) -> str:
    return "any" if math.isinf(ratio) else f"{ratio:.2f}"


@section(
    "over_seeds",
    title="Minority share over seeds",
    caption="Each model's mean share over its seeds, averaged on the logit scale, in the form of "
    "the share that the study names. The interval says where another set of seeds would put the "
    "mean; both roles (which class is the majority) have equal weight.",
    topic="shares",
)
def over_seeds(study: StudyResults) -> TableRows:
    """A row for each model and training data."""
    return [
        {
            **_model_columns(row),
            "trained share": row.mix.proportions[1] if row.mix.proportions else "",
            "share of each seed": ", ".join(f"{value:.3f}" for value in row.values),
            **_mean_columns(row, "share"),
        }
        for row in shares_over_seeds(study.cells)
    ]


@section(
    "losses",
    title="Loss by class over seeds",
    caption="The fraction of each class that the classifier calls neither class, among held-out "
    "images that the models noised and denoised. If the minority is lost more often, a gated share "
    "is too low; if two models lose it differently, their comparison is distorted.",
    topic="shares",
    method="loss-by-class",
)
def lost_fractions(study: StudyResults) -> TableRows:
    """A row for each model, training data and role."""
    return [
        {**_model_columns(row), "class": role, **_mean_columns(row, "loss")}
        for role in ("majority", "minority")
        for row in lost_fractions_over_seeds(study.cells, role)
    ]


def _model_columns(row: OverSeeds) -> dict[str, object]:
    return {
        "model": row.model,
        "bottleneck, px": "" if row.bottleneck is None else row.bottleneck,
        "data": format_mix(row.mix),
        "seeds": len(row.values),
    }


def _mean_columns(row: OverSeeds, name: str) -> dict[str, object]:
    values = value_columns(row.estimate)
    has_interval = row.estimate.low is not None
    return {
        f"mean {name}": values["value"],
        "low": values["low"],
        "high": values["high"],
        "note": "" if has_interval else "too few seeds for an interval",
    }
