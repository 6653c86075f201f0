"""One visual language for every figure: colours, marks, axes, and an SVG that follows the page's light or dark mode."""

import io
from collections.abc import Callable

import matplotlib as mpl
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxdiff import files

# Okabe & Ito's palette without its black: told apart with every kind of colour vision, on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "s", "^", "D", "v", "P")
INK, RULE = "#010203", "#040506"  # stand-ins that svg() replaces by the page's own colours


def axes(width: float = 5.2, height: float = 3.3) -> tuple[Figure, Axes]:
    """A figure with one set of axes: no box, faint horizontal rules."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, ruled(figure.add_subplot())


def ruled(ax: Axes) -> Axes:
    """No box, faint horizontal rules behind what is drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def mark(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th series; both change, so that neither alone has to tell."""
    return COLOURS[index % len(COLOURS)], MARKS[index % len(MARKS)]


def context(name: str) -> dict:
    """matplotlib's settings while a figure is drawn: ink by placeholder, ids fixed and apart from other figures'."""
    inked = (
        "text.color",
        "axes.edgecolor",
        "axes.labelcolor",
        "xtick.color",
        "ytick.color",
        "legend.labelcolor",
    )
    return dict.fromkeys(inked, INK) | {"svg.hashsalt": name, "font.size": 10}


def svg(figure: Figure, name: str) -> str:
    """The same text for the same figure, with a transparent ground; ink and rules take the page's colours."""
    buffer = io.StringIO()
    with mpl.rc_context(context(name)):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True
        )
    return buffer.getvalue().replace(INK, "currentColor").replace(RULE, "var(--rule, #cccccc)")


def alone(svg: str) -> str:
    """The figure as a file of its own: dark on white, whatever shows it."""
    return svg.replace("<svg ", '<svg style="color: #1a1a1a; background: #ffffff" ', 1)


def write(folder: epath.Path, name: str, draw: Callable[[], Figure | None]) -> str | None:
    """Draw a figure into folder/name.svg; its text, as svg() gives it. Where there is nothing to draw no older one stays."""
    path = folder / f"{name}.svg"
    with mpl.rc_context(context(name)):
        figure = draw()
        if figure is None:
            path.unlink(missing_ok=True)
            return None
        drawn = svg(figure, name)
    files.write(path, alone(drawn))
    return drawn
