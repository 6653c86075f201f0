"""Colors, markers and axes of all figures, and SVG that follows the page's light or dark mode."""

import base64
import html
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdiff import files

# Okabe & Ito's palette without its black: distinct with every kind of color vision, on white and
# on black.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")

# Stand-ins that to_svg() replaces by the page's own colors.
INK = "#010203"
RULE = "#040506"
TEXTS = "texts-"  # begins the ids of lines whose points have texts


def new_axes(width: float = 5.2, height: float = 3.3) -> tuple[Figure, Axes]:
    """A figure in inches with one set of styled axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, style_axes(figure.add_subplot())


def style_axes(ax: Axes) -> Axes:
    """Remove the box and draw faint horizontal rules behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def color_of(index: int) -> str:
    """Color of the index-th series; they repeat after six."""
    return COLORS[index % len(COLORS)]


def marker_of(index: int) -> str:
    """Marker of the index-th series; they repeat after six."""
    return MARKERS[index % len(MARKERS)]


def series_style(index: int) -> tuple[str, str]:
    """Color and marker of the index-th series; both differ, so that color is not needed."""
    return color_of(index), marker_of(index)


def name_points(line: Line2D, texts: Sequence[str]) -> None:
    """Texts that a page shows where the pointer is over a line's points, one each."""
    # In base64, since an id has no room for quotes and spaces.
    line.set_gid(TEXTS + base64.urlsafe_b64encode(json.dumps(list(texts)).encode()).decode())


def _show_texts(svg: str) -> str:
    """Put the texts of `name_points` into their points, as titles."""

    def fill(group: re.Match) -> str:
        texts = json.loads(base64.urlsafe_b64decode(group["texts"]))
        points = group["points"].split("/>")
        if len(points) != len(texts) + 1:  # points beyond the axes are not drawn
            return f"<g>{group['before']}{group['points']}</g>"
        named = [
            f"{point}><title>{html.escape(text)}</title></use>"
            for point, text in zip(points[:-1], texts, strict=True)
        ]
        return f"<g>{group['before']}{''.join(named)}{points[-1]}</g>"

    # matplotlib draws a line's markers as <use/> elements in a clipped group after the line itself;
    # no other id lies between.
    start = rf'<g id="{TEXTS}(?P<texts>[^"]*)">'
    before = r'(?P<before>(?:(?!<g id=).)*?<g clip-path="[^"]*">)'
    return re.sub(start + before + "(?P<points>.*?)</g>", fill, svg, flags=re.DOTALL)


def matplotlib_settings(name: str) -> dict[Any, Any]:
    """matplotlib's settings while the figure `name` is drawn."""
    inked = (
        "text.color",
        "axes.edgecolor",
        "axes.labelcolor",
        "xtick.color",
        "ytick.color",
        "legend.labelcolor",
    )
    # The salt makes ids the same in every run, and different from those of other figures.
    return dict.fromkeys(inked, INK) | {"svg.hashsalt": name, "font.size": 10}


def to_svg(figure: Figure, name: str) -> str:
    """SVG on a transparent ground in the page's colors; equal figures give equal text."""
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None}
    with mpl.rc_context(matplotlib_settings(name)):
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = _show_texts(buffer.getvalue())
    return svg.replace(INK, "currentColor").replace(RULE, "var(--rule, #cccccc)")


def standalone_svg(svg: str) -> str:
    """The figure as a file of its own: dark on white in every viewer."""
    return svg.replace("<svg ", '<svg style="color: #1a1a1a; background: #ffffff" ', 1)


def write(folder: epath.Path, name: str, draw: Callable[[], Figure | None]) -> str | None:
    """Draw a figure into folder/NAME.svg.

    Returns
    -------
    svg
        The text of `to_svg`; None where there is nothing to draw, and then an older file of the
        name is removed.
    """
    path = folder / f"{name}.svg"
    with mpl.rc_context(matplotlib_settings(name)):
        figure = draw()
        if figure is None:
            path.unlink(missing_ok=True)
            return None
        svg = to_svg(figure, name)
    files.write(path, standalone_svg(svg))
    return svg
