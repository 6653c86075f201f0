"""Figures of the bypassed mid-block: of trained cells, and as the paper's Figures 6 and C."""

import functools
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from jaxdiff import results
from jaxdiff.analysis.bypass import (
    PLAIN,
    QUANTITIES,
    CellPoints,
    Point,
    estimate_at,
    group_cells,
)
from jaxdiff.analysis.similarity import TITLES, DrawnModel
from jaxdiff.estimates import Estimate
from jaxdiff.report.style import COLORS, INK, MARKERS, style_axes

NUM_SHOWN = 4  # noises of a cell
THUMBNAIL = 160  # pixels on a side of an image in a figure; the full image is the PNG
Curve = Sequence[tuple[float, Estimate]]


def draw_measures(cells: Sequence[CellPoints]) -> Figure | None:
    """Each quantity against the fraction: one color per form, one marker per group of cells."""
    keys = [key for key in QUANTITIES if any(cell.defined(key, PLAIN) for cell in cells)]
    if not keys:
        return None
    groups = group_cells(cells)
    forms = list(dict.fromkeys(p.form for cell in cells for p in cell.points if p.form))
    figure, axes = _panels(len(keys), columns=min(4, len(keys)))
    for ax, key in zip(axes, keys, strict=True):
        ax.set_title(QUANTITIES[key].title, fontsize=9)
        ax.set_xlabel("fraction bypassed")
        for i, form in enumerate(forms):
            for j, members in enumerate(groups.values()):
                curve = _curve(members, key, form)
                # Where the bands of a form's groups all overlap, they are as dark as one.
                _draw_band(ax, curve, COLORS[i], MARKERS[j % len(MARKERS)], 0.12 / len(groups))
    _add_legend(figure, forms, [str(group) for group in groups])
    return figure


def _curve(cells: Sequence[CellPoints], key: str, form: str) -> Curve:
    points = [point for point in cells[0].points if point.form in ("", form)]
    estimates = [(point.fraction, estimate_at(cells, key, point)) for point in points]
    return [(fraction, estimate) for fraction, estimate in estimates if estimate is not None]


def _draw_band(ax: Axes, curve: Curve, color: str, marker: str, alpha: float = 0.12) -> None:
    """The values with a band of their intervals."""
    if not curve:
        return
    x = [position for position, _ in curve]
    values = [float(estimate) for _, estimate in curve]
    low = [np.nan if e.low is None else e.low for _, e in curve]
    high = [np.nan if e.high is None else e.high for _, e in curve]
    ax.plot(x, values, marker=marker, color=color, markersize=4, linewidth=1.2)
    ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def _add_legend(figure: Figure, forms: Sequence[str], names: Sequence[str]) -> None:
    handles = [Line2D([], [], color=COLORS[i], label=form) for i, form in enumerate(forms)]
    for j, name in enumerate(names):
        marker = MARKERS[j % len(MARKERS)]
        handles.append(Line2D([], [], color=INK, marker=marker, linestyle="none", label=name))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _panels(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(2.9 * columns, 2.4 * rows + 0.5), layout="constrained")
    return figure, [style_axes(figure.add_subplot(rows, columns, i + 1)) for i in range(count)]


class Block(NamedTuple):
    """Images uint8 [row, column, height, width, channel], a title and the columns' names."""

    title: str
    columns: Sequence[str]
    images: np.ndarray


def draw_samples(cell: CellPoints, workdir: epath.Path) -> Figure | None:
    """A cell's samples: one block per form, in it one row per noise and one column per fraction."""
    fractions: dict[str, list[float]] = {}
    for point in cell.points:
        if point.form:
            fractions.setdefault(point.form, [0.0]).append(point.fraction)
    blocks = []
    for form, columns in fractions.items():
        # As `jaxdiff.bypass.cells` names the files: all forms share that of nothing bypassed.
        parts = [f"{cell.name}-{form}-{p:g}" if p else f"{cell.name}-0" for p in columns]
        paths = [workdir / "samples" / f"{part}.npz" for part in parts]
        images = [results.read_npz(path)["arr_0"][:NUM_SHOWN] for path in paths]
        blocks.append(Block(form, _percentages(columns), np.stack(images, axis=1)))
    row_names = [f"noise {i}" for i in range(NUM_SHOWN)]
    return _draw_blocks(blocks, row_names, image_inches=0.55) if blocks else None


def _percentages(fractions: Sequence[float]) -> list[str]:
    return [f"{100 * fraction:g} %" for fraction in fractions]


