"""The figures of a scaling study. Each title names the study, so that a demonstration says so."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
)

from jaxdiff.estimates import Estimate
from jaxdiff.report.style import INK, color_of, marker_of, new_axes, series_style, style_axes
from jaxdiff.scaling.fits import ScalingFits
from jaxdiff.scaling.isoflop import MIN_SIZES, Budget, IsoflopFit
from jaxdiff.scaling.memorization_time import MemorizationFit
from jaxdiff.scaling.parametric import LeftOut, ParametricFit
from jaxdiff.scaling.points import (
    Answer,
    Depth,
    LossPoint,
    Refused,
    group_nearly_equal,
    order_depths,
)

CURVE_POINTS = 60
LEFT_OUT_MARKERS = {"largest size": "x", "longest run": "+"}
ARROW = 1.25  # from a censored time to the end of its arrow, as a ratio
SHIFT = 1.03  # from one depth's times to the next one's, as a ratio
STAGGER = 0.06  # from one loss to the next at the same depth, of the distance between depths

WIDE, NARROW = 1.5, 0.8  # decades; a wide axis has one label per decade, a narrow one a few numbers

format_flops = EngFormatter(unit="FLOP", places=2)


def loss_against_images(fits: ScalingFits) -> Figure:
    """A panel for each depth: the loss against images seen, a color for each size.

    Of the largest number of training images alone.
    """
    points = _at_most_images(fits)
    depths = list(fits.isoflop)
    plot, axes = _new_panels(len(depths), height=3.9)
    for ax, depth in zip(axes, depths, strict=True):
        _draw_sizes(ax, [p for p in points if p.depth == depth], fits.law)
        for result in fits.left_out:
            if isinstance(result, LeftOut):
                _draw_left_out(ax, result, depth, points)
        ax.set_title(f"{fits.cells.study}, depth {depth}", fontsize=9)
        ax.set_xlabel("images seen in training, D")
        _add_legend_below(ax)
    _use_log_axes(*axes)
    axes[0].set_ylabel("held-out eps loss, L")
    return plot


def _add_legend_below(ax: Axes) -> None:
    """A panel's own legend: sizes and budgets differ between depths."""
    ax.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def _at_most_images(fits: ScalingFits) -> list[LossPoint]:
    largest = max(point.unique_images for point in fits.cells.points)
    return [point for point in fits.cells.points if point.unique_images == largest]


def _new_panels(count: int, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    plot = Figure(figsize=(2.4 + 3.6 * count, height), layout="constrained")
    axes = plot.subplots(1, count, sharey=True, squeeze=False)[0]
    return plot, [style_axes(ax) for ax in axes]


def _use_log_axes(*axes: Axes, y: bool = True) -> None:
    """Logarithmic axes, after everything is drawn, whose labels do not overlap."""
    for ax in axes:
        ax.set_xscale("log")
        _label_log_axis(ax.xaxis)
        if y:
            ax.set_yscale("log")
            _label_log_axis(ax.yaxis)
        ax.tick_params(labelsize=8)


def _label_log_axis(axis: Axis) -> None:
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < NARROW:
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    else:
        axis.set_major_locator(LogLocator(subs=(1,) if decades > WIDE else (1, 2, 5)))
        axis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False))
    axis.set_minor_formatter(NullFormatter())


def _shade(index: int, count: int) -> str:
    """A color of an ordered scale, neither too dark nor too light for either ground."""
    return to_hex(colormaps["viridis"](0.15 + 0.7 * index / max(count - 1, 1)))


def _draw_sizes(ax: Axes, points: Sequence[LossPoint], law: ParametricFit | Refused) -> None:
    sizes = group_nearly_equal(np.array([point.flops for point in points], float))
    count = int(sizes.max()) + 1
    for i in range(count):
        members = [point for point, size in zip(points, sizes, strict=True) if size == i]
        members.sort(key=lambda point: point.images)
        color, marker = _shade(i, count), marker_of(i)
        images = [point.images for point in members]
        label = format_flops(members[0].flops)
        ax.plot(images, [p.loss for p in members], marker, color=color, markersize=5, label=label)
        if isinstance(law, ParametricFit):
            first = members[0]
            grid = np.geomspace(min(images), max(images), CURVE_POINTS)
            curve = [law.predict(first.flops, d, first.unique_images, first.depth) for d in grid]
            ax.plot(grid, curve, color=color, linewidth=1)


