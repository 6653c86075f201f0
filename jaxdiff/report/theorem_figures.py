"""Figures of the theorems without a trained model: Figure 3 in the paper's form, and retrieval."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxdiff.report.style import COLORS, new_axes, series_style

# Rows of theorems.json that hold nothing but numbers.
Numbers = Mapping[str, int | float]


def figure_3(grids: Mapping[str, np.ndarray], proportions: Sequence[float]) -> Figure:
    """One row per proportion, one column per level; the majority's percentage above each."""
    # Names are ROW-LEVEL, as `jaxdiff.landscape.theorem_run` writes them.
    columns = 1 + max(int(name.split("-")[1]) for name in grids)
    palette = np.array([_to_rgb(COLORS[1]), _to_rgb(COLORS[0])], np.uint8)
    figure = Figure(figsize=(1.5 * columns, 1.7 * len(proportions)), layout="constrained")
    for row, row_axes in enumerate(figure.subplots(len(proportions), columns)):
        for level, ax in enumerate(row_axes):
            grid = grids[f"{row}-{level}"]
            ax.imshow(palette[grid], interpolation="nearest")
            ax.set_title(f"{100 * (grid == 0).mean():.0f} %", fontsize=9)
            _hide_ticks(ax)
    return figure


def _to_rgb(color: str) -> list[int]:
    """Red, green and blue of "#RRGGBB"."""
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def _hide_ticks(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])


def share_against_rho(rows: Sequence[Numbers]) -> Figure:
    """The minority's share among the smoothed sampler's images.

    A dashed line is its share of the memory.
    """
    figure, ax = new_axes(6.0, 3.8)
    for i, trained in enumerate(_distinct(rows, "trained")):
        color = COLORS[i % len(COLORS)]
        for j, majority in enumerate(_distinct(rows, "majority")):
            series = [
                row for row in rows if row["trained"] == trained and row["majority"] == majority
            ]
            if series:
                _draw_shares(ax, series, color, j)
        ax.axhline(100 * trained, color=color, linestyle="--", linewidth=0.8)
    rhos = _distinct(rows, "rho")
    ax.set_xscale("log", base=2)
    ax.set_xticks(rhos, [f"{rho:g}" for rho in rhos])
    ax.set_xlabel("rho: temperature of the weights, 1 is the exact denoiser")
    ax.set_ylabel("minority among samples, %")
    _draw_legend(figure)
    return figure


def _distinct(rows: Sequence[Numbers], key: str) -> list[int | float]:
    return sorted({row[key] for row in rows})


def _draw_shares(ax: Axes, series: Sequence[Numbers], color: str, role: int) -> None:
    """One memory's share against rho; the first role of the classes has filled markers."""
    _, marker = series_style(role)
    trained = series[0]["trained"]
    below = [100 * (row["share"] - row["low"]) for row in series]
    above = [100 * (row["high"] - row["share"]) for row in series]
    ax.errorbar(
        [row["rho"] for row in series],
        [100 * row["share"] for row in series],
        [below, above],
        fmt=f"{marker}-",
        color=color,
        capsize=2,
        markersize=4,
        linewidth=1,
        fillstyle="full" if role == 0 else "none",
        label=f"{100 * trained:.0f} %, majority {series[0]['majority']}",
    )


def _draw_legend(figure: Figure) -> None:
    figure.legend(
        loc="outside right upper",
        frameon=False,
        fontsize=7,
        title="in the memory",
        title_fontsize=8,
    )


def share_against_k(rows: Sequence[Numbers]) -> Figure:
    """The hard vote of Eq. 1 on noised images, by noise level.

    Of each proportion the first majority is drawn.
    """
    figure, ax = new_axes(6.0, 3.4)
    first_majority = [row for row in rows if row["majority"] == rows[0]["majority"]]
    noise_steps = _distinct(rows, "t")
    for i, trained in enumerate(_distinct(rows, "trained")):
        for j, t in enumerate(noise_steps):
            series = [row for row in first_majority if row["trained"] == trained and row["t"] == t]
            _, marker = series_style(j)
            ax.plot(
                [row["k"] for row in series],
                [100 * row["share"] for row in series],
                f"{marker}-",
                linewidth=1,
                color=COLORS[i % len(COLORS)],
                markersize=4,
                label=f"{100 * trained:.0f} %, t = {t}",
            )
    ax.set_xscale("log")
    ax.set_xlabel("k")
    ax.set_ylabel("called minority, %")
    _draw_legend(figure)
    return figure


def end_points(samples: Mapping[str, np.ndarray], share: float, majority: int) -> Figure:
    """Images of the smoothed sampler, one row per temperature; a column has the same noise."""
    prefix = f"{share:g}-{majority}-"
    by_rho = {
        float(name.removeprefix(prefix)): images
        for name, images in samples.items()
        if name.startswith(prefix)
    }
    rhos = sorted(by_rho)
    columns = len(by_rho[rhos[0]])
    figure = Figure(figsize=(0.9 * columns + 0.8, 0.9 * len(rhos)), layout="constrained")
    for rho, row_axes in zip(rhos, figure.subplots(len(rhos), columns), strict=True):
        for ax, image in zip(row_axes, by_rho[rho], strict=True):
            ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            _hide_ticks(ax)
        row_axes[0].set_ylabel(f"{rho:g}", rotation=0, ha="right", va="center")
    return figure
