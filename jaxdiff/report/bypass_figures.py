"""Figures of the bypassed mid-block: what it does to trained cells, and to pictures, in the form of the paper's Figures 6 and C."""

import functools
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from jaxdiff import results
from jaxdiff.analysis import bypass
from jaxdiff.analysis import similarity as likeness
from jaxdiff.analysis.queries import interval
from jaxdiff.report.style import COLORS, INK, MARKERS, series_style, style_axes

Row = dict[str, Any]
SHOWN = 4  # noises of a cell
THUMBNAIL = 160  # pixels on a side of a picture in a figure; the whole is the PNG


def measures(found: dict[str, Row]) -> Figure | None:
    """Each measure against the fraction: a colour a form, a mark a group of cells, bands of the intervals."""
    grouped = bypass.groups(found)
    keys = [
        key
        for key in bypass.QUANTITIES
        if any(bypass.at(own, key, "", 0.0) for own in found.values())
    ]
    if not keys:
        return None
    forms = list(
        dict.fromkeys(form for own in found.values() for form, p in bypass.places(own) if p)
    )
    columns = min(4, len(keys))
    figure, axes = _grid(len(keys), columns)
    for ax, key in zip(axes, keys, strict=True):
        ax.set_title(bypass.QUANTITIES[key].title, fontsize=9)
        ax.set_xlabel("fraction bypassed")
        for i, form in enumerate(forms):
            for j, cells in enumerate(grouped.values()):
                ps = [p for f, p in bypass.places(cells[0]) if f == form or not p]
                drawn = [(p, here) for p in ps if (here := bypass.value(cells, key, form, p))]
                _band(ax, drawn, COLORS[i], MARKERS[j % len(MARKERS)], 0.12 / len(grouped))
    handles = [Line2D([], [], color=COLORS[i], label=form) for i, form in enumerate(forms)]
    handles += [
        Line2D([], [], color=INK, marker=MARKERS[j % len(MARKERS)], linestyle="none", label=str(group))
        for j, group in enumerate(grouped)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _band(
    ax: Axes,
    drawn: Sequence[tuple[float, tuple[float, float, float]]],
    colour: str,
    marker: str,
    alpha: float = 0.12,
) -> None:
    if drawn:
        x, (middle, low, high) = [x for x, _ in drawn], np.array([y for _, y in drawn]).T
        ax.plot(x, middle, marker=marker, color=colour, markersize=4, linewidth=1.2)
        ax.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)


def _grid(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(2.9 * columns, 2.4 * rows + 0.5), layout="constrained")
    return figure, [style_axes(figure.add_subplot(rows, columns, i + 1)) for i in range(count)]


def samples(name: str, own: Row, workdir: epath.Path) -> Figure | None:
    """Of one cell: a block a form, in it a row a noise and a column a fraction."""
    forms: dict[str, list[float]] = {}
    for form, p in bypass.places(own):
        if p:
            forms.setdefault(form, [0.0]).append(p)
    blocks = []
    for form, ps in forms.items():
        parts = [f"{name}-{form}-{p:g}" if p else f"{name}-0" for p in ps]
        images = [
            results.read_npz(workdir / "samples" / f"{part}.npz")["arr_0"][:SHOWN] for part in parts
        ]
        blocks.append(Block(form, _percent(ps), np.stack(images, axis=1)))
    return _blocks(blocks, [f"noise {i}" for i in range(SHOWN)], 0.55) if blocks else None


class Block(NamedTuple):
    """Images uint8 [row, column, height, width, channel], with a title and the columns' names."""

    title: str
    columns: Sequence[str]
    images: np.ndarray


def _percent(fractions: Sequence[float]) -> list[str]:
    return [f"{100 * p:g} %" for p in fractions]