def _draw_left_out(ax: Axes, result: LeftOut, depth: Depth, shown: Sequence[LossPoint]) -> None:
    """The losses that the law predicts of points that it was not fitted to."""
    pairs = [
        (point.images, loss)
        for point, loss in zip(result.points, result.predicted, strict=True)
        if point.depth == depth and point in shown
    ]
    if pairs:
        marker = LEFT_OUT_MARKERS[result.what]
        label = f"{result.what}, predicted"
        ax.plot(*zip(*pairs, strict=True), marker, color=INK, markersize=8, label=label)


def isoflop_parabolas(fits: ScalingFits) -> Figure | None:
    """A panel for each depth: the loss against size, a color for each amount of compute.

    Budgets of enough sizes for a minimum; where there is none, those of three and more.
    """
    sizes = [budget.sizes for fit in fits.isoflop.values() for budget in fit.budgets]
    least = min(MIN_SIZES, max(3, *sizes))
    drawn = {
        depth: budgets
        for depth, fit in fits.isoflop.items()
        if (budgets := [budget for budget in fit.budgets if budget.sizes >= least])
    }
    if not drawn:
        return None
    plot, axes = _new_panels(len(drawn), height=3.9)
    for ax, (depth, budgets) in zip(axes, drawn.items(), strict=True):
        for i, budget in enumerate(budgets):
            _draw_budget(ax, budget, _shade(i, len(budgets)), marker_of(i))
        ax.set_title(f"{fits.cells.study}, depth {depth}", fontsize=9)
        ax.set_xlabel("FLOP per forward pass of one image, F")
        _add_legend_below(ax)
    _use_log_axes(*axes)
    axes[0].set_ylabel("held-out eps loss, L")
    return plot


def _draw_budget(ax: Axes, budget: Budget, color: str, marker: str) -> None:
    label = f"C = {format_flops(budget.compute)}"
    ax.plot(budget.flops, budget.losses, marker, color=color, markersize=5, label=label)
    grid = np.geomspace(min(budget.flops), max(budget.flops), CURVE_POINTS)
    ax.plot(grid, budget.loss_at(grid), color=color, linewidth=1)
    if isinstance(budget.best_flops, Estimate):
        best = float(budget.best_flops)
        ax.plot([best], budget.loss_at(np.array([best])), "*", color=color, markersize=12)


def best_size_against_compute(fits: ScalingFits) -> Figure | None:
    """F_opt with its interval against C, a color for each depth; None without a minimum."""
    plot, ax = new_axes()
    for i, (depth, fit) in enumerate(fits.isoflop.items()):
        bracketed = [b for b in fit.budgets if isinstance(b.best_flops, Estimate)]
        if bracketed:
            _draw_best_sizes(ax, bracketed, fit, i, f"depth {depth}")
    if not ax.containers:
        return None
    ax.set_title(fits.cells.study, fontsize=9)
    _use_log_axes(ax)
    ax.set_xlabel("FLOP of training, C = 3 F D")
    ax.set_ylabel("best FLOP per image, F_opt")
    ax.legend(frameon=False, fontsize=8)
    return plot


def _draw_best_sizes(
    ax: Axes, budgets: Sequence[Budget], fit: IsoflopFit, series: int, label: str
) -> None:
    color, marker = series_style(series)
    compute = np.array([budget.compute for budget in budgets])
    table = np.array([_ends(budget.best_flops) for budget in budgets])
    low, best, high = table.T
    bars = [best - low, high - best]
    ax.errorbar(compute, best, bars, fmt=marker, color=color, capsize=3, label=label)
    if isinstance(fit.exponent, Estimate):
        log_line = float(fit.exponent) * np.log(compute)
        line = np.exp(log_line - log_line.mean() + np.log(best).mean())
        ax.plot(compute, line, color=color, linewidth=1)