def _draw_blocks(blocks: Sequence[Block], row_names: Sequence[str], image_inches: float) -> Figure:
    """The blocks side by side."""
    rows = len(blocks[0].images)
    widths = [len(block.columns) for block in blocks]
    size = (image_inches * (sum(widths) + 1) + 0.8, image_inches * rows + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(1, len(blocks), width_ratios=widths)
    for i, block in enumerate(blocks):
        ax = figure.add_subplot(grid[i])
        _draw_block(ax, block, row_names[:rows] if i == 0 else [""] * rows)
    return figure


def _draw_block(ax: Axes, block: Block, row_names: Sequence[str]) -> None:
    """All images of a block as one picture with white gaps."""
    rows = len(block.images)
    height = block.images.shape[2]
    gap = max(1, height // 16)
    step = height + gap
    padding = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    padded = np.pad(block.images, padding, constant_values=255)
    rgb = np.repeat(padded, 3 // padded.shape[-1], axis=-1)
    # To [row, height, column, width, channel], which is one picture when reshaped; the gaps at its
    # right and lower edge are cut off.
    sheet = rgb.transpose(0, 2, 1, 3, 4).reshape(rows * step, -1, 3)[:-gap, :-gap]
    ax.imshow(sheet, interpolation="none")
    column_centers = [i * step + height / 2 for i in range(len(block.columns))]
    row_centers = [i * step + height / 2 for i in range(rows)]
    ax.set_xticks(column_centers, block.columns, fontsize=7)
    ax.set_yticks(row_centers, row_names, fontsize=7)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(block.title, fontsize=9)


def list_image_sheets(
    model: DrawnModel, workdir: epath.Path
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    """Name and drawing of a figure for each form, and of one for the control.

    Each row is a prompt, each column a fraction or a guidance scale; of the first seed.
    """
    drawn = [point for point, _ in model.points]
    for form in dict.fromkeys(point.form for point in drawn if point.form):
        fractions = sorted({p.fraction for p in drawn if p.form in ("", form)})
        plain_folder = f"{model.name}-guidance-{model.guidance:g}"
        folders = [f"{model.name}-{form}-{p:g}" if p else plain_folder for p in fractions]
        sheet = functools.partial(
            _draw_sheet, model, f"bypassed: {form}", _percentages(fractions), folders, workdir
        )
        yield f"{model.name}-{form}", sheet
    scales = sorted({scale for point, scale in model.points if not point.form}, reverse=True)
    columns = [f"{scale:g}" for scale in scales]
    folders = [f"{model.name}-guidance-{scale:g}" for scale in scales]
    title = "the control: guidance scale, nothing bypassed"
    yield (
        f"{model.name}-guidance",
        functools.partial(_draw_sheet, model, title, columns, folders, workdir),
    )


def _draw_sheet(
    model: DrawnModel,
    title: str,
    columns: Sequence[str],
    folders: Sequence[str],
    workdir: epath.Path,
) -> Figure:
    first_seed = model.image_files[:: len(model.seeds)]  # prompts first, seeds within
    images = [
        [_thumbnail(workdir / "pictures" / folder / name) for folder in folders]
        for name in first_seed
    ]
    labels = [_wrap(prompt) for prompt in model.prompts]
    return _draw_blocks([Block(title, columns, np.array(images))], labels, image_inches=1.3)


def _wrap(prompt: str) -> str:
    """A prompt in short lines; its dollar signs start no formula."""
    short = textwrap.shorten(prompt, 80, placeholder=" ...")
    return textwrap.fill(short, 16).replace("$", r"\$")


def _thumbnail(path: epath.Path) -> np.ndarray:
    with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(image.convert("RGB"))


def draw_similarities(models: Sequence[DrawnModel]) -> Figure | None:
    """Similarity between prompts and between seeds, beside the control.

    Against the fraction on the left, against the guidance scale on the right.
    """
    panels = [
        (between, name)
        for between in ("prompts", "seeds")
        for name in TITLES
        if any(model.find(between, name, PLAIN) for model in models)
    ]
    if not panels:
        return None
    figure, axes = _panels(2 * len(panels), columns=2)
    forms = list(dict.fromkeys(form for model in models for form in model.forms))
    for i, (between, name) in enumerate(panels):
        left = axes[2 * i]
        right = axes[2 * i + 1]
        right.sharey(left)
        for ax, label in ((left, "fraction bypassed"), (right, "guidance scale, p = 0")):
            ax.set_title(f"{TITLES[name]} between {between}", fontsize=9)
            ax.set_xlabel(label)
        for j, model in enumerate(models):
            marker = MARKERS[j % len(MARKERS)]
            for k, form in enumerate(forms):
                _draw_band(left, _similarity_curve(model, between, name, form), COLORS[k], marker)
            control = sorted(model.control(between, name), key=lambda row: row[0])
            _draw_band(right, control, INK, marker)
        right.invert_xaxis()
    _add_legend(figure, forms, [model.name for model in models])
    return figure


def _similarity_curve(model: DrawnModel, between: str, name: str, form: str) -> Curve:
    estimates = [
        (fraction, model.find(between, name, Point(form, fraction)))
        for fraction in model.fractions(form)
    ]
    return [(fraction, estimate) for fraction, estimate in estimates if estimate is not None]