def _blocks(blocks: Sequence[Block], row_names: Sequence[str], size: float) -> Figure:
    """The blocks beside each other, an image `size` inches wide."""
    rows, widths = blocks[0].images.shape[0], [len(block.columns) for block in blocks]
    figure = Figure(
        figsize=(size * (sum(widths) + 1) + 0.8, size * rows + 0.8), layout="constrained"
    )
    grid = figure.add_gridspec(1, len(blocks), width_ratios=widths)
    for i, block in enumerate(blocks):
        ax, height, gap = (
            figure.add_subplot(grid[i]),
            block.images.shape[2],
            max(1, block.images.shape[2] // 16),
        )
        padded = np.pad(
            block.images, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255
        )
        padded = np.repeat(padded, 3 // padded.shape[-1], axis=-1)
        sheet = padded.transpose(0, 2, 1, 3, 4).reshape(rows * (height + gap), -1, 3)[:-gap, :-gap]
        ax.imshow(sheet, interpolation="none")

        def middle(count, step=height + gap, half=height / 2):
            return [j * step + half for j in range(count)]

        ax.set_xticks(middle(len(block.columns)), block.columns, fontsize=7)
        ax.set_yticks(middle(rows), row_names[:rows] if i == 0 else [""] * rows, fontsize=7)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(block.title, fontsize=9)
    return figure


def pictures(
    name: str, own: Row, workdir: epath.Path
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    """A figure a form, and one of the control: a row a prompt, a column a fraction (a guidance scale), of the first seed."""
    for form in dict.fromkeys(point["form"] for point in own["points"] if point["form"]):
        ps = sorted({point["p"] for point in own["points"] if point["form"] in ("", form)})
        folders = [
            f"{name}-{form}-{p:g}" if p else f"{name}-guidance-{own['guidance']:g}" for p in ps
        ]
        yield (
            f"{name}-{form}",
            functools.partial(_sheet, own, f"bypassed: {form}", _percent(ps), folders, workdir),
        )
    scales = sorted(
        {point["guidance"] for point in own["points"] if not point["form"]}, reverse=True
    )
    columns, folders = (
        [f"{scale:g}" for scale in scales],
        [f"{name}-guidance-{scale:g}" for scale in scales],
    )
    title = "the control: guidance scale, nothing bypassed"
    yield f"{name}-guidance", functools.partial(_sheet, own, title, columns, folders, workdir)


def _sheet(
    own: Row, title: str, columns: Sequence[str], folders: Sequence[str], workdir: epath.Path
) -> Figure:
    firsts = own["files"][:: len(own["seeds"])]  # prompts first, seeds after
    images = [
        [_thumbnail(workdir / "pictures" / folder / name) for folder in folders] for name in firsts
    ]
    return _blocks(
        [Block(title, columns, np.array(images))],
        [_label(prompt) for prompt in own["prompts"]],
        1.3,
    )


def _label(prompt: str) -> str:
    """A prompt in short lines, its dollars no mathematics."""
    return textwrap.fill(textwrap.shorten(prompt, 80, placeholder=" ..."), 16).replace("$", r"\$")


def _thumbnail(path: epath.Path) -> np.ndarray:
    """At most THUMBNAIL pixels on a side."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(image.convert("RGB"))


def curves(found: dict[str, Row]) -> Figure | None:
    """Likeness between prompts and between seeds, against the fraction, and beside it against the guidance scale: the control."""
    panels = [(between, name) for between in ("prompts", "seeds") for name in ("lpips", "cosine")
              if any(likeness.at(own, between, name, "", 0.0) for own in found.values())]  # fmt: skip
    if not panels:
        return None
    figure, axes = _grid(2 * len(panels), 2)
    forms = list(
        dict.fromkeys(row["form"] for own in found.values() for row in own["rows"] if row["form"])
    )
    for i, (between, name) in enumerate(panels):
        left, right = axes[2 * i], axes[2 * i + 1]
        right.sharey(left)
        for ax, what in ((left, "fraction bypassed"), (right, "guidance scale, p = 0")):
            ax.set_title(f"{likeness.TITLES[name]} between {between}", fontsize=9)
            ax.set_xlabel(what)
        for j, own in enumerate(found.values()):
            for k, form in enumerate(forms):
                ps = sorted({row["p"] for row in own["rows"] if row["form"] in ("", form)})
                drawn = [
                    (p, interval(row))
                    for p in ps
                    if (row := likeness.at(own, between, name, form, p))
                ]
                _band(left, drawn, COLORS[k], MARKERS[j % len(MARKERS)])
            control = [
                (row["guidance"], interval(row)) for row in likeness.control(own, between, name)
            ]
            _band(right, sorted(control), INK, MARKERS[j % len(MARKERS)])
        right.invert_xaxis()
    handles = [Line2D([], [], color=COLORS[k], label=form) for k, form in enumerate(forms)]
    handles += [
        Line2D([], [], color=INK, marker=series_style(j)[1], linestyle="none", label=name)
        for j, name in enumerate(found)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
