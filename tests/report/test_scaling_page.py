"""scaling.html and what lies beside it."""

import csv
import dataclasses
import json
import math
import re

import pytest
from etils import epath

from jaxdiff.report import scaling_figures, scaling_page
from jaxdiff.report.method import load_method
from jaxdiff.scaling.fits import fit_study
from jaxdiff.scaling.points import LossPoint
from tests.scaling.simulated_points import simulate_points
from tests.scaling.test_amplification import simulate_courses
from tests.scaling.test_fits import build_cells
from tests.scaling.test_memorization_time import median_end, simulate_times

ALL_FIGURES = {figure.name for figure in scaling_page.FIGURES}


def figures_in(folder):
    return {path.stem for path in (folder / "figures").iterdir()}


def simulate_along_training():
    """Times by two rules, with windows of all kinds, and courses of which one cannot be read."""
    times = tuple(simulate_times(depths=(2, 4), seeds=2, end=median_end(0.2)))
    generation = [dataclasses.replace(time, after=400.0, before=500.0) for time in times]
    generation[0] = dataclasses.replace(times[0], after=0.0, before=500.0)
    generation[-1] = dataclasses.replace(times[-1], before=math.inf)
    return {
        "times": {"1 % memorized": times, "loss gap": times[::2]},
        "generation": tuple(generation),
        "courses": (*simulate_courses((2, 4)), *simulate_courses((6,), gate=0.5)),
    }


def read_table(folder, name):
    with (folder / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = epath.Path(tmp_path_factory.mktemp("scaling"))
    points = simulate_points(0.003, depths=(2, 4), sizes=7, lengths=6)
    fits = fit_study(build_cells(points, **simulate_along_training()))
    assert scaling_page.write(fits, out) == out / "scaling.html"
    return out, fits


def test_a_whole_study_has_every_figure(written):
    out, fits = written
    page = (out / "scaling.html").read_text()
    assert figures_in(out) == ALL_FIGURES
    assert page.count("<svg") == len(ALL_FIGURES)
    assert "<h1>made up</h1>" in page
    for name in ALL_FIGURES:
        assert f'id="figure-{name}"' in page
        assert "made up" in (out / "figures" / f"{name}.svg").read_text(), "the study's name"
    assert "<h2>Known confounds" not in page
    for link in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{link}"' in page
    assert all(limit in page for limit in fits.limits)
    assert {figure.method for figure in scaling_page.FIGURES} <= load_method().anchors


def test_numbers_are_in_json_and_in_tables(written):
    out, fits = written
    content = json.loads((out / "scaling.json").read_text())
    numbers = [number for group in fits.numbers().values() for number in group]
    assert sum(map(len, content["fits"].values())) == len(numbers)
    rows = [*read_table(out, "fits"), *read_table(out, "best_sizes")]
    rows += read_table(out, "amplification")
    windows = read_table(out, "windows")
    names = [row["number"] for row in (*rows, *windows)]
    assert sorted(names) == sorted(number.name for number in numbers)
    assert all(row["value"] or row["why"] for row in rows)
    assert all(row["low"] or row["high"] or row["why"] for row in windows)
    points = read_table(out, "points")
    assert len(points) == len(fits.cells.points)
    for row in points:
        assert float(row["law"]) == pytest.approx(float(row["loss"]), rel=0.02)


def test_tables_say_which_run_and_which_loss(written):
    out, fits = written
    windows = read_table(out, "windows")
    assert {row["rule"] for row in windows} == {"1 % memorized", "loss gap"}
    assert len(windows) == 1.5 * len(fits.cells.generation)
    assert windows[0]["high"] == "", "the run draws well at its first checkpoint"
    rows = read_table(out, "amplification")
    losses = {float(row["loss"]) for row in rows}
    assert losses == {fit.loss for fit in fits.amplification}
    unreadable = [row for row in rows if row["depth"] == "6" and row["number"] != "gate"]
    assert all("the mean gate is 0.50" in row["why"] for row in unreadable)
    assert {row["class"] for row in rows if row["number"] == "offset"} == {"6"}


def test_a_line_for_each_loss_and_a_panel_for_each_rule(written):
    _, fits = written
    (ax,) = scaling_figures.amplification_at_equal_loss(fits).axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    losses = sorted({fit.loss for fit in fits.amplification}, reverse=True)
    assert labels == [f"L = {loss:.3g}" for loss in losses]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "4", "6"]
    for container in ax.containers:
        x = container.lines[0].get_xdata()
        assert [round(float(place)) for place in x] == [0, 1], "depth 6 cannot be read"
    for draw in (scaling_figures.memorization_times, scaling_figures.generation_windows):
        titles = [panel.get_title() for panel in draw(fits).axes]
        assert titles == ["made up, 1 % memorized", "made up, loss gap"]


def test_each_depth_has_a_legend_of_its_own_sizes():
    shallow = simulate_points(0.003, depths=(2,), sizes=4, lengths=4)
    deep = [dataclasses.replace(p, depth=4, flops=1.5 * p.flops) for p in shallow]
    fits = fit_study(build_cells([*shallow, *deep]))
    for ax, points in zip(
        scaling_figures.loss_against_images(fits).axes, (shallow, deep), strict=True
    ):
        labels = {text.get_text() for text in ax.get_legend().get_texts()}
        sizes = {scaling_figures.format_flops(point.flops) for point in points}
        assert {label for label in labels if label.endswith("FLOP")} == sizes


def test_a_depth_has_one_color_in_all_panels_and_no_line_where_its_offset_is_refused():
    times = simulate_times(depths=(2, 4), seeds=2, end=median_end(0.2))
    never = [
        dataclasses.replace(t, after=t.after or t.before, before=math.inf) if t.depth == 4 else t
        for t in times
    ]
    by_rule = {"1 % memorized": tuple(never), "loss gap": tuple(t for t in times if t.depth == 4)}
    points = simulate_points(0.003, depths=(2, 4), sizes=4, lengths=4)
    fits = fit_study(build_cells(points, times=by_rule))
    plot = scaling_figures.memorization_times(fits)
    colors = {}
    for ax in plot.axes:
        for container in ax.containers:
            depth = container.get_label()
            if not depth.startswith("_"):
                colors.setdefault(depth, set()).add(container.lines[0].get_color())
    assert {depth: len(of_depth) for depth, of_depth in colors.items()} == {
        "depth 2": 1,
        "depth 4": 1,
    }
    assert colors["depth 2"] != colors["depth 4"]
    legend = plot.axes[-1].get_legend()
    assert {"depth 2", "depth 4"} <= {text.get_text() for text in legend.get_texts()}
    first = [line for line in plot.axes[0].lines if line.get_linestyle() == "-"]
    fitted = [line.get_color() for line in first if len(line.get_xdata()) == 2]
    assert fitted == list(colors["depth 2"])


@pytest.mark.slow
def test_equal_studies_write_equal_bytes(written, tmp_path):
    out, fits = written
    scaling_page.write(fits, tmp_path)
    for name in ("scaling.json", "scaling.html", "figures/residuals.svg"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    points = [LossPoint(0.5, 1e6, 3200.0, 480.0), LossPoint(0.4, 2e6, 3200.0, 480.0)]
    scaling_page.write(fit_study(build_cells(points)), tmp_path)
    assert figures_in(epath.Path(tmp_path)) == {"loss_against_images"}
    (law, *_) = read_table(epath.Path(tmp_path), "fits")
    assert law["value"] == ""
    assert "the law needs 3 of each" in law["why"]
