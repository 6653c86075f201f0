"""Figures of the claims about two models: contrasts, their seeds, and what could undo them."""

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
from jaxdiff.analysis.queries import format_mix
from jaxdiff.analysis.verdicts import HALF_THE_EFFECT, LOST_RATIO
from jaxdiff.report import paper
from jaxdiff.report.registry import figure
from jaxdiff.report.style import INK, color_of, marker_of, name_points, new_axes, style_axes
from jaxdiff.results import StudyResults

SEED_SPREAD = 0.3  # height of a claim's seeds, in steps between claims
LARGEST_RATIO = 5.0  # of losses, in the figure


@figure(
    "contrasts",
    title="Change of the minority's logit share with depth",
    caption="The change of the minority's logit share, deep minus shallow, for each claim about "
    "two models. Left of 0 the deeper model draws fewer of the minority. Each row shows the seeds "
    "(a color for each class that has the majority), the mean and its interval, and in gray the "
    "interval widened for unreadable samples. Dashed: half the effect and the effect that the "
    "paper reports on CelebA; dotted: what its Theorem 2 predicts for these shares, if depth moves "
    "the exponent as in its Table 2.",
    topic="conclusions",
    needs=("share",),
    method="contrast",
)
def contrasts(study: StudyResults) -> Figure | None:
    """The primary claim and the secondary ones about two models."""
    drawn = _claims_about_models(study)
    if not drawn:
        return None
    plot, ax = new_axes(width=6.4, height=1.4 + 0.7 * len(drawn))
    majorities = _find_majorities(drawn)
    for row, claim in enumerate(drawn):
        _draw_claim(ax, -float(row), claim, majorities)
    for effect in (HALF_THE_EFFECT, paper.EFFECT):
        ax.axvline(effect, color=INK, linestyle="--", linewidth=0.8)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.set_yticks([-row for row in range(len(drawn))], [_name(claim) for claim in drawn])
    ax.set_ylim(0.6 - len(drawn), 0.6)
    ax.grid(visible=False)
    ax.set_xlabel("change of the minority's logit share, deep - shallow")
    _add_majority_legend(plot, majorities)
    return plot


def _claims_about_models(study: StudyResults) -> list[Claim]:
    """Those with a contrast of at least one seed, the primary claim first."""
    if not study.cells:
        return []
    return [c for c in judge_study(study) if c.contrast is not None and c.mean.n]


def _find_majorities(claims: Sequence[Claim]) -> list[int]:
    """The classes that have the majority in a seed of the claims."""
    contrasts = [claim.contrast for claim in claims if claim.contrast is not None]
    return sorted({label for contrast in contrasts for label in contrast.majorities.values()})


def _draw_claim(ax: Axes, y: float, claim: Claim, majorities: Sequence[int]) -> None:
    contrast = claim.contrast
    assert contrast is not None
    seeds = list(contrast.changes)
    # One seed stands on the line itself.
    offsets = np.linspace(0.5, -0.5, len(seeds)) if len(seeds) > 1 else np.zeros(1)
    heights = y + SEED_SPREAD * offsets
    for seed, height in zip(seeds, heights, strict=True):
        index = majorities.index(contrast.majorities[seed])
        change = contrast.changes[seed]
        (point,) = ax.plot(change, height, marker_of(index), color=color_of(index), markersize=5)
        name_points(point, [f"seed {seed}: {change:.3f}"])
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
    name = f"{contrast.deep.model} minus {contrast.shallow.model}"
    mix = f"\n{format_mix(contrast.mixes[0])}" if len(contrast.mixes) == 1 else "\nall data"
    condition = f"\n{contrast.condition}" if contrast.condition else mix
    return f"{name}{condition}\n{claim.verdict}"


def _predicted_change(contrast: Contrast) -> float:
    """The mean change of the logit where the exponent goes from the paper's "2" to its "6"."""
    first, last = paper.EXPONENTS
    logits = [float(logit(mix.proportions[1])) for mix in contrast.mixes]
    return (last - first) * float(np.mean(logits))


def _add_majority_legend(plot: Figure, majorities: Sequence[int]) -> None:
    handles = []
    for i, majority in enumerate(majorities):
        label = f"majority: class {majority}"
        line = Line2D([], [], color=color_of(i), marker=marker_of(i), linestyle="none", label=label)
        handles.append(line)
    plot.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)


