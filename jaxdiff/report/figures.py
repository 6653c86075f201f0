"""The report's figures, each a matplotlib Figure made from finished cells, with its title and caption."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxdiff.analysis.queries import Mix, entry, in_words, mixes, models
from jaxdiff.report import memorization_figures as mechanism
from jaxdiff.report import probe_figures
from jaxdiff.report.style import COLOURS, INK, axes, mark
from jaxdiff.results import CellResult

Cells = Sequence[CellResult]
COLUMNS = 16
GATE = 0.7  # of a cell's samples that should be one of the two classes


def _against_depth(
    cells: Cells, section: str, name: str, scale: float, label: str
) -> tuple[Figure, Axes]:
    """A value of every cell with its interval, by model; a colour and a marker a mix, side by side."""
    figure, ax = axes()
    names = models(cells)
    for i, mix in enumerate(mixes(cells)):
        colour, marker = mark(i)
        mine = [(c, e) for c in cells if Mix.of(c) == mix and (e := entry(c, section, name))]
        seeds = sorted({c.own["seed"] for c, _ in mine})
        spread = {seed: 0.12 * (j - (len(seeds) - 1) / 2) for j, seed in enumerate(seeds)}
        x = [names.index(c.own["model"]) + spread[c.own["seed"]] + 0.04 * i for c, _ in mine]
        value = np.array([scale * e["value"] for _, e in mine])
        low, high = (
            np.array([scale * (e["value"] if e[key] is None else e[key]) for _, e in mine])
            for key in ("low", "high")
        )
        if mine:
            ax.errorbar(
                x,
                value,
                [value - low, high - value],
                fmt=marker,
                color=colour,
                capsize=3,
                label=in_words(mix),
            )
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel("model (depth)")
    ax.set_ylabel(label)
    if ax.containers:  # no sample may be either class
        ax.legend(frameon=False, fontsize=8)
    return figure, ax


def share_against_depth(cells: Cells) -> Figure:
    """Figure 4's upper half: the minority's share of each cell with its interval; a dashed line for the training data."""
    figure, ax = _against_depth(cells, "share", "classified", 100.0, "minority among samples, %")
    for i, mix in enumerate(mixes(cells)):
        ax.axhline(100 * mix.proportions[1], color=mark(i)[0], linestyle="--", linewidth=1)
    ax.set_ylim(bottom=0)
    return figure


def lpips_against_depth(cells: Cells) -> Figure:
    """Figure 4's lower half: mean pairwise LPIPS of each cell; a dashed line for its training images."""
    figure, ax = _against_depth(cells, "lpips", "all_pairs", 100.0, "mean pairwise LPIPS x 100")
    for i, mix in enumerate(mixes(cells)):
        found = [
            e["value"]
            for c in cells
            if Mix.of(c) == mix and (e := entry(c, "lpips", "training_data"))
        ]
        if found:
            ax.axhline(100 * float(np.mean(found)), color=mark(i)[0], linestyle="--", linewidth=1)
    return figure


