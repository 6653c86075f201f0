"""Figures of what the paper argues by analogy: memorization against amplification (its Figure 2C), and the effective k."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdiff.analysis.queries import Mix, entry, in_words, mixes, models
from jaxdiff.report.style import COLOURS, INK, MARKS, axes
from jaxdiff.results import CellResult

Cells = Sequence[CellResult]


def central(cells: Cells) -> Figure:
    """Memorized fraction against logit amplification: a large mark a cell, small ones its earlier checkpoints."""
    figure, ax = axes(height=3.8)
    names, kinds = models(cells), mixes(cells)
    for cell in cells:
        colour, marker = (
            COLOURS[names.index(cell.own["model"]) % 6],
            MARKS[kinds.index(Mix.of(cell)) % 6],
        )
        points = _track(cell)
        if points:
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=colour, linewidth=0.7, alpha=0.5)
            ax.plot(
                x[:-1],
                y[:-1],
                marker,
                color=colour,
                markersize=4,
                fillstyle="none",
                linestyle="none",
            )
            ax.plot(x[-1:], y[-1:], marker, color=colour, markersize=7)
    held_out = [
        e["value"] for c in cells if (e := entry(c, "memorization", "memorized", images="held_out"))
    ]
    if held_out:
        ax.axhline(100 * float(np.mean(held_out)), color=INK, linestyle=":", linewidth=1)
    ax.axvline(0, color=INK, linewidth=0.6)
    top = max(10.0, 1.1 * ax.get_ylim()[1])
    ax.set_ylim(-0.04 * top, top)
    ax.set_xlabel("amplification: logit of the majority, generated - trained")
    ax.set_ylabel("memorized samples, %")
    figure.legend(handles=_handles(cells), loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _handles(cells: Cells) -> list[Line2D]:
    """A colour a model, a mark a mix of the data."""
    found = [
        Line2D([], [], color=COLOURS[i % 6], label=f"model {name}")
        for i, name in enumerate(models(cells))
    ]
    return found + [Line2D([], [], color=INK, marker=MARKS[i % 6], linestyle="none", label=in_words(mix))
                    for i, mix in enumerate(mixes(cells))]  # fmt: skip


def _track(cell: CellResult) -> list[tuple[float, float]]:
    """(log odds ratio, memorized %) of a cell's checkpoints in order, the cell itself last."""
    by_step: dict[int, dict[str, Any]] = {}
    for e in cell.result.get("checkpoints", []):
        by_step.setdefault(e["step"], {})[e["name"]] = e["value"]
    found = [
        (early.get("odds_ratio"), early.get("memorized")) for _, early in sorted(by_step.items())
    ]
    last = [
        entry(cell, "amplification", "odds_ratio"),
        entry(cell, "memorization", "memorized", images="samples"),
    ]
    found.append((last[0]["value"] if last[0] else None, last[1]["value"] if last[1] else None))
    return [(math.log(odds), 100 * share) for odds, share in found if odds and share is not None]


def effective_k(cells: Cells) -> Figure:
    """k_eff against the noise level, where it is defined; and the R^2 by memory of each cell."""
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    names, kinds = models(cells), mixes(cells)
    for cell in cells:
        colour, marker = (
            COLOURS[names.index(cell.own["model"]) % 6],
            MARKS[kinds.index(Mix.of(cell)) % 6],
        )
        rows = [e for e in cell.result.get("effective_k", []) if e["queries"] == "unseen"]
        for ax, name, memory, line in ((left, "k_eff", "train", f"{marker}-"), (right, "r2", "train", f"{marker}-"),
                                       (right, "r2", "as many of train", "-."), (right, "r2", "held_out", ":")):  # fmt: skip
            mine = [e for e in rows if e["name"] == name and e["memory"] == memory
                    and e.get("denoiser", "soft_knn") == "soft_knn" and e["value"] is not None]  # fmt: skip
            ax.plot(
                [e["t"] for e in mine],
                [e["value"] for e in mine],
                line,
                color=colour,
                markersize=4,
                linewidth=1.2,
            )
        gaussian = [e for e in rows if e.get("denoiser") == "gaussian"]
        right.plot(
            [e["t"] for e in gaussian],
            [e["value"] for e in gaussian],
            "--",
            color=colour,
            linewidth=0.8,
        )
    for ax, label in ((left, "effective k"), (right, "R² as a prediction of the model")):
        _plain(ax, label)
    left.set(yscale="log", ylim=(0.9, 1.1 * max(cell.own["n"] for cell in cells)))
    right.set_ylim(0, 1.02)
    lines: dict[str, Any] = {"soft k-NN of the training images": "-", "of fewer of them": "-.",
                             "of as many held-out images": ":", "Gaussian": "--"}  # fmt: skip
    handles = _handles(cells) + [
        Line2D([], [], color=INK, linestyle=line, label=label) for label, line in lines.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _plain(ax: Axes, label: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("noise level t")
    ax.set_ylabel(label)
