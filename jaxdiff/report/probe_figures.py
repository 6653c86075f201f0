"""Figures of the Hessian-smoothness probe: against level, noise level and depth, and verdicts."""

import dataclasses
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdiff.analysis.probe_summary import Tally, tally_decreases
from jaxdiff.analysis.probed_models import ProbedModel, Quantity, group_cells
from jaxdiff.analysis.smoothness import WEIGHTS
from jaxdiff.report.style import INK, series_style, style_axes
from jaxdiff.results import CellResult

Models = Sequence[ProbedModel]
DrawPanel = Callable[[Axes, "Panel"], bool]  # whether anything was drawn

LINE_STYLES = {"trained": "-", "random": "--"}
FILL_STYLES = {"trained": "full", "random": "none"}
RANDOM_SHIFT = 0.06  # of random weights beside trained ones, in steps between models
TIME_SHIFT = 0.12  # of one noise level beside the next
DARK = "#1a1a1a"  # text on colored cells, in light and dark mode
LETTERS_PER_INCH = 15  # of the line under a figure


@dataclasses.dataclass(frozen=True)
class Panel:
    """One quantity of a figure.

    Parameters
    ----------
    title
        What is drawn.
    labels
        The labels of its reading.
    log
        Whether the axis is logarithmic, where all values are positive.
    """

    title: str
    labels: Mapping[str, Any]
    log: bool = True

    def at(self, prefix: str = "", **labels: Any) -> "Panel":
        """The panel with a prefix to its title and with more labels."""
        return Panel(f"{prefix}{self.title}", {**self.labels, **labels}, self.log)


class Quantiles(NamedTuple):
    """The 10 % quantile, the median and the 90 % quantile over the points."""

    low: float
    median: float
    high: float


PIXEL_PANELS = (
    Panel("|M|", {"reading": "denoiser", "name": "spectral_norm"}, log=False),
    Panel("tr M: dimensions kept", {"reading": "denoiser", "name": "trace"}),
    Panel("stable rank of M", {"reading": "denoiser", "name": "stable_rank"}),
    Panel("smallest eigenvalue of H", {"reading": "hessian", "name": "smallest"}, log=False),
)
MAP_PANELS = (
    Panel("|J|, pixels to level", {"reading": "maps", "name": "from_pixels"}),
    Panel("|J|, previous level to level", {"reading": "maps", "name": "step"}),
)
DECODER_PANEL = Panel("|H| of the decoder", {"reading": "decoder", "name": "total"})
MEMORY = {"reading": "memory", "name": "spectral_norm"}
MEMORY_PANELS = (
    Panel("|M| of the memory, raw tau", {**MEMORY, "tau": "raw"}),
    Panel("|M| of the memory, scaled tau", {**MEMORY, "tau": "scaled"}),
)


