"""Figures of the theorems without a trained model: Figure 3 in the paper's form, and retrieval."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxdiff.report.style import COLORS, new_axes, series_style

Row = dict[str, Any]


def figure_3(grids: Mapping[str, np.ndarray], proportions: Sequence[float]) -> Figure:
    """A row a proportion, a column a level; the majority's percentage above each."""
    columns = max(int(name.split("-")[1]) for name in grids) + 1
    figure = Figure(figsize=(1.5 * columns, 1.7 * len(proportions)), layout="constrained")
    for row, axs in enumerate(figure.subplots(len(proportions), columns)):
        for level, ax in enumerate(axs):
            grid = grids[f"{row}-{level}"]
            colours = np.array(
                [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (COLORS[1], COLORS[0])],
                np.uint8,
            )
            ax.imshow(colours[grid], interpolation="nearest")
            ax.set_title(f"{100 * (grid == 0).mean():.0f} %", fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
    return figure


def share_against_rho(rows: Sequence[Row]) -> Figure:
    """The minority's share among the smoothed sampler's images; a dashed line for its share of the memory."""
    figure, ax = new_axes(6.0, 3.8)
    for i, trained in enumerate(sorted({row["trained"] for row in rows})):
        for j, majority in enumerate(sorted({row["majority"] for row in rows})):
            mine = [row for row in rows if (row["trained"], row["majority"]) == (trained, majority)]
            if not mine:
                continue
            colour, marker = COLORS[i % len(COLORS)], series_style(j)[1]
            x, value = ([row[key] for row in mine] for key in ("rho", "share"))
            away = [
                [100 * (row["share"] - row["low"]) for row in mine],
                [100 * (row["high"] - row["share"]) for row in mine],
            ]
            ax.errorbar(x, 100 * np.array(value), away, fmt=f"{marker}-", color=colour, capsize=2, markersize=4, linewidth=1,
                        fillstyle="full" if j == 0 else "none", label=f"{100 * trained:.0f} %, majority {majority}")  # fmt: skip
        ax.axhline(100 * trained, color=COLORS[i % len(COLORS)], linestyle="--", linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set_xticks(
        sorted({row["rho"] for row in rows}),
        [f"{x:g}" for x in sorted({row["rho"] for row in rows})],
    )
    ax.set_xlabel("rho: temperature of the weights, 1 is the exact denoiser")
    ax.set_ylabel("minority among samples, %")
    figure.legend(
        loc="outside right upper",
        frameon=False,
        fontsize=7,
        title="in the memory",
        title_fontsize=8,
    )
    return figure


def share_against_k(rows: Sequence[Row]) -> Figure:
    """The hard vote of Eq. 1 on noised images by noise level, the first majority of each proportion."""
    figure, ax = new_axes(6.0, 3.4)
    levels = sorted({row["t"] for row in rows})
    for i, trained in enumerate(sorted({row["trained"] for row in rows})):
        for j, t in enumerate(levels):
            mine = [
                row
                for row in rows
                if (row["trained"], row["t"]) == (trained, t)
                and row["majority"] == rows[0]["majority"]
            ]
            ax.plot([row["k"] for row in mine], [100 * row["share"] for row in mine], f"{series_style(j)[1]}-", linewidth=1,
                    color=COLORS[i % len(COLORS)], markersize=4, label=f"{100 * trained:.0f} %, t = {t}")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("k")
    ax.set_ylabel("called minority, %")
    figure.legend(
        loc="outside right upper",
        frameon=False,
        fontsize=7,
        title="in the memory",
        title_fontsize=8,
    )
    return figure


def end_points(pictures: Mapping[str, np.ndarray], share: float, majority: int) -> Figure:
    """Images of the smoothed sampler, a row a temperature, a column the same noise."""
    prefix = f"{share:g}-{majority}-"
    rows = sorted(
        (float(name.removeprefix(prefix)), images)
        for name, images in pictures.items()
        if name.startswith(prefix)
    )
    figure = Figure(figsize=(0.9 * len(rows[0][1]) + 0.8, 0.9 * len(rows)), layout="constrained")
    for (rho, images), axs in zip(rows, figure.subplots(len(rows), len(rows[0][1])), strict=True):
        for ax, image in zip(axs, images, strict=True):
            ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            ax.set_xticks([])
            ax.set_yticks([])
        axs[0].set_ylabel(f"{rho:g}", rotation=0, ha="right", va="center")
    return figure
