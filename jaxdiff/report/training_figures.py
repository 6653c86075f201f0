"""The minority's share along training, against the held-out loss that it is reached at."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import logit

from jaxdiff.analysis.along_training import Checkpoint, compare_at_equal_loss, trajectory
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.queries import format_mix, group_by_mix, group_key, model_names
from jaxdiff.report.registry import figure
from jaxdiff.report.style import INK, color_of, series_style, style_axes
from jaxdiff.results import CellResult, StudyResults

MIN_CHECKPOINTS = 3  # two points are no course


@figure(
    "share_along_training",
    title="The minority's share against held-out loss",
    caption="The minority's logit share against the loss of unseen images along training, a line "
    "for each cell and a color for each model. Where one model's line lies below another's at "
    "equal loss, they differ by more than their training progress. A line goes from the first "
    "checkpoint with samples (right) to the end of training (left, large mark). Rings: the models "
    "of the primary claim at equal loss. Dashed: the trained share.",
    topic="training",
    needs=("checkpoints", "share"),
    method="secondary-claims",
)
def share_along_training(study: StudyResults) -> Figure | None:
    """A panel for each training data; None where no cell has three checkpoints with samples."""
    panels = {
        mix: courses
        for mix, cells in group_by_mix(study.cells).items()
        if (courses := _find_courses(cells))
    }
    if not panels:
        return None
    plot = Figure(figsize=(1.4 + 3.8 * len(panels), 3.6), layout="constrained")
    axes = plot.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    models = model_names(study.cells)
    primary = Plan.from_study(study.settings).primary_pair(study.cells)
    for ax, (mix, courses) in zip(axes, panels.items(), strict=True):
        _draw_courses(style_axes(ax), courses, models)
        _ring_common_losses(ax, [c for c in study.cells if group_key(c) == mix], primary, models)
        if mix.proportions:
            ax.axhline(float(logit(mix.proportions[1])), color=INK, linestyle="--", linewidth=0.8)
        ax.set_title(format_mix(mix), fontsize=9)
    axes[0].set_ylabel("logit of the minority's share")
    axes[0].legend(frameon=False, fontsize=8)
    return plot


def _find_courses(cells: Sequence[CellResult]) -> list[tuple[str, list[Checkpoint]]]:
    """The model and the checkpoints of each cell that has enough of them."""
    courses = [(cell.info.model, trajectory(cell)) for cell in cells]
    return [course for course in courses if len(course[1]) >= MIN_CHECKPOINTS]


def _draw_courses(
    ax: Axes, courses: Sequence[tuple[str, list[Checkpoint]]], models: Sequence[str]
) -> None:
    labeled = set()
    for model, checkpoints in courses:
        color, marker = series_style(models.index(model))
        losses = [math.exp(checkpoint.log_loss) for checkpoint in checkpoints]
        logits = [checkpoint.reading.logit_share for checkpoint in checkpoints]
        label = None if model in labeled else f"model {model}"
        labeled.add(model)
        ax.plot(losses, logits, color=color, linewidth=0.9, alpha=0.6)
        ax.plot(losses[:-1], logits[:-1], marker, color=color, markersize=3)
        ax.plot(losses[-1:], logits[-1:], marker, color=color, markersize=7, label=label)
    ax.set_xscale("log")
    ax.set_xlabel("eps loss of unseen images")


def _ring_common_losses(
    ax: Axes, cells: Sequence[CellResult], primary: tuple[str, str], models: Sequence[str]
) -> None:
    """A ring on the course of either model for each seed of these cells, all of one mix."""
    by_name = {(cell.info.model, cell.info.seed): cell for cell in cells}
    for seed in sorted({cell.info.seed for cell in cells}):
        shallow, deep = (by_name.get((model, seed)) for model in primary)
        if shallow is None or deep is None or shallow is deep:
            continue
        comparison = compare_at_equal_loss(shallow, deep)
        if comparison is None:
            continue
        for model, reading in zip(primary, comparison.readings, strict=True):
            ax.plot(
                math.exp(comparison.log_loss),
                reading.logit_share,
                "o",
                color=color_of(models.index(model)),
                markersize=9,
                fillstyle="none",
            )