@figure(
    "seed_lines",
    title="The minority's logit share, seed by seed",
    caption="The minority's logit share of the shallow and of the deep model, a line for each seed "
    "and a color for each class that has the majority. Lines that fall together show an effect of "
    "depth; lines that cross show differences between seeds. Black: the mean of the roles' means. "
    "Dashed: the trained share.",
    topic="conclusions",
    needs=("share",),
    method="contrast",
)
def seed_lines(study: StudyResults) -> Figure | None:
    """A panel for each claim about two models that has an interval."""
    drawn = [claim for claim in _claims_about_models(study) if claim.mean.dof > 0]
    if not drawn:
        return None
    plot = Figure(figsize=(1.2 + 2.6 * len(drawn), 3.6), layout="constrained")
    panels = np.atleast_1d(plot.subplots(1, len(drawn), sharey=True))
    majorities = _find_majorities(drawn)
    for ax, claim in zip(panels, drawn, strict=True):
        assert claim.contrast is not None
        _draw_seeds(style_axes(ax), claim.contrast, majorities)
        condition = f"\n{claim.contrast.condition}" if claim.contrast.condition else ""
        ax.set_title(f"{claim.verdict}{condition}", fontsize=9)
    panels[0].set_ylabel("logit of the minority's share")
    _add_majority_legend(plot, majorities)
    return plot


def _draw_seeds(ax: Axes, contrast: Contrast, majorities: Sequence[int]) -> None:
    ends = []
    for seed, logits in contrast.logits.items():
        index = majorities.index(contrast.majorities[seed])
        (line,) = ax.plot((0, 1), logits, color=color_of(index), linewidth=1, alpha=0.8)
        name_points(line, [f"seed {seed}: {value:.3f}" for value in logits])
        line.set_marker(marker_of(index))
        line.set_markersize(4)
        ends.append((contrast.majorities[seed], *logits))
    table = np.array(ends)
    means = [table[table[:, 0] == label, 1:].mean(axis=0) for label in sorted(set(table[:, 0]))]
    ax.plot((0, 1), np.mean(means, axis=0), color=INK, linewidth=2.4)
    trained = float(np.mean([logit(mix.proportions[1]) for mix in contrast.mixes]))
    ax.axhline(trained, color=INK, linestyle="--", linewidth=0.8)
    ax.set_xlim(-0.2, 1.2)
    ax.set_xticks((0, 1), [arm.model for arm in contrast.arms])


@figure(
    "sensitivity",
    title="How far unreadable samples could move the primary claim",
    caption="Both ends of the primary claim's interval (solid), widened as if the minority were "
    "lost R times as often as the majority. Right of R* (marked) the interval reaches 0, and the "
    "sign of the change is not safe from this objection. The rule decides at R = 1.5 (dotted). "
    "Dashed: half the effect and the effect that the paper reports on CelebA.",
    topic="conclusions",
    needs=("share", "quality"),
    method="sensitivity",
)
def sensitivity(study: StudyResults) -> Figure | None:
    """The primary claim alone; None without its interval."""
    primary = next((c for c in _claims_about_models(study) if c.rank == "primary"), None)
    if primary is None or primary.contrast is None:
        return None
    estimate = primary.estimate
    if estimate.low is None or estimate.high is None:
        return None
    ratios = np.linspace(1.0, LARGEST_RATIO, 81)
    shifts = np.array([primary.contrast.widening(float(ratio)) for ratio in ratios])
    plot, ax = new_axes()
    # Beyond a ratio that would lose the whole minority, nothing bounds the share.
    is_finite = np.isfinite(shifts)
    for end, sign in ((estimate.low, -1), (estimate.high, 1)):
        ax.plot(ratios[is_finite], (end + sign * shifts)[is_finite], color=color_of(0))
    ax.axhline(float(estimate), color=color_of(0), linewidth=0.8)
    for effect in (HALF_THE_EFFECT, paper.EFFECT):
        ax.axhline(effect, color=INK, linestyle="--", linewidth=0.8)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.axvline(LOST_RATIO, color=INK, linestyle=":", linewidth=1)
    critical = primary.critical_ratio
    if critical is not None and 1 < critical <= LARGEST_RATIO:
        ax.plot(critical, 0, marker_of(0), color=color_of(1))
        ax.annotate(
            f"R* = {critical:.2f}", (critical, 0), xytext=(4, 6), textcoords="offset points"
        )
    elif critical is not None and math.isinf(critical):
        ax.set_title("no R moves the interval to 0", fontsize=9)
    ax.set_xlabel("R: loss of the minority over that of the majority")
    ax.set_ylabel("change of the logit share")
    return plot
