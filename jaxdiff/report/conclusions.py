"""What may be concluded: claims with their verdicts, their figure, the shares behind them."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import logit

from jaxdiff.analysis.claim import Claim
from jaxdiff.analysis.claims import judge_study
from jaxdiff.analysis.contrasts import Contrast
from jaxdiff.analysis.over_seeds import OverSeeds, losses_over_seeds, shares_over_seeds
from jaxdiff.analysis.queries import format_mix, group_key
from jaxdiff.analysis.verdicts import HALF_THE_EFFECT
from jaxdiff.report import paper
from jaxdiff.report.registry import TableRows, figure, section
from jaxdiff.report.style import INK, color_of, marker_of, new_axes
from jaxdiff.report.tables import value_columns
from jaxdiff.results import StudyResults

SEED_SPREAD = 0.3  # height of a claim's seeds, in steps between claims


@section(
    "verdicts",
    title="Claims",
    caption="One primary claim was planned, and the rules of its verdict were fixed before the "
    "runs. Its interval decides only after both ends are widened by what unreadable samples could "
    "hide if the minority were lost 1.5 times as often as the majority (R = 1.5). R* is the ratio "
    "at which the interval touches 0; the measured R is that of denoised held-out images. "
    "Secondary claims are corrected for their number (Holm), intervals and verdicts alike; only "
    "the agreement with the trained share has a level of its own. All other tables and figures "
    "are exploratory.",
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
        if cell.info.seed in contrast.changes and group_key(cell) in contrast.mixes
    ]
    means = {}
    for role in ("minority", "majority"):
        rows = [row for row in losses_over_seeds(cells, role) if row.model == model]
        means[role] = float(np.mean([float(row.estimate) for row in rows])) if rows else 0.0
    return means["minority"] / means["majority"] if means["majority"] > 0 else None


def _format_ratio(ratio: float) -> str:
    return "any" if math.isinf(ratio) else f"{ratio:.2f}"


@section(
    "over_seeds",
    title="Minority share over seeds",
    caption="The share in the form that the study names, the mean over seeds on the logit scale. "
    "The interval says how much another seed would differ; seeds with either class as the majority "
    "are weighted equally.",
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
    caption="The fraction of each class that is read as neither, among held-out images that the "
    "models noised and denoised. A gated share reads too low where the minority is lost more "
    "often; a comparison of models suffers where they lose it differently.",
    topic="shares",
    method="loss-by-class",
)
def losses(study: StudyResults) -> TableRows:
    """A row for each model, training data and role."""
    return [
        {**_model_columns(row), "class": role, **_mean_columns(row, "loss")}
        for role in ("majority", "minority")
        for row in losses_over_seeds(study.cells, role)
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


@figure(
    "contrasts",
    title="Change of the minority's logit share with depth",
    caption="A row for each claim about two models: its seeds (a color for each class that has the "
    "majority), the mean and its interval, and in gray the interval widened for unreadable "
    "samples. Left of 0 the deeper model draws fewer of the minority. Dashed: half the effect and "
    "the effect that the paper reports on CelebA; dotted: what its Theorem 2 predicts for these "
    "shares, if depth moves the exponent as its Table 2 has it.",
    topic="conclusions",
    needs=("share",),
    method="contrast",
)
def contrasts(study: StudyResults) -> Figure | None:
    """The primary claim and the secondary ones about two models."""
    if not study.cells:
        return None
    judged = judge_study(study)
    drawn = [claim for claim in judged if claim.contrast is not None and claim.mean.n]
    if not drawn:
        return None
    plot, ax = new_axes(width=6.4, height=1.4 + 0.7 * len(drawn))
    roles = sorted({role for c in drawn if c.contrast for role in c.contrast.roles.values()})
    for row, claim in enumerate(drawn):
        _draw_claim(ax, -float(row), claim, roles)
    for effect in (HALF_THE_EFFECT, paper.EFFECT):
        ax.axvline(effect, color=INK, linestyle="--", linewidth=0.8)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks([-row for row in range(len(drawn))], [_name(claim) for claim in drawn])
    ax.set_ylim(0.6 - len(drawn), 0.6)
    ax.grid(visible=False)
    ax.set_xlabel("change of the logit share of the minority, deep less shallow")
    _add_roles_legend(plot, roles)
    return plot


def _draw_claim(ax: Axes, y: float, claim: Claim, roles: Sequence[int]) -> None:
    contrast = claim.contrast
    assert contrast is not None
    seeds = list(contrast.changes)
    # One seed stands on the line itself.
    offsets = np.linspace(0.5, -0.5, len(seeds)) if len(seeds) > 1 else np.zeros(1)
    heights = y + SEED_SPREAD * offsets
    for seed, height in zip(seeds, heights, strict=True):
        index = roles.index(contrast.roles[seed])
        change = contrast.changes[seed]
        ax.plot(change, height, marker_of(index), color=color_of(index), markersize=5)
    estimate = claim.estimate
    if estimate.low is not None and estimate.high is not None:
        widening = claim.widening or 0.0
        ends = (estimate.low - widening, estimate.high + widening)
        ax.plot(ends, (y, y), color=INK, linewidth=7, alpha=0.18, solid_capstyle="butt")
        ax.plot((estimate.low, estimate.high), (y, y), color=INK, linewidth=1.6)
    ax.plot(float(estimate), y, "|", color=INK, markersize=16, markeredgewidth=2)
    # It depends on the shares, and so on the claim.
    prediction = _predicted_change(contrast)
    ax.plot((prediction, prediction), (y - 0.3, y + 0.3), ":", color=INK, linewidth=1.2)


def _name(claim: Claim) -> str:
    contrast = claim.contrast
    assert contrast is not None
    name = f"{contrast.deep.model} less {contrast.shallow.model}"
    mix = f"\n{format_mix(contrast.mixes[0])}" if len(contrast.mixes) == 1 else "\nall data"
    return f"{name}{mix}\n{claim.verdict}"


def _predicted_change(contrast: Contrast) -> float:
    """The mean change of the logit where the exponent goes from the paper's "2" to its "6"."""
    first, last = paper.EXPONENTS
    logits = [float(logit(mix.proportions[1])) for mix in contrast.mixes]
    return (last - first) * float(np.mean(logits))


def _add_roles_legend(plot: Figure, roles: Sequence[int]) -> None:
    handles = []
    for i, role in enumerate(roles):
        label = f"majority: class {role}"
        line = Line2D([], [], color=color_of(i), marker=marker_of(i), linestyle="none", label=label)
        handles.append(line)
    plot.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
