"""The report's figures, each a matplotlib Figure made from finished cells."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxdiff.results import CellResult

# Okabe & Ito's palette: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def models(cells: Sequence[CellResult]) -> list[str]:
    """The models, shallowest first."""
    by_name = {cell.result["cell"]["model"]: cell.result["cell"] for cell in cells}
    return sorted(by_name, key=lambda name: (by_name[name]["depth"], by_name[name]["parameters"]))


def proportions(cells: Sequence[CellResult]) -> list[tuple[float, ...]]:
    """The proportions of the training data, most unbalanced first."""
    return sorted({tuple(cell.result["cell"]["proportions"]) for cell in cells}, reverse=True)


def _axes(width: float = 6.4, height: float = 3.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def share_against_depth(cells: Sequence[CellResult], kind: str = "classified") -> Figure:
    """Figure 4's upper half: the minority's share of each cell with its interval; a dashed line for the training data."""
    figure, axes = _axes()
    names = models(cells)
    for i, mix in enumerate(proportions(cells)):
        colour = COLOURS[i % len(COLOURS)]
        axes.axhline(100 * mix[1], color=colour, linestyle="--", linewidth=1)
        mine = [cell for cell in cells if tuple(cell.result["cell"]["proportions"]) == mix]
        found = [(cell, s) for cell in mine for s in cell.result["share"] if s["name"] == kind]
        seeds = sorted({cell.result["cell"]["seed"] for cell, _ in found})
        spread = {seed: 0.12 * (j - (len(seeds) - 1) / 2) for j, seed in enumerate(seeds)}
        x = [names.index(c.result["cell"]["model"]) + spread[c.result["cell"]["seed"]] + 0.04 * i for c, _ in found]
        value = np.array([100 * s["value"] for _, s in found])
        errors = [[v - 100 * s["low"] for v, (_, s) in zip(value, found, strict=True)],
                  [100 * s["high"] - v for v, (_, s) in zip(value, found, strict=True)]]  # fmt: skip
        label = "-".join(f"{100 * p:g}" for p in mix) + ", trained share dashed"
        if found:
            axes.errorbar(x, value, errors, fmt=MARKS[i % len(MARKS)], color=colour, capsize=3, label=label)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("model (depth)")
    axes.set_ylabel("minority among samples, %")
    axes.set_ylim(bottom=0)
    if axes.containers:  # no sample may be either class
        axes.legend(frameon=False, fontsize=8)
    return figure


def quality_gate(cells: Sequence[CellResult]) -> Figure:
    """What the classifier makes of each cell's samples: a study's class, another digit, no digit."""
    figure, axes = _axes(height=0.35 * len(cells) + 1.2)
    left = np.zeros(len(cells))
    for i, (part, label) in enumerate(
        {"gate": "one of the two classes", "other_digit": "another digit", "no_digit": "no digit"}.items()
    ):
        values = np.array([100 * q["value"] for c in cells for q in c.result["quality"] if q["name"] == part])
        axes.barh([c.name for c in cells], values, left=left, color=COLOURS[(0, 4, 6)[i]], label=label, height=0.6)
        left += values
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.axvline(70, color="white", linestyle=":", linewidth=1.5)
    axes.set_xlabel("samples, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def sample_grid(cells: Sequence[CellResult], columns: int = 16) -> Figure:
    """A row a model, a column a noise seed: the same noise down every column."""
    columns = min([columns, *(len(cell.samples) for cell in cells)])
    figure = Figure(figsize=(0.5 * columns + 1, 0.5 * len(cells) + 0.3))
    axes = figure.subplots(len(cells), columns, squeeze=False)
    for row, cell in zip(axes, cells, strict=True):
        for ax, image in zip(row, cell.samples, strict=False):
            ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            ax.set_axis_off()
        text = row[0].text(
            -0.25, 0.5, cell.result["cell"]["model"], transform=row[0].transAxes, ha="right", va="center"
        )
        text.set_fontsize(10)
    figure.subplots_adjust(0.08, 0.01, 0.99, 0.99, wspace=0.06, hspace=0.06)
    return figure


def loss_curves(cells: Sequence[CellResult]) -> Figure:
    """Training loss against the step, smoothed by a moving average of a thirtieth of the run."""
    figure, axes = _axes()
    for i, cell in enumerate(cells):
        if not cell.metrics:
            continue
        steps = np.array([m["step"] for m in cell.metrics])
        loss = np.array([m["loss"] for m in cell.metrics])
        width = max(1, len(loss) // 30)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=COLOURS[i % len(COLOURS)], label=cell.name, linewidth=1.2)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    return figure


FIGURES: dict[str, tuple[Callable[[Sequence[CellResult]], Figure], str, str]] = {
    "share": (
        share_against_depth, "Minority share against depth",
        "Figure 4's upper half. Each mark is one trained model; bars are 95 % Wilson intervals over its samples and hold "
        "for that model alone: they say nothing of another seed. Dashed: the share in the training data. A model below "
        "its line drew fewer of the minority than it was shown.",
    ),
    "samples": (
        sample_grid, "Samples",
        "A row a model, a column a noise: every model of a seed starts from the same x_T. Look for columns in which the "
        "digit changes as depth grows, and for images that are neither digit.",
    ),
    "gate": (
        quality_gate, "Quality gate",
        "How a classifier with ten digits and a class for what is no digit reads the samples. The first part is the gate; "
        "where it is under 70 % (dotted), the share above describes only the samples that are left.",
    ),
    "loss": (
        loss_curves, "Training loss",
        "Mean squared error of the network's output, a moving average. It compares models that predict the same thing; "
        "it does not show what sampling makes of the error.",
    ),
}  # fmt: skip