def quality_gate(cells: Cells) -> Figure:
    """What the classifier makes of each cell's samples: a study's class, another class, none."""
    figure, ax = axes(height=0.35 * len(cells) + 1.2)
    left = np.zeros(len(cells))
    parts = {"gate": "one of the two classes", "other_class": "another class", "no_class": "none"}
    for (part, label), colour in zip(
        parts.items(), (COLOURS[0], COLOURS[4], COLOURS[3]), strict=True
    ):
        values = np.array([100 * e["value"] for c in cells if (e := entry(c, "quality", part))])
        ax.barh([c.name for c in cells], values, left=left, color=colour, label=label, height=0.6)
        left += values
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.axvline(100 * GATE, color="white", linestyle=":", linewidth=1.5)
    ax.set_xlabel("samples, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(0.5 * columns + 1, 0.5 * rows + 0.3))
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax in panels.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    figure.subplots_adjust(0.09, 0.01, 0.99, 0.99, wspace=0.08, hspace=0.08)
    return figure, panels


def _show(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _name(ax: Axes, text: str) -> None:
    ax.text(
        -0.25, 0.5, text, transform=ax.transAxes, ha="right", va="center", fontsize=9, color=INK
    )


def sample_grid(cells: Cells) -> Figure:
    """A row a model, a column a noise that all share; frames where the class is not the shallowest model's."""
    shown = [c for c in cells if len(c.common)] or list(cells)
    order = models(shown)
    shown.sort(key=lambda c: (*Mix.of(c), c.own["seed"], order.index(c.own["model"])))
    common = all(len(c.common) for c in shown)
    columns = min([COLUMNS, *(len(c.common if common else c.samples) for c in shown)])
    figure, panels = _grid(len(shown), columns)
    for row, cell in zip(panels, shown, strict=True):
        images, labels = (
            (cell.common, cell.common_labels) if common else (cell.samples, cell.labels)
        )
        base = next(
            c for c in shown if Mix.of(c) == Mix.of(cell) and c.own["seed"] == cell.own["seed"]
        )
        first = base.common_labels if common else base.labels
        for i, ax in enumerate(row):
            _show(ax, images[i])
            if common and labels[i] != first[i]:
                colour, style = _flip(int(labels[i]), cell)
                ax.spines[:].set(visible=True, color=colour, linewidth=2, linestyle=style)
        _name(row[0], f"{cell.own['model']}, s{cell.own['seed']}")
    return figure


def _flip(label: int, cell: CellResult) -> tuple[str, str]:
    """Colour and line of a flip: to the majority, to the minority, to neither."""
    return {cell.own["majority"]: (COLOURS[1], "-"), cell.own["minority"]: (COLOURS[0], "-")}.get(
        label, (COLOURS[3], ":")
    )


def nearest_grid(cells: Cells) -> Figure:
    """For each cell, a row of samples and under it each one's nearest training image in pixels."""
    seed = cells[0].own["seed"]
    shown = [c for c in cells if c.own["seed"] == seed][:8]
    columns = min([COLUMNS, *(len(c.nearest) for c in shown)])
    figure, panels = _grid(2 * len(shown), columns)
    for i, cell in enumerate(shown):
        for column in range(columns):
            _show(panels[2 * i, column], cell.samples[column])
            _show(panels[2 * i + 1, column], cell.nearest[column, 0])
        _name(panels[2 * i, 0], cell.own["model"])
        _name(panels[2 * i + 1, 0], "train")
    return figure


def loss_curves(cells: Cells) -> Figure:
    """Training loss against the step, smoothed by a moving average of a thirtieth of the run."""
    figure, ax = axes()
    for i, cell in enumerate(cells):
        if not cell.metrics:
            continue
        steps = np.array([m["step"] for m in cell.metrics])
        loss = np.array([m["loss"] for m in cell.metrics])
        width = max(1, len(loss) // 30)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        ax.plot(steps[width - 1 :], smooth, color=mark(i)[0], label=cell.name, linewidth=1.2)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    if ax.lines:
        ax.legend(frameon=False, fontsize=8)
    return figure


class Plot(NamedTuple):
    """How a figure is drawn, what of a cell it needs, its heading, and a caption that may name {n}, the samples of a cell."""

    draw: Callable[[Cells], Figure]
    needs: Callable[[CellResult], object]
    title: str
    caption: str


FIGURES = {
    "central": Plot(
        mechanism.central,
        lambda cell: cell.result.get("memorization") and cell.result.get("amplification"),
        "Memorization against amplification",
        "The paper's Figure 2C with numbers: it says that models go from the upper left (high variance: copies of training "
        "images) to the lower right (high bias: the majority grows) as they get deeper. A large mark is a model, small ones "
        "its earlier checkpoints; a colour a depth. Dotted: the fraction of held-out images that would count as memorized.",
    ),
    "effective_k": Plot(
        mechanism.effective_k, lambda cell: cell.result.get("effective_k"), "How many training images a step attends to",
        "Left: exp(entropy of the weights) of the soft k-NN denoiser that is most like the model, on noised images that it "
        "never saw; missing where undefined (the table says why). Right: how well that denoiser, the same of some training "
        "images and of as many held-out ones, and a Gaussian predict the model. Where the Gaussian or the held-out images do "
        "as well, the model recalls no training images at that noise level, and no k is to be had.",
    ),
    "share": Plot(
        share_against_depth, lambda cell: cell.result.get("share"), "Minority share against depth",
        "Figure 4's upper half. Each mark is one model; bars are 95 % Wilson intervals over those "
        "of its {n} samples that are either class and hold for that model alone: they say nothing of another seed. Dashed: the share in the training "
        "data. A model below its line drew fewer of the minority than it was shown.",
    ),
    "lpips": Plot(
        lpips_against_depth, lambda cell: cell.result.get("lpips"), "Diversity against depth",
        "Figure 4's lower half: LPIPS averaged over all pairs of a model's {n} samples; bars are 95 % jackknife intervals "
        "over samples. Dashed: the training images. Above the line is not better: noise left in samples raises LPIPS, and a "
        "change of the classes' shares moves it too (the table has it within each class and at the training mix).",
    ),
    "samples": Plot(
        sample_grid, lambda cell: len(cell.common), "The same noise, other models",
        "A row a model, a column a noise that all models share. Frames mark samples whose class is not that of the "
        "shallowest model of the seed: orange to the majority, blue to the minority, dotted pink to neither. Look for "
        "columns that change as depth grows, and count the frames each way: the table of flips does.",
    ),
    "sets": Plot(
        sample_grid, lambda cell: not len(cell.common), "Samples",
        "A row a set, its first images. Look for what the sets have in common and for images that are wrong.",
    ),
    "nearest": Plot(
        nearest_grid, lambda cell: len(cell.nearest), "Samples and their nearest training images",
        "Under each sample of the first seed, the training image that is nearest in pixels. Look for pairs that are the same "
        "image: that is memorization. Nearness alone is not, since held-out images have near neighbors too (Table 3).",
    ),
    "curvature": Plot(
        probe_figures.plot_study, lambda cell: cell.probe, "Curvature of the energy against depth",
        "Of the models of the first seed, at the same few noised images; bars hold 80 % of them, open marks are the same networks with "
        "random weights. M = I - H / 2 is how much of a step the denoiser keeps in each direction. Theorem 1 is used to say that deeper "
        "models have a smoother energy: then these fall from left to right. python -m experiments.probe measures every level.",
    ),
    "gate": Plot(
        quality_gate, lambda cell: cell.result.get("quality"), "Quality gate",
        "How a classifier with all classes of the dataset, and one for what is none of them, reads the {n} samples of a cell. The first part "
        "is the gate; where it is under 70 % (dotted), the share above describes only the samples that are left.",
    ),
    "loss": Plot(
        loss_curves, lambda cell: cell.metrics, "Training loss",
        "Mean squared error of the network's output, a moving average. It compares models that predict the same thing; "
        "it does not show what sampling makes of the error.",
    ),
}  # fmt: skip
