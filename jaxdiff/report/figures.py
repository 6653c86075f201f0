"""The figures of a study: any measure against depth, grids of samples, and the loss."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxdiff.analysis.queries import (
    Mix,
    format_mix,
    group_by_mix,
    group_key,
    model_name,
    model_names,
    seed_of,
)
from jaxdiff.report import probe_figures
from jaxdiff.report.registry import figure
from jaxdiff.report.style import COLORS, INK, color_of, name_points, new_axes, series_style
from jaxdiff.results import CellInfo, Result, Section, StudyResults

MAX_COLUMNS = 16
MAX_NEAREST_MODELS = 8

# Between models of different seeds or training data, as a fraction of the distance of two depths.
SEED_OFFSET = 0.12  # at most: all seeds of a model take SEEDS_WIDTH
SEEDS_WIDTH = 0.7
MIX_OFFSET = 0.04


class _Interval(NamedTuple):
    """A model's place on the axis, an estimate with its interval, and whose it is."""

    x: float
    low: float
    value: float
    high: float
    name: str


def against_depth(results: Sequence[Result], section: Section) -> Figure | None:
    """One estimate of every result with its interval, by model; None where none has a value.

    Each mix of the training data has a color and a marker, and models of several seeds stand side
    by side.
    """
    drawing = section.figure
    if drawing is None:
        return None
    plot, ax = new_axes()
    names = model_names(results)
    groups = group_by_mix(results)
    for i, (mix, group) in enumerate(groups.items()):
        intervals = _intervals(group, section.name, drawing.estimate, names)
        if intervals:
            _draw_intervals(ax, intervals, i, scale=drawing.scale, label=format_mix(mix))
    if not ax.containers:  # no result has a value
        return None
    for i, (mix, group) in enumerate(groups.items()):
        reference = _reference_value(group, mix, section.name, drawing.reference)
        if reference is not None:
            height = drawing.scale * reference
            ax.axhline(height, color=color_of(i), linestyle="--", linewidth=1)
    if drawing.reference == "trained":  # a share starts at 0
        ax.set_ylim(bottom=0)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel("model (depth)" if isinstance(results[0].info, CellInfo) else "set")
    ax.set_ylabel(drawing.label)
    ax.legend(frameon=False, fontsize=8)
    return plot


def _intervals(
    results: Sequence[Result], section: str, name: str, names: Sequence[str]
) -> list[_Interval]:
    estimates = [(result, result.find(section, name)) for result in results]
    defined = [(r, e) for r, e in estimates if e is not None and e.value is not None]
    # Centered on the model, so that one seed stands exactly above its name.
    seeds = sorted({seed_of(result) for result, _ in defined})
    distance = min(SEED_OFFSET, SEEDS_WIDTH / max(len(seeds), 1))
    intervals = []
    for result, estimate in defined:
        offset = distance * (seeds.index(seed_of(result)) - (len(seeds) - 1) / 2)
        value = float(estimate)
        # Without an interval the bar has no length.
        low = value if estimate.low is None else estimate.low
        high = value if estimate.high is None else estimate.high
        x = names.index(model_name(result)) + offset
        intervals.append(_Interval(x, low, value, high, result.name))
    return intervals


def _draw_intervals(
    ax: Axes, intervals: Sequence[_Interval], series: int, *, scale: float, label: str
) -> None:
    table = np.array([interval[:4] for interval in intervals])
    x = table[:, 0] + MIX_OFFSET * series
    low, value, high = scale * table[:, 1:].T
    color, marker = series_style(series)
    bars = [value - low, high - value]
    container = ax.errorbar(x, value, bars, fmt=marker, color=color, capsize=3, label=label)
    texts = [
        f"{interval.name}: {center:.4g} [{start:.4g}, {end:.4g}]"
        for interval, start, center, end in zip(intervals, low, value, high, strict=True)
    ]
    name_points(container.lines[0], texts)


def _reference_value(
    results: Sequence[Result], mix: Mix, section: str, reference: str
) -> float | None:
    """The height of the dashed line; None where there is none."""
    if not reference:
        return None
    if reference == "trained":
        return mix.proportions[1] if mix.proportions else None
    estimates = [result.find(section, reference) for result in results]
    values = [e.value for e in estimates if e is not None and e.value is not None]
    return float(np.mean(values)) if values else None


@figure(
    "samples",
    title="The same noise in every model",
    caption="Samples of all models from the same noises: a row for each model, a column for each "
    "noise. Look for columns that change as depth grows, and for frames of either color; the table "
    "of flips counts them over all samples of a seed. A frame marks a sample whose class differs "
    "from that of the shallowest model of the seed: orange if it is the majority, blue if the "
    "minority, dotted pink if neither.",
    topic="samples",
    needs=("common",),
    is_grid=True,
)
def common_samples(study: StudyResults) -> Figure | None:
    """Samples of the noise bank that all seeds share."""
    results = _in_grid_order([result for result in study.results if len(result.common)])
    columns = min([MAX_COLUMNS, *(len(result.common) for result in results)])
    plot, panels = _new_grid(len(results), columns)
    for row, result in zip(panels, results, strict=True):
        _name_row(row[0], _grid_label(result))
        shallowest = _first_of_seed(results, result)
        for i, ax in enumerate(row):
            _draw_image(ax, result.common[i])
            if result.common_labels[i] != shallowest.common_labels[i]:
                _draw_frame(ax, int(result.common_labels[i]), result)
    return plot


