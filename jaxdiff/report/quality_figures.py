"""Figures of quality: what the samples show, and what is lost of each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdiff.analysis.queries import Mix, format_mix, group_by_mix, model_names
from jaxdiff.analysis.verdicts import MIN_GATE
from jaxdiff.report.registry import figure
from jaxdiff.report.style import COLORS, color_of, marker_of, new_axes, style_axes
from jaxdiff.results import CellResult, StudyResults

ROLES = ("majority", "minority")
SERIES_OFFSET = 0.13  # between classes and roles, as a fraction of the distance of two models


@figure(
    "gate",
    title="Quality gate",
    caption="The fraction of samples that the classifier calls a trained class (the gate), another "
    "class of the dataset, or none. No claim is made about a model whose mean gate over seeds is "
    "left of the dotted line at 80 %.",
    topic="quality",
    needs=("quality",),
)
def quality_gate(study: StudyResults) -> Figure:
    """A bar for each result in three parts."""
    results = [r for r in study.results if r.find("quality", "gate") is not None]
    plot, ax = new_axes(height=0.35 * len(results) + 1.2)
    left = np.zeros(len(results))
    names = [result.name for result in results]
    for estimate, label, color in (
        ("gate", "a trained class", COLORS[0]),
        ("other_class", "another class", COLORS[4]),
        ("no_class", "none", COLORS[3]),
    ):
        shares = [result.find("quality", estimate) for result in results]
        widths = np.array([0.0 if share is None else 100 * float(share) for share in shares])
        ax.barh(names, widths, left=left, color=color, label=label, height=0.6)
        left += widths
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.axvline(100 * MIN_GATE, color="white", linestyle=":", linewidth=1.5)
    ax.set_xlabel("samples, %")
    plot.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return plot


@figure(
    "loss_by_class",
    title="What is lost of each class",
    caption="The fraction of held-out images that the classifier calls neither class after a model "
    "has noised and denoised them. If an open mark is above the filled one of its color, the "
    "minority is lost more often, and gated shares of it are too low. Each class has a color, "
    "filled where it is the majority and open where it is the minority. Small marks are seeds, the "
    "large one is their mean, with their range.",
    topic="quality",
    needs=("loss_by_class",),
    method="loss-by-class",
)
def loss_by_class(study: StudyResults) -> Figure | None:
    """A panel for each training data, a column for each model."""
    panels = {
        mix: cells
        for mix, cells in group_by_mix(study.cells).items()
        if any(cell.estimates("loss_by_class", "lost") for cell in cells)
    }
    if not panels:
        return None
    classes = sorted({label for cell in study.cells for label in _classes(cell).values()})
    plot = Figure(figsize=(1.6 + 2.6 * len(panels), 3.4), layout="constrained")
    axes = plot.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (mix, cells) in zip(axes, panels.items(), strict=True):
        _draw_lost_fractions(style_axes(ax), cells, classes, mix)
    axes[0].set_ylabel("read as neither class, %")
    axes[0].set_ylim(bottom=0)
    plot.legend(
        handles=[
            _mark(classes.index(label), role, label=f"class {label}, {role}")
            for label in classes
            for role in ROLES
        ],
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    return plot


def _classes(cell: CellResult) -> dict[str, int]:
    """The class in each role."""
    return {"majority": cell.info.majority, "minority": cell.info.minority}


def _draw_lost_fractions(
    ax: Axes, cells: Sequence[CellResult], classes: Sequence[int], mix: Mix
) -> None:
    models = model_names(cells)
    series = [(label, role) for label in classes for role in ROLES]
    for column, model in enumerate(models):
        for i, (label, role) in enumerate(series):
            lost = [
                100 * float(estimate)
                for cell in cells
                if cell.info.model == model and _classes(cell)[role] == label
                for estimate in cell.estimates("loss_by_class", "lost", role=role)
            ]
            if not lost:
                continue
            x = column + SERIES_OFFSET * (i - (len(series) - 1) / 2)
            index = classes.index(label)
            ax.plot((x, x), (min(lost), max(lost)), color=color_of(index), linewidth=1)
            if len(lost) > 1:
                ax.plot([x] * len(lost), lost, ".", color=color_of(index), markersize=3)
            mean = _mark(index, role)
            mean.set_data([x], [float(np.mean(lost))])
            ax.add_line(mean)
    ax.set_xlim(-0.6, len(models) - 0.4)
    ax.set_xticks(range(len(models)), models)
    ax.set_xlabel("model")
    ax.set_title(format_mix(mix), fontsize=9)
    # add_line extends the limits of the data alone, not those of the view.
    ax.autoscale_view(scalex=False)


def _mark(index: int, role: str, label: str = "") -> Line2D:
    """The mark of a class, filled in the role of the majority."""
    return Line2D(
        [],
        [],
        color=color_of(index),
        marker=marker_of(index),
        linestyle="none",
        markersize=7,
        fillstyle="full" if role == "majority" else "none",
        label=label,
    )