def _ends(answer: Answer) -> tuple[float, float, float]:
    assert isinstance(answer, Estimate)
    value = float(answer)
    low = value if answer.low is None else answer.low
    return low, value, value if answer.high is None else answer.high


def residuals(fits: ScalingFits) -> Figure | None:
    """log L minus the law's against size and against images seen; None without a law."""
    law = fits.law
    if not isinstance(law, ParametricFit):
        return None
    plot, axes = _new_panels(2, height=3.0)
    errors = law.residuals
    for i, depth in enumerate(law.depths):
        color, marker = series_style(i)
        rows = [row for row, point in enumerate(law.points) if point.depth == depth]
        members = [law.points[row] for row in rows]
        xs = ([p.flops for p in members], [p.images for p in members])
        for ax, x in zip(axes, xs, strict=True):
            ax.plot(x, errors[rows], marker, color=color, markersize=5, label=f"depth {depth}")
    names = ("FLOP per forward pass of one image, F", "images seen in training, D")
    for ax, name in zip(axes, names, strict=True):
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_xlabel(name)
    _use_log_axes(*axes, y=False)
    axes[0].set_title(fits.cells.study, fontsize=9)
    axes[0].set_ylabel("residual of log L")
    axes[-1].legend(frameon=False, fontsize=8)
    return plot


class Span(NamedTuple):
    """A number of one run that is only known to lie between two others.

    Parameters
    ----------
    images
        N: training images.
    low, high
        Its ends; 0 and inf where one is not known.
    depth
        The model's depth, as a number or a label.
    """

    images: float
    low: float
    high: float
    depth: Depth


def memorization_times(fits: ScalingFits) -> Figure | None:
    """Images seen until a run memorizes, against the training images: a panel for each rule.

    None where no rule has times, or all runs have equally many training images.
    """
    panels = {
        rule: [Span(time.images, time.after, time.before, time.depth) for time in times]
        for rule, times in fits.cells.times.items()
    }
    return _draw_span_panels(fits, panels, "images seen until memorization", fits.memorization)


def generation_windows(fits: ScalingFits) -> Figure | None:
    """tau_mem / tau_gen against the training images: a panel for each rule of memorization.

    None where no checkpoints bound a ratio, or all runs have equally many training images.
    """
    panels = {
        rule: [Span(w.images, w.low, w.high, w.depth) for w in windows if w.is_bounded]
        for rule, windows in fits.windows.items()
    }
    return _draw_span_panels(fits, panels, "tau_mem / tau_gen", {})


def _draw_span_panels(
    fits: ScalingFits,
    panels: Mapping[str, Sequence[Span]],
    label: str,
    lines: Mapping[str, MemorizationFit | Refused],
) -> Figure | None:
    """A panel for each rule with runs of several numbers of images, a color for each depth."""
    drawn = {name: s for name, s in panels.items() if len({span.images for span in s}) > 1}
    if not drawn:
        return None
    plot, axes = _new_panels(len(drawn))
    # A depth has one color in all panels, of which one may lack it.
    depths = order_depths([span.depth for spans in drawn.values() for span in spans])
    entries: dict[str, Artist] = {}
    for ax, (rule, spans) in zip(axes, drawn.items(), strict=True):
        line = lines.get(rule)
        for i, depth in enumerate(depths):
            members = [span for span in spans if span.depth == depth]
            if members:
                _draw_spans(ax, members, i)
            if members and isinstance(line, MemorizationFit):
                _draw_time_fit(ax, members, line, i)
        _draw_slope_1(ax, spans)
        handles, labels = ax.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
        ax.set_title(f"{fits.cells.study}, {rule}", fontsize=9)
        ax.set_xlabel("training images, N")
    _use_log_axes(*axes)
    axes[0].set_ylabel(label)
    axes[-1].legend(list(entries.values()), list(entries), frameon=False, fontsize=8)
    return plot