def plot_against_level(models: Models) -> Figure | None:
    """Every reading against the level, at the middle noise level.

    Theorem 1 asks for |J| below 1 (dotted) and concludes that the other curves fall.
    """
    times = _label_values(models, "t")
    t = times[len(times) // 2]

    def draw(ax: Axes, panel: Panel) -> bool:
        is_drawn = _draw_lines(ax, models, "level", panel.at(t=t))
        ax.set_xlabel(f"level, t = {t}", fontsize=8)
        ax.set_xticks(_label_values(models, "level"))
        if panel in MAP_PANELS:
            ax.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        return is_drawn

    handles = _model_handles(models)
    return _plot_panels(_level_panels(models), draw, handles, 3, describe_asymmetry(models))


def plot_against_noise(models: Models) -> Figure | None:
    """The curvature at the pixels against the noise level."""

    def draw(ax: Axes, panel: Panel) -> bool:
        is_drawn = _draw_lines(ax, models, "t", panel.at(level=0))
        ax.set_xlabel("noise level t", fontsize=8)
        return is_drawn

    handles = _model_handles(models)
    return _plot_panels(PIXEL_PANELS, draw, handles, 4, describe_asymmetry(models))


def plot_against_depth(models: Models) -> Figure | None:
    """Every model at the pixels and at its bottleneck, a color for each noise level."""
    times = _label_values(models, "t")
    names = [model.name for model in models]
    is_long = max(len(name) for name in names) > 8

    def draw(ax: Axes, panel: Panel) -> bool:
        is_drawn = False
        for i, t in enumerate(times):
            for weights in WEIGHTS:
                shift = TIME_SHIFT * (i - (len(times) - 1) / 2)
                if weights == "random":
                    shift += RANDOM_SHIFT
                labels = {"weights": weights, "t": t}
                is_drawn |= _draw_depths(ax, models, panel.at(**labels), i, shift)
        ax.set_xticks(
            range(len(models)),
            names,
            fontsize=7,
            rotation=25 if is_long else 0,
            ha="right" if is_long else "center",
        )
        return is_drawn

    pixels = [panel.at("pixels: ", level=0) for panel in PIXEL_PANELS[:2]]
    levels = [panel.at("bottleneck: ") for panel in _level_panels(models)]
    handles = []
    for i, t in enumerate(times):
        color, marker = series_style(i)
        handles.append(
            Line2D([], [], color=color, marker=marker, linestyle="none", label=f"t = {t}")
        )
    if _has_random(models):
        handles.append(
            Line2D(
                [],
                [],
                color=INK,
                marker="o",
                fillstyle="none",
                linestyle="none",
                label="random weights",
            )
        )
    return _plot_panels([*pixels, *levels], draw, handles, 4, describe_asymmetry(models))


def plot_verdicts(models: Models) -> Figure | None:
    """In how many decided comparisons from level to level the norm falls.

    A row for each model and weights, a column for each reading and scale.
    """
    tallies = [tally for tally in tally_decreases(models) if tally.kind == "level with level"]
    if all(tally.percent is None for tally in tallies):
        return None
    columns = list(dict.fromkeys((tally.quantity, tally.scale) for tally in tallies))
    probed = {(tally.model, tally.weights) for tally in tallies}
    names = [model.name for model in models]
    rows = [(name, w) for name in names for w in WEIGHTS if (name, w) in probed]

    size = (1.15 * len(columns) + 1.8, 0.5 * len(rows) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    ax = figure.add_subplot()
    _draw_tallies(ax, tallies, rows, columns)
    column_names = ["\n".join(filter(None, (*quantity, scale))) for quantity, scale in columns]
    ax.set_xticks(range(len(columns)), column_names, fontsize=7)
    ax.set_yticks(range(len(rows)), [f"{name}, {weights}" for name, weights in rows], fontsize=8)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


def plot_study(cells: Sequence[CellResult]) -> Figure:
    """The models of a study's first data and seed against depth."""
    first_group = next(iter(group_cells(cells).values()))
    return plot_against_depth(first_group) or Figure()


def describe_asymmetry(models: Models) -> str:
    """How much of each trained network's M is of no Hessian; empty where it was not measured."""
    medians = []
    for model in models:
        labels = {"reading": "denoiser", "name": "asymmetry", "weights": "trained"}
        values = [reading.values for reading in model.readings if reading.matches(**labels)]
        defined = [value for array in values for value in array if np.isfinite(value)]
        if defined:
            medians.append(f"{np.median(defined):.2f} ({model.name})")
    if not medians:
        return ""
    return (
        "The trained networks' M is no Hessian: the median of |M - M^T| / |M + M^T|, 0 for a "
        f"gradient, is {', '.join(medians)}. Norms of M and H are of the symmetric part."
    )


FIGURES: dict[str, Callable[[Models], Figure | None]] = {
    "against_level": plot_against_level,
    "against_noise": plot_against_noise,
    "against_depth": plot_against_depth,
    "verdicts": plot_verdicts,
}


def _level_panels(models: Models) -> list[Panel]:
    """The panels that exist at every level; the pull-back at its largest rank."""
    panels = [*MAP_PANELS, DECODER_PANEL, *MEMORY_PANELS]
    ranks = _label_values(models, "rank")
    if ranks:
        labels = {"reading": "pull_back", "name": "total", "rank": ranks[-1]}
        panels.insert(len(MAP_PANELS), Panel(f"|H| pulled back, r = {ranks[-1]}", labels))
    return panels


def _plot_panels(
    panels: Sequence[Panel], draw: DrawPanel, handles: Sequence[Line2D], columns: int, note: str
) -> Figure | None:
    """The panels that have something to draw, over a note; None where there is none."""
    # Drawn once on trial, since the layout depends on how many panels have something to show.
    filled = [panel for panel in panels if draw(Figure().add_subplot(), panel)]
    if not filled:
        return None
    columns = min(columns, len(filled))
    rows = -(-len(filled) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.2, 2.5 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, filled, strict=False):
        draw(ax, panel)
        ax.set_title(panel.title, fontsize=9)
        ax.set_yscale("log" if panel.log and _is_positive(ax) else "linear")
        style_axes(ax).tick_params(labelsize=8)
    for ax in axes[len(filled) :]:
        ax.set_visible(False)
    # As the legend's title the note takes part in the layout; a text of its own would lie on it.
    legend = figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        title=textwrap.fill(note, int(LETTERS_PER_INCH * figure.get_figwidth())),
        title_fontsize=8,
    )
    legend.get_title().set_multialignment("center")
    return figure


def _draw_lines(ax: Axes, models: Models, x_label: str, panel: Panel) -> bool:
    """The median against a label with its band, a color for each model; dashed if random."""
    is_drawn = False
    for i, model in enumerate(models):
        color, marker = series_style(i)
        for weights in WEIGHTS:
            points = []
            for x in model.label_values(x_label):
                quantiles = _find_quantiles(model, panel.at(weights=weights, **{x_label: x}))
                if quantiles is not None:
                    points.append((x, *quantiles))
            if not points:
                continue
            is_drawn = True
            x, low, median, high = np.array(points).T
            ax.plot(
                x,
                median,
                marker=marker,
                linestyle=LINE_STYLES[weights],
                color=color,
                markersize=4,
                linewidth=1.2,
                fillstyle=FILL_STYLES[weights],
            )
            if weights == "trained":
                ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    return is_drawn


def _draw_depths(ax: Axes, models: Models, panel: Panel, series: int, shift: float) -> bool:
    """One reading of every model at its bottleneck, unless the panel names another level."""
    is_drawn = False
    color, marker = series_style(series)
    for i, model in enumerate(models):
        level = panel.labels.get("level", model.depth)
        quantiles = _find_quantiles(model, panel.at(level=level))
        if quantiles is None:
            continue
        is_drawn = True
        low, median, high = quantiles
        ax.errorbar(
            i + shift,
            median,
            [[median - low], [high - median]],
            fmt=marker,
            color=color,
            capsize=2,
            markersize=4,
            fillstyle=FILL_STYLES[panel.labels["weights"]],
        )
    return is_drawn


def _draw_tallies(
    ax: Axes,
    tallies: Sequence[Tally],
    rows: Sequence[tuple[str, str]],
    columns: Sequence[tuple[Quantity, str]],
) -> None:
    """A colored grid of percentages; a cell without a decided point stays empty."""
    grid = np.full((len(rows), len(columns)), np.nan)
    for tally in tallies:
        if tally.percent is None:
            continue
        row = rows.index((tally.model, tally.weights))
        column = columns.index((tally.quantity, tally.scale))
        grid[row, column] = tally.percent
        text = f"{tally.percent:.0f} %\nof {tally.decided}"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color=DARK)
    ax.imshow(grid, cmap="RdBu", vmin=0, vmax=100, aspect="auto", alpha=0.6)


def _find_quantiles(model: ProbedModel, panel: Panel) -> Quantiles | None:
    norms = model.find(**panel.labels)
    if norms is None or not np.isfinite(norms.values).any():
        return None
    return Quantiles(*np.nanquantile(norms.values, [0.1, 0.5, 0.9]).tolist())


def _model_handles(models: Models) -> list[Line2D]:
    handles = []
    for i, model in enumerate(models):
        color, marker = series_style(i)
        label = f"{model.name} ({model.bottleneck} px)"
        handles.append(Line2D([], [], color=color, marker=marker, label=label))
    if _has_random(models):
        handles.append(Line2D([], [], color=INK, linestyle="--", label="random weights"))
    return handles


def _label_values(models: Models, label: str) -> list[Any]:
    """The values of a label that occur in any model, in order."""
    return sorted({value for model in models for value in model.label_values(label)})


def _has_random(models: Models) -> bool:
    return "random" in _label_values(models, "weights")


def _is_positive(ax: Axes) -> bool:
    """Whether all lines can stand on a logarithmic axis."""
    values = [np.asarray(line.get_ydata(), np.float64) for line in ax.lines]
    return all(np.all(y > 0) for y in values)
