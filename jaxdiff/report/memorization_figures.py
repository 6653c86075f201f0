"""Figures of the paper's argument: memorization against amplification, and the effective k."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxdiff.analysis.queries import format_mix, group_by_mix, group_key, model_name, model_names
from jaxdiff.estimates import Estimate
from jaxdiff.report.registry import figure
from jaxdiff.report.style import INK, color_of, marker_of, style_axes
from jaxdiff.results import CellInfo, Result, StudyResults


class Point(NamedTuple):
    """A checkpoint: logit of the majority, generated minus trained, and a measure of copying."""

    amplification: float
    copying: Estimate


class Copying(NamedTuple):
    """A measure of copying: how it is read from a result, and its axis.

    Parameters
    ----------
    find
        The estimate of a result's checkpoint, or of the result itself where the step is None.
    label, scale
        Label of the axis, and factor between the estimate and the axis.
    origin
        The estimate's value without copying, which is the axis's 0.
    """

    find: Callable[[Result, int | None], Estimate | None]
    label: str
    scale: float = 1.0
    origin: float = 0.0

    def to_axis(self, value: float) -> float:
        """Where a value of the estimate lies on the axis."""
        return self.scale * (value - self.origin)


class Curve(NamedTuple):
    """How a curve of R^2 is chosen among the estimates, and drawn."""

    label: str
    linestyle: Literal["-", "-.", ":", "--"]
    denoiser: str
    memory: str


TRAINING_MEMORY = Curve("soft k-NN, all training images", "-", "soft_knn", "train")
R2_CURVES = (
    TRAINING_MEMORY,
    Curve("soft k-NN, as many training as unseen", "-.", "soft_knn", "matched train"),
    Curve("soft k-NN, unseen images", ":", "soft_knn", "unseen"),
    Curve("Gaussian", "--", "gaussian", ""),
)


@figure(
    "central",
    title="Memorization against amplification",
    caption="The paper's Figure 2C with numbers: copying against amplification, a color for each "
    "model. The paper says that models move from the upper left (high variance: copies of training "
    "images) to the lower right (high bias: the majority grows) as they get deeper. A large mark "
    "is a model with its 95 % interval, small marks are its earlier checkpoints. Left: the loss of "
    "unseen images minus that of training images, which can be above 0 although no sample is a "
    "copy; for images without a model, the fraction nearer to training than to unseen images, "
    "minus one half. Right: memorized samples; dotted, the fraction of unseen images that would "
    "count as memorized.",
    topic="memorization",
    needs=("memorization", "amplification"),
    method="figure-2c",
)
def central(study: StudyResults) -> Figure | None:
    """The loss gap and the memorized fraction against the logit amplification of each result."""
    plot = Figure(figsize=(8.6, 3.8), layout="constrained")
    left, right = plot.subplots(1, 2, sharex=True)
    has_gaps = any(result.estimates("checkpoints", "eps_gap") for result in study.results)
    _draw_copying(left, study.results, LOSS_GAP if has_gaps else NEARER_TO_TRAINING)
    _draw_copying(right, study.results, MEMORIZED)
    if not left.lines and not right.lines:
        return None
    unseen = [r.find("memorization", "memorized", images="unseen") for r in study.results]
    rates = [e.value for e in unseen if e is not None and e.value is not None]
    if rates:
        right.axhline(100 * float(np.mean(rates)), color=INK, linestyle=":", linewidth=1)
    # At least 10 %, so that a few memorized samples do not fill the axis; room below 0 for marks.
    top = max(10.0, 1.1 * right.get_ylim()[1])
    right.set_ylim(-0.04 * top, top)
    left.axhline(0, color=INK, linewidth=0.6)
    for ax in (left, right):
        ax.axvline(0, color=INK, linewidth=0.6)
        ax.set_xlabel("amplification: logit of the majority,\ngenerated - trained")
    handles = _legend_handles(study.results)
    plot.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return plot


@figure(
    "effective_k",
    title="How many training images a denoising step attends to",
    caption="The soft k-NN denoiser that is most similar to the model, at each noise level. Left: "
    "its effective k, on noised images that the model never saw, with its 95 % interval; where it "
    "is undefined it is missing, and the table says why. Right: how well this denoiser predicts "
    "the model, beside the same with equally many training and unseen images, and beside a "
    "Gaussian. Where unseen images or the Gaussian do as well, the model recalls no training "
    "images at that noise level.",
    topic="mechanism",
    needs=("effective_k",),
)
def effective_k(study: StudyResults) -> Figure:
    """The effective k, and R^2 by denoiser and memory, against the noise level."""
    plot = Figure(figsize=(8.6, 3.4), layout="constrained")
    left, right = plot.subplots(1, 2, sharex=True)
    style_of = _styles(study.results)
    for result in study.results:
        estimates = result.estimates("effective_k", queries="unseen")
        color, marker = style_of(result)
        k = _select(estimates, "k_eff", TRAINING_MEMORY)
        _draw_over_noise(left, k, color, f"{marker}-")
        _draw_intervals(left, k, color)
        for curve in R2_CURVES:
            r2 = _select(estimates, "r2", curve)
            linestyle = f"{marker}-" if curve is TRAINING_MEMORY else curve.linestyle
            linewidth = 0.8 if curve.denoiser == "gaussian" else 1.2
            _draw_over_noise(right, r2, color, linestyle, linewidth=linewidth)
    _label_axes(left, "effective k")
    _label_axes(right, "R² as a prediction of the model")
    # k lies between one training image and all of them.
    largest = max(result.info.n for result in study.results)
    left.set(yscale="log", ylim=(0.9, 1.1 * largest))
    right.set_ylim(0, 1.02)
    handles = _legend_handles(study.results)
    for curve in R2_CURVES:
        handles.append(Line2D([], [], color=INK, linestyle=curve.linestyle, label=curve.label))
    plot.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return plot


def _styles(results: Sequence[Result]) -> Callable[[Result], tuple[str, str]]:
    """A function from a result to the color of its model and the marker of its training data."""
    names = model_names(results)
    mixes = list(group_by_mix(results))

    def style_of(result: Result) -> tuple[str, str]:
        color = color_of(names.index(model_name(result)))
        return color, marker_of(mixes.index(group_key(result)))

    return style_of


def _legend_handles(results: Sequence[Result]) -> list[Line2D]:
    """A color for each model, a marker for each training data."""
    handles = []
    kind = "model" if isinstance(results[0].info, CellInfo) else "set"
    for i, name in enumerate(model_names(results)):
        handles.append(Line2D([], [], color=color_of(i), label=f"{kind} {name}"))
    for i, mix in enumerate(group_by_mix(results)):
        marker = marker_of(i)
        label = format_mix(mix)
        handles.append(Line2D([], [], color=INK, marker=marker, linestyle="none", label=label))
    return handles


def _find_loss_gap(result: Result, step: int | None) -> Estimate | None:
    if step is None:
        step = max((e.labels["step"] for e in result.estimates("checkpoints")), default=None)
    return result.find("checkpoints", "eps_gap", step=step)


def _find_nearer(result: Result, step: int | None) -> Estimate | None:
    # It is measured of all samples alone, not of the few of an early checkpoint.
    return result.find("memorization", "nearer_to_training") if step is None else None


def _find_memorized(result: Result, step: int | None) -> Estimate | None:
    if step is None:
        return result.find("memorization", "memorized", images="samples")
    return result.find("checkpoints", "memorized", step=step)


LOSS_GAP = Copying(_find_loss_gap, "eps loss, unseen - training images")
NEARER_TO_TRAINING = Copying(_find_nearer, "nearer to training images, fraction - 0.5", origin=0.5)
MEMORIZED = Copying(_find_memorized, "memorized samples, %", scale=100.0)


def _draw_copying(ax: Axes, results: Sequence[Result], measure: Copying) -> None:
    style_axes(ax)
    ax.set_ylabel(measure.label)
    style_of = _styles(results)
    for result in results:
        points = _training_path(result, measure)
        if points:
            color, marker = style_of(result)
            _draw_path(ax, points, measure, color, marker)


def _training_path(result: Result, measure: Copying) -> list[Point]:
    """A result's checkpoints in order, the result itself last; undefined ones are left out."""
    steps = sorted({e.labels["step"] for e in result.estimates("checkpoints", "odds_ratio")})
    pairs = [
        (result.find("checkpoints", "odds_ratio", step=step), measure.find(result, step))
        for step in steps
    ]
    pairs.append((result.find("amplification", "odds_ratio"), measure.find(result, None)))
    points = []
    for odds_ratio, copying in pairs:
        # A ratio of 0, where the majority was never drawn, has no logarithm.
        if odds_ratio is None or not odds_ratio.value:
            continue
        if copying is None or copying.value is None:
            continue
        points.append(Point(math.log(odds_ratio.value), copying))
    return points