def _draw_spans(ax: Axes, spans: Sequence[Span], series: int) -> None:
    """A bar from end to end; an arrow, up or down, where one end is not known."""
    color, marker = series_style(series)
    label = f"depth {spans[0].depth}"
    for fillstyle in ("full", "none"):
        members = [s for s in spans if math.isinf(s.high) == (fillstyle == "none")]
        if not members:
            continue
        below, y, above = np.array([_span_bar(span) for span in members]).T
        ax.errorbar(
            [span.images * SHIFT**series for span in members],
            y,
            [y - below, above - y],
            fmt=marker,
            color=color,
            markersize=5,
            capsize=3,
            label=label,
            # matplotlib draws a lower limit as an arrow up, and an upper limit as one down.
            lolims=fillstyle == "none",
            uplims=[not span.low for span in members],
            fillstyle=fillstyle,
        )
        label = "_"  # one entry of the legend a depth


def _span_bar(span: Span) -> tuple[float, float, float]:
    """The lower end of a bar or arrow, the mark, and the upper end."""
    if math.isinf(span.high):
        return span.low, span.low, ARROW * span.low
    if not span.low:
        return span.high / ARROW, span.high, span.high
    return span.low, math.sqrt(span.low * span.high), span.high


def _draw_time_fit(ax: Axes, spans: Sequence[Span], fit: MemorizationFit, series: int) -> None:
    offset = fit.offsets[spans[0].depth]
    if not isinstance(fit.kappa, Estimate) or isinstance(offset, Refused):
        return
    images = np.array([min(span.images for span in spans), max(span.images for span in spans)])
    line = np.exp(offset + float(fit.kappa) * np.log(images))
    ax.plot(images, line, color=color_of(series), linewidth=1)


def _draw_slope_1(ax: Axes, spans: Sequence[Span]) -> None:
    """A dashed line of slope 1 through the middle of the runs."""
    images = np.array([span.images for span in spans], float)
    known = [span.high if math.isfinite(span.high) else span.low for span in spans]
    center = np.log(known).mean() - np.log(images).mean()
    ends = np.array([images.min(), images.max()])
    ax.plot(ends, np.exp(center) * ends, "--", color=INK, linewidth=0.8, label="slope 1")


def amplification_at_equal_loss(fits: ScalingFits) -> Figure | None:
    """S of Theorem 2 against depth, a line for each loss; None where all of it is refused."""
    if isinstance(fits.amplification, Refused):
        return None
    known = [fit for fit in fits.amplification if isinstance(fit.exponent, Estimate)]
    if not known:
        return None
    depths = order_depths([fit.depth for fit in fits.amplification])
    losses = list(dict.fromkeys(fit.loss for fit in known))
    plot, ax = new_axes()
    for i, loss in enumerate(losses):
        color, marker = _shade(i, len(losses)), marker_of(i)
        members = [fit for fit in known if fit.loss == loss]
        # Beside each other, so that their intervals do not hide one another.
        x = [depths.index(fit.depth) + STAGGER * (i - (len(losses) - 1) / 2) for fit in members]
        low, value, high = np.array([_ends(fit.exponent) for fit in members]).T
        bars = [value - low, high - value]
        label = f"L = {loss:.3g}"
        ax.errorbar(
            x, value, bars, fmt=f"{marker}-", color=color, linewidth=1, capsize=3, label=label
        )
    ax.axhline(1, color=INK, linestyle="--", linewidth=0.8)
    ax.set_xticks(range(len(depths)), [str(depth) for depth in depths], fontsize=8)
    ax.set_xlim(-0.5, len(depths) - 0.5)
    ax.set_title(fits.cells.study, fontsize=9)
    ax.set_xlabel("depth")
    ax.set_ylabel("exponent S")
    ax.legend(frameon=False, fontsize=8)
    return plot
