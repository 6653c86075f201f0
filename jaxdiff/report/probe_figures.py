"""Figures of the Hessian-smoothness probe: against level, noise level and depth, and the verdicts at a glance."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdiff.analysis.smoothness import Probed, in_short, of_cells
from jaxdiff.report.style import COLORS, INK, MARKERS, series_style, style_axes
from jaxdiff.results import CellResult

Models = Sequence[Probed]


class Panel(NamedTuple):
    """A quantity: its title, the entries of its rows, and whether it is drawn on a logarithmic axis."""

    title: str
    where: dict[str, Any]
    log: bool = True


PIXELS = (
    Panel("|M|", {"reading": "denoiser", "name": "spectral_norm"}, False),
    Panel("tr M: dimensions kept", {"reading": "denoiser", "name": "trace"}),
    Panel("stable rank of M", {"reading": "denoiser", "name": "stable_rank"}),
    Panel("smallest eigenvalue of H", {"reading": "hessian", "name": "smallest"}, False),
)


def _level_panels(models: Models) -> list[Panel]:
    ranks = sorted({r for model in models for r in model.entries("rank")})
    return [
        Panel("|J| of pixels to level", {"reading": "maps", "name": "from_pixels"}),
        Panel("|J| of the step to it", {"reading": "maps", "name": "step"}),
        *(
            Panel(f"|H| pulled back, r = {r}", {"reading": "pull_back", "name": "total", "rank": r})
            for r in ranks[-1:]
        ),
        Panel("|H| of the decoder", {"reading": "decoder", "name": "total"}),
        Panel(
            "|M| of the memory, raw tau",
            {"reading": "memory", "name": "spectral_norm", "tau": "raw"},
        ),
        Panel(
            "|M| of the memory, scaled tau",
            {"reading": "memory", "name": "spectral_norm", "tau": "scaled"},
        ),
    ]


def _quantiles(model: Probed, **where: Any) -> tuple[float, float, float] | None:
    """The 10 % quantile, the median and the 90 % quantile over the points."""
    found = model.values(**where)
    if found is None or not np.isfinite(found[0]).any():
        return None
    return tuple(np.nanquantile(found[0], [0.1, 0.5, 0.9]))


def _lines(ax: Axes, models: Models, key: str, where: dict[str, Any]) -> bool:
    """The median against level or t with its band, a colour a model, dashed with random weights; whether anything was drawn."""
    drawn = False
    for i, model in enumerate(models):
        for weights, line in (("trained", "-"), ("random", "--")):
            found = [
                (x, q)
                for x in model.entries(key)
                if (q := _quantiles(model, **where, weights=weights, **{key: x}))
            ]
            if not found:
                continue
            x, (low, middle, high) = [x for x, _ in found], np.array([q for _, q in found]).T
            colour, marker = series_style(i)
            drawn = True
            ax.plot(x, middle, marker=marker, linestyle=line, color=colour, markersize=4, linewidth=1.2,
                    fillstyle="full" if weights == "trained" else "none")  # fmt: skip
            if weights == "trained":
                ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    return drawn


def _figure(
    panels: Sequence[Panel],
    draw: Callable[[Axes, Panel], bool],
    handles: list[Line2D],
    columns: int,
) -> Figure | None:
    """The panels of which there is something to draw; None where there is none."""
    kept = [panel for panel in panels if draw(Figure().add_subplot(), panel)]
    if not kept:
        return None
    rows = -(-len(kept) // columns)
    figure = Figure(
        figsize=(2.9 * min(columns, len(kept)) + 0.2, 2.5 * rows + 0.5), layout="constrained"
    )
    axs = figure.subplots(rows, min(columns, len(kept)), squeeze=False).ravel()
    for ax, panel in zip(axs, kept, strict=False):
        draw(ax, panel)
        ax.set_title(panel.title, fontsize=9)
        ax.set_yscale("log" if panel.log and _positive(ax) else "linear")
        style_axes(ax).tick_params(labelsize=8)
    for ax in axs[len(kept) :]:
        ax.set_visible(False)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _positive(ax: Axes) -> bool:
    return all(np.all(np.asarray(line.get_ydata(), np.float64) > 0) for line in ax.lines)


def _names(models: Models) -> list[Line2D]:
    found = [
        Line2D(
            [],
            [],
            color=series_style(i)[0],
            marker=series_style(i)[1],
            label=f"{model.name} ({model.bottleneck} px)",
        )
        for i, model in enumerate(models)
    ]
    if any("random" in model.entries("weights") for model in models):
        found.append(Line2D([], [], color=INK, linestyle="--", label="random weights"))
    return found


def against_level(models: Models) -> Figure | None:
    """Every reading against the level, at the middle noise level: Theorem 1 wants |J| below 1 (dotted) and the other curves to fall."""
    t = _middle(models)

    def draw(ax: Axes, panel: Panel) -> bool:
        drawn = _lines(ax, models, "level", panel.where | {"t": t})
        ax.set_xlabel(f"level, t = {t}", fontsize=8)
        ax.set_xticks(sorted({level for model in models for level in model.entries("level")}))
        if panel.title.startswith("|J|"):
            ax.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        return drawn

    return _figure(_level_panels(models), draw, _names(models), 3)


def against_noise(models: Models) -> Figure | None:
    """The curvature at the pixels against the noise level."""

    def draw(ax: Axes, panel: Panel) -> bool:
        drawn = _lines(ax, models, "t", panel.where | {"level": 0})
        ax.set_xlabel("noise level t", fontsize=8)
        return drawn

    return _figure(PIXELS, draw, _names(models), 4)


def against_depth(models: Models) -> Figure | None:
    """At the pixels and at the bottleneck, a model a place, a colour a noise level."""
    times = sorted({t for model in models for t in model.entries("t")})

    def draw(ax: Axes, panel: Panel) -> bool:
        drawn = False
        for i, (t, (weights, away)) in enumerate(
            (t, w) for t in times for w in (("trained", 0.0), ("random", 0.06))
        ):
            for x, model in enumerate(models):
                level = panel.where.get("level", model.depth)
                q = _quantiles(model, **panel.where | {"level": level}, weights=weights, t=t)
                if q:
                    drawn = True
                    ax.errorbar(x + away + 0.12 * (i // 2 - (len(times) - 1) / 2), q[1], [[q[1] - q[0]], [q[2] - q[1]]],
                                fmt=MARKERS[i // 2 % 6], color=COLORS[i // 2 % 6], capsize=2, markersize=4,
                                fillstyle="full" if weights == "trained" else "none")  # fmt: skip
        long = max(len(model.name) for model in models) > 8
        ax.set_xticks(range(len(models)), [model.name for model in models], fontsize=7, rotation=25 if long else 0,
                      ha="right" if long else "center")  # fmt: skip
        return drawn

    pixels = [
        panel._replace(title=f"pixels: {panel.title}", where=panel.where | {"level": 0})
        for panel in PIXELS[:2]
    ]
    levels = [panel._replace(title=f"bottleneck: {panel.title}") for panel in _level_panels(models)]
    handles = [
        Line2D(
            [], [], color=COLORS[i % 6], marker=MARKERS[i % 6], linestyle="none", label=f"t = {t}"
        )
        for i, t in enumerate(times)
    ]
    if any("random" in model.entries("weights") for model in models):
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
    return _figure([*pixels, *levels], draw, handles, 4)


def verdict_grid(models: Models) -> Figure | None:
    """In how many decided comparisons from level to level the norm falls: a row a model, a column a reading and scale."""
    rows = [row for row in in_short(models) if row["comparison"] == "level with level"]
    columns = list(dict.fromkeys((row["reading"], row["form"], row["scale"]) for row in rows))
    lines = [(model.name, weights) for model in models for weights in ("trained", "random")
             if any((row["model"], row["weights"]) == (model.name, weights) for row in rows)]  # fmt: skip
    grid, texts = np.full((len(lines), len(columns)), np.nan), {}
    for row in rows:
        at = (
            lines.index((row["model"], row["weights"])),
            columns.index((row["reading"], row["form"], row["scale"])),
        )
        if row["falls, %"] is not None:
            grid[at] = row["falls, %"]
            texts[at] = f"{row['falls, %']:.0f} %\nof {row['falls'] + row['does not fall']}"
    if not texts:
        return None
    figure = Figure(
        figsize=(1.15 * len(columns) + 1.8, 0.5 * len(lines) + 1.5), layout="constrained"
    )
    ax = figure.add_subplot()
    ax.imshow(grid, cmap="RdBu", vmin=0, vmax=100, aspect="auto", alpha=0.6)
    for (i, j), text in texts.items():
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="#1a1a1a")
    ax.set_xticks(
        range(len(columns)), ["\n".join(filter(None, column)) for column in columns], fontsize=7
    )
    ax.set_yticks(range(len(lines)), [f"{name}, {weights}" for name, weights in lines], fontsize=8)
    ax.xaxis.tick_top()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


def of_study(cells: Sequence[CellResult]) -> Figure:
    """The models of the first data and seed against depth."""
    figure = against_depth(next(iter(of_cells(cells).values())))
    return Figure() if figure is None else figure


def _middle(models: Models) -> int:
    times = sorted({t for model in models for t in model.entries("t")})
    return times[len(times) // 2]


FIGURES: dict[str, Callable[[Models], Figure | None]] = {
    "against_level": against_level, "against_noise": against_noise, "against_depth": against_depth, "verdicts": verdict_grid,
}  # fmt: skip