def _draw_path(
    ax: Axes, points: Sequence[Point], measure: Copying, color: str, marker: str
) -> None:
    x = [point.amplification for point in points]
    y = [measure.to_axis(float(point.copying)) for point in points]
    ax.plot(x, y, color=color, linewidth=0.7, alpha=0.5)
    ax.plot(x[:-1], y[:-1], marker, color=color, markersize=4, fillstyle="none")
    ax.plot(x[-1:], y[-1:], marker, color=color, markersize=7)
    last = points[-1].copying
    if last.low is not None and last.high is not None:
        ends = [measure.to_axis(last.low), measure.to_axis(last.high)]
        ax.plot(x[-1:] * 2, ends, color=color, linewidth=1)


def _select(estimates: Sequence[Estimate], name: str, curve: Curve) -> list[Estimate]:
    """The defined estimates of a curve; the fitted denoiser is the soft k-NN one."""
    selected = []
    for estimate in estimates:
        # rho and k_eff exist for the soft k-NN denoiser alone and name none.
        denoiser = estimate.labels.get("denoiser", "soft_knn")
        has_memory = curve.memory in ("", estimate.labels.get("memory"))
        if estimate.name == name and denoiser == curve.denoiser and has_memory:
            selected.append(estimate)
    return [estimate for estimate in selected if estimate.value is not None]


def _draw_over_noise(
    ax: Axes,
    estimates: Sequence[Estimate],
    color: str,
    linestyle: str,
    *,
    linewidth: float = 1.2,
) -> None:
    t = [estimate.labels["t"] for estimate in estimates]
    values = [float(estimate) for estimate in estimates]
    ax.plot(t, values, linestyle, color=color, markersize=4, linewidth=linewidth)


def _draw_intervals(ax: Axes, estimates: Sequence[Estimate], color: str) -> None:
    for estimate in estimates:
        if estimate.low is not None and estimate.high is not None:
            ax.vlines(estimate.labels["t"], estimate.low, estimate.high, color=color, linewidth=1)


def _label_axes(ax: Axes, label: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("noise level t")
    ax.set_ylabel(label)