@figure(
    "sets",
    title="Samples",
    caption="The first images of each model or set, one row each. Look for what the rows have in "
    "common, and for images that are wrong.",
    topic="samples",
    needs=("samples",),
    is_grid=True,
    method="samples",
)
def first_samples(study: StudyResults) -> Figure | None:
    """The first samples of each result that has none from the common noise bank."""
    results = _in_grid_order([result for result in study.results if not len(result.common)])
    if not results:
        return None
    columns = min([MAX_COLUMNS, *(len(result.samples) for result in results)])
    plot, panels = _new_grid(len(results), columns)
    for row, result in zip(panels, results, strict=True):
        _name_row(row[0], _grid_label(result))
        for i, ax in enumerate(row):
            _draw_image(ax, result.samples[i])
    return plot


@figure(
    "nearest",
    title="Samples and their nearest training images",
    caption="Samples of each model, and under each sample the training image that is nearest in "
    "pixels. A pair that shows the same image is memorization. A pair that is only similar is not: "
    "held-out images have near neighbors too.",
    topic="memorization",
    needs=("nearest",),
    is_grid=True,
    method="neighbors",
)
def nearest_training_images(study: StudyResults) -> Figure:
    """Two rows for each model of the first seed."""
    # Other seeds would repeat the picture; the table has all of them.
    seed = seed_of(study.results[0])
    same_seed = [r for r in study.results if seed_of(r) == seed and len(r.nearest)]
    results = same_seed[:MAX_NEAREST_MODELS]
    columns = min([MAX_COLUMNS, *(len(result.nearest) for result in results)])
    plot, panels = _new_grid(2 * len(results), columns)
    for i, result in enumerate(results):
        for column in range(columns):
            _draw_image(panels[2 * i, column], result.samples[column])
            _draw_image(panels[2 * i + 1, column], result.nearest[column, 0])
        _name_row(panels[2 * i, 0], model_name(result))
        _name_row(panels[2 * i + 1, 0], "nearest")
    return plot


@figure(
    "curvature",
    title="Curvature of the energy against depth",
    caption="M = I - H / 2 for each model of the first seed, at the same few noised images. If "
    "deeper models had a smoother energy, as the paper argues from Theorem 1, the values would "
    "fall from left to right. M says how much of a change of the image the denoiser keeps in each "
    "direction. Marks are medians, bars hold 80 % of the images, and open marks are the same "
    "networks with random weights. The line under the panels gives the asymmetry of M, which is 0 "
    "for the M of an energy.",
    topic="mechanism",
    needs=("probe",),
)
def curvature(study: StudyResults) -> Figure:
    """The probe's values at single points."""
    return probe_figures.plot_study(study.cells)


@figure(
    "loss",
    title="Training loss",
    caption="Mean squared error of the network's output against the training step, as a moving "
    "average over a thirtieth of the run. It only compares models that predict the same quantity, "
    "and does not show how errors add up in sampling.",
    topic="training",
    needs=("metrics",),
    method="training",
)
def loss_curves(study: StudyResults) -> Figure:
    """The loss of each cell against the step."""
    plot, ax = new_axes()
    for i, cell in enumerate(study.cells):
        if not cell.metrics:
            continue
        steps = np.array([line["step"] for line in cell.metrics])
        loss = np.array([line["loss"] for line in cell.metrics])
        # Only windows that lie wholly in the run, so the curve begins a window later.
        width = max(1, len(loss) // 30)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        ax.plot(steps[width - 1 :], smooth, color=color_of(i), label=cell.name, linewidth=1.2)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False, fontsize=8)
    return plot


class _Frame(NamedTuple):
    color: str
    linestyle: str


def _new_grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    plot = Figure(figsize=(0.5 * columns + 1, 0.5 * rows + 0.3))
    panels = plot.subplots(rows, columns, squeeze=False)
    for ax in panels.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    plot.subplots_adjust(0.09, 0.01, 0.99, 0.99, wspace=0.08, hspace=0.08)
    return plot, panels


def _in_grid_order(results: Sequence[Result]) -> list[Result]:
    """By training data, seed and model."""
    order = model_names(results)

    def sort_key(result: Result) -> tuple[Mix, int, int]:
        return group_key(result), seed_of(result), order.index(model_name(result))

    return sorted(results, key=sort_key)


def _first_of_seed(results: Sequence[Result], result: Result) -> Result:
    """The shallowest model of the same training data and seed, of results in grid order."""
    key = group_key(result), seed_of(result)
    return next(r for r in results if (group_key(r), seed_of(r)) == key)


def _grid_label(result: Result) -> str:
    if isinstance(result.info, CellInfo):
        return f"{result.info.model}, s{result.info.seed}"
    return result.name


def _draw_image(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _name_row(ax: Axes, text: str) -> None:
    label = ax.text(-0.25, 0.5, text, transform=ax.transAxes, fontsize=9, color=INK)
    label.set(ha="right", va="center")


def _draw_frame(ax: Axes, label: int, result: Result) -> None:
    """Frame a flip: to the majority, to the minority, or to neither."""
    frames: Mapping[int | None, _Frame] = {
        result.info.majority: _Frame(COLORS[1], "-"),
        result.info.minority: _Frame(COLORS[0], "-"),
    }
    frame = frames.get(label, _Frame(COLORS[3], ":"))
    ax.spines[:].set(visible=True, color=frame.color, linewidth=2, linestyle=frame.linestyle)
