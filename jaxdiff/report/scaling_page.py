"""scaling.html, scaling.json, tables and figures of a scaling study."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from etils import epath
from matplotlib.figure import Figure

from jaxdiff import files
from jaxdiff.estimates import Estimate
from jaxdiff.report import scaling_figures, tables
from jaxdiff.report.method import load_method
from jaxdiff.report.page import Block, Topic, draw_svg, render_template
from jaxdiff.report.registry import TableRows
from jaxdiff.scaling.fits import FitNumber, ScalingFits
from jaxdiff.scaling.parametric import ParametricFit

BEST_SIZE = "best_flops"  # one row per budget, in a table of their own
FITS_LABELS = ("depth", "compute", "left_out", "rule")
WINDOW_LABELS = ("rule", "depth", "images", "seed")
AMPLIFICATION_LABELS = ("loss", "depth", "class")
OWN_TABLES = ("window", "amplification")  # fits whose numbers are in tables of their own


class ScalingFigure(NamedTuple):
    """A figure of the page.

    Parameters
    ----------
    name
        Name of its SVG file.
    title, caption
        Heading, and what to look for.
    method
        Heading of docs/method.md that explains it.
    draw
        Returns the figure; None where there is nothing to draw.
    has_panels
        Whether it needs the page's whole width.
    """

    name: str
    title: str
    caption: str
    method: str
    draw: Callable[[ScalingFits], Figure | None]
    has_panels: bool = False


FIGURES = (
    ScalingFigure(
        "loss_against_images",
        "Loss against images seen",
        "Held-out loss against the images seen in training, for the largest training set: a color "
        "for each size, a panel for each depth. Lines are the fitted law. Crosses are predictions "
        "for the largest size, and for the longest runs, by a law fitted without them: their "
        "distance from the points shows what an extrapolation is worth.",
        "scaling-law",
        scaling_figures.loss_against_images,
        has_panels=True,
    ),
    ScalingFigure(
        "residuals",
        "Residuals of the law",
        "Log losses minus those of the law, against size and against images seen. Look for a "
        "trend: if the law bends differently from the points, it is wrong for other sizes or "
        "lengths.",
        "scaling-law",
        scaling_figures.residuals,
        has_panels=True,
    ),
    ScalingFigure(
        "isoflop_parabolas",
        "Loss against size at equal compute",
        "Held-out loss against size, a color for each amount of compute C = 3 F D. A star is a "
        "minimum within the sizes; without one, or with fewer than five sizes, a parabola says "
        "nothing about the best size. Between two lengths of a run its loss is interpolated.",
        "best-size",
        scaling_figures.isoflop_parabolas,
        has_panels=True,
    ),
    ScalingFigure(
        "best_size_against_compute",
        "Best size against compute",
        "The minima of the parabolas with their intervals, against compute, and the line whose "
        "slope is their exponent.",
        "best-size",
        scaling_figures.best_size_against_compute,
    ),
    ScalingFigure(
        "memorization_times",
        "Time until memorization",
        "Images seen until a rule of memorization holds at a checkpoint, against the number of "
        "training images, a panel for each rule. The rules: 1 or 10 % of the samples are "
        "memorized, or the loss of unseen images is above that of training images by three "
        "standard errors. A bar goes from the last checkpoint before the rule holds to the first "
        "at which it holds. An open mark with an arrow is a run that ended before; an arrow down, "
        "one that memorized at its first checkpoint. Dashed: slope 1, a time that grows in "
        "proportion to the training set.",
        "memorization-time",
        scaling_figures.memorization_times,
        has_panels=True,
    ),
    ScalingFigure(
        "generation_windows",
        "Window between generation and memorization",
        "The time until memorization (tau_mem) over the time until a model draws as well as it "
        "ever does (tau_gen), a panel for each rule of memorization. Training may stop in the "
        "window between 1 and the mark; below 1 a model memorizes first. A bar covers what the "
        "checkpoints leave open; an arrow up means at least this ratio, an arrow down at most. "
        "Dashed: slope 1, a window that grows in proportion to the training set.",
        "window",
        scaling_figures.generation_windows,
        has_panels=True,
    ),
    ScalingFigure(
        "amplification_at_equal_loss",
        "Amplification at equal loss",
        "The exponent S of logit(generated) = b + S logit(trained) against depth, a color for each "
        "loss L. Lines that rise show that deeper models amplify more than shallow models with the "
        "same loss. Runs are read where their loss of unseen images first falls to L, which all "
        "runs pass; S comes from runs with one class as the majority and runs with the other. "
        "Intervals are over seeds; dashed: no amplification.",
        "amplification-at-equal-loss",
        scaling_figures.amplification_at_equal_loss,
    ),
)


def write(fits: ScalingFits, out: epath.PathLike) -> epath.Path:
    """Write scaling.json, tables/, figures/ and scaling.html.

    Returns
    -------
    path
        Path of scaling.html.
    """
    out = epath.Path(out)
    files.write_json(out / "scaling.json", to_json(fits))
    method = load_method()
    blocks = []
    for figure in FIGURES:
        svg = draw_svg(out, figure.name, functools.partial(figure.draw, fits))
        if svg is not None:
            anchor = f"figure-{figure.name}"
            link = method.find_anchor(figure.method)
            block = Block(anchor, figure.title, figure.caption, "", link, svg, figure.has_panels)
            blocks.append(block)
    for name, title, caption, rows in _build_tables(fits):
        if rows:
            tables.write(out / "tables", name, rows)
            blocks.append(Block(f"table-{name}", title, caption, topic="", table=name, rows=rows))
    page = render_template(
        "scaling.html",
        settings={"name": fits.cells.study},
        cells=fits.cells,
        limits=fits.limits,
        topics=[Topic("Fits", blocks)],
        method=method,
        settings_text=json.dumps(fits.cells.settings, indent=1),
    )
    path = out / "scaling.html"
    files.write(path, page)
    return path


def to_json(fits: ScalingFits) -> dict[str, object]:
    """The content of scaling.json: all numbers by fit, what was left out, and what is lacking."""
    cells = fits.cells
    return {
        "study": cells.study,
        "cells": list(cells.names),
        "held_out": cells.held_out,
        "left_out": {
            "diverged": list(cells.diverged),
            "without_loss": list(cells.without_loss),
            "other_learning_rate": list(cells.other_rates),
        },
        "limits": list(fits.limits),
        "fits": {
            fit: [number.to_json() for number in numbers] for fit, numbers in fits.numbers().items()
        },
        "learning_rates": [
            {**choice._asdict(), "inside": choice.is_inside} for choice in cells.rates
        ],
    }


def _build_tables(fits: ScalingFits) -> Iterator[tuple[str, str, str, TableRows]]:
    """Name of the file, heading, caption and rows."""
    numbers = fits_table(fits)
    yield (
        "fits",
        "Numbers of the fits",
        "The numbers of each fit, with 95 % intervals. A number that the points do not determine "
        "has the reason instead.",
        [row for row in numbers if row["number"] != BEST_SIZE],
    )
    yield (
        "best_sizes",
        "Best sizes",
        "The minimum of each parabola, in FLOP per image, or the reason why it has none.",
        [row for row in numbers if row["number"] == BEST_SIZE],
    )
    by_fit = fits.numbers()
    yield (
        "windows",
        "Windows between generation and memorization",
        "The two ends between which the ratio of both times lies, for each run; blank if an end is "
        "not known.",
        [_number_row(n, WINDOW_LABELS) for n in by_fit["window"]],
    )
    yield (
        "amplification",
        "Amplification at equal loss",
        "S (exponent), b (offset, of the class named) and the mean gate of the samples, at each "
        "loss.",
        [_number_row(n, AMPLIFICATION_LABELS) for n in by_fit["amplification"]],
    )
    yield (
        "points",
        "Points",
        "The points that were fitted: each model's held-out loss, and that of the law.",
        points_table(fits),
    )
    yield (
        "learning_rates",
        "Learning rates",
        "The learning rate of least loss for each size and length; at an end of those tried it may "
        "not be the best.",
        rates_table(fits),
    )


def fits_table(fits: ScalingFits) -> TableRows:
    """A row for each number of the fits that have no table of their own."""
    return [
        {"fit": fit, **_number_row(number, FITS_LABELS)}
        for fit, numbers in fits.numbers().items()
        if fit not in OWN_TABLES
        for number in numbers
    ]


def _number_row(number: FitNumber, labels: Sequence[str]) -> dict[str, object]:
    answer = number.answer
    row: dict[str, object] = {"number": number.name}
    row |= {key: number.labels.get(key, "") for key in labels}
    if isinstance(answer, Estimate):
        n = "" if answer.n is None else answer.n
        return {**row, **tables.value_columns(answer), "n": n, "interval": answer.method, "why": ""}
    blank = dict.fromkeys(("value", "low", "high", "n", "interval"), "")
    return {**row, **blank, "why": answer.refused}


def points_table(fits: ScalingFits) -> TableRows:
    """A row for each fitted cell."""
    law = fits.law
    rows: TableRows = []
    for name, point in zip(fits.cells.names, fits.cells.points, strict=True):
        row: dict[str, object] = {
            "cell": name,
            "depth": point.depth,
            "seed": point.seed,
            "FLOP an image": point.flops,
            "images seen": point.images,
            "training images": point.unique_images,
            "FLOP of training": point.compute,
            "loss": point.loss,
        }
        if isinstance(law, ParametricFit):
            row["law"] = law.predict(point.flops, point.images, point.unique_images, point.depth)
        rows.append(row)
    return rows


def rates_table(fits: ScalingFits) -> TableRows:
    """A row for each size and length of which several rates were tried."""
    return [
        {
            "model": choice.model,
            "FLOP an image": choice.flops,
            "images seen": choice.images,
            "best": choice.best,
            "tried": ", ".join(f"{rate:g}" for rate in choice.tried),
            "inside": "yes" if choice.is_inside else "no",
        }
        for choice in fits.cells.rates
    ]
