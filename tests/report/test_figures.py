"""Figures of small results: the data that they draw."""

import dataclasses
import math

import numpy as np
import pytest

from jaxdiff.estimates import Estimate
from jaxdiff.report import figures, memorization_figures, quality_figures
from jaxdiff.results import DepthFigure, Section, StudyResults, read_study
from tests.report.small_results import (
    AMPLIFICATION,
    MEMORIZATION,
    make_cell,
    make_info,
    make_shares,
    write_sets,
    write_study,
)


@pytest.fixture
def study(tmp_path):
    return read_study(write_study(tmp_path))


def depth_section(reference=""):
    drawing = DepthFigure("share", "share, %", 100.0, reference)
    return Section("share", "", "", "shares", "shares", drawing)


def test_a_measure_is_drawn_against_depth():
    """Seeds stand side by side at their model, in percent, with their intervals."""
    cells = [*make_shares("6", 0.1, 0.12), *make_shares("2", 0.2, 0.22)]
    figure = figures.against_depth(cells, depth_section("trained"))
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "6"]
    points, _, (bars,) = ax.containers[0]
    np.testing.assert_allclose(points.get_xdata(), [0.94, 1.06, -0.06, 0.06])
    np.testing.assert_allclose(points.get_ydata(), [10, 12, 20, 22])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[0], [8, 12])
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), 20)


def test_many_seeds_stay_at_their_model():
    cells = [*make_shares("2", *(0.2,) * 24), *make_shares("6", *(0.1,) * 24)]
    points = figures.against_depth(cells, depth_section()).axes[0].containers[0][0]
    places = dict(zip(points.get_xdata(), points.get_ydata(), strict=True))
    assert all(abs(x - (0 if y == 20 else 1)) < 0.5 for x, y in places.items())
    assert len(places) == 48


def test_undefined_values_are_not_drawn():
    cells = make_shares("2", 0.2, None)
    figure = figures.against_depth(cells, depth_section())
    assert len(figure.axes[0].containers[0][0].get_ydata()) == 1
    assert figures.against_depth(make_shares("2", None), depth_section("trained")) is None
    assert figures.against_depth(cells, dataclasses.replace(depth_section(), figure=None)) is None


def test_a_frame_marks_another_class_than_the_shallowest_models(study):
    labels = np.array([6, 6, 9, 3])  # of the deeper model; the shallow one has 6, 9, 6, 3
    deep = dataclasses.replace(study.cells[1], common_labels=labels)
    study = dataclasses.replace(study, cells=[study.cells[0], deep])
    panels = figures.common_samples(study).axes
    is_framed = [ax.spines["top"].get_visible() for ax in panels]
    assert is_framed == [False] * 4 + [False, True, True, False]
    colors = [panels[i].spines["top"].get_edgecolor()[:3] for i in (5, 6)]
    assert colors[0][0] > colors[0][2], "to the majority: orange"
    assert colors[1][2] > colors[1][0], "to the minority: blue"


def test_the_central_figure_has_the_checkpoints_before_the_model(study):
    left, right = memorization_figures.central(study).axes
    for ax, values in ((left, [0.003, 0.03]), (right, [2, 5])):
        path = ax.lines[0]
        np.testing.assert_allclose(path.get_xdata(), [math.log(1.2), math.log(1.5)])
        np.testing.assert_allclose(path.get_ydata(), values)
    interval = left.lines[3]
    np.testing.assert_allclose(interval.get_ydata(), [0.01, 0.05])
    dotted = [line for line in right.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(dotted[0].get_ydata(), 1)


def test_the_central_figure_of_images_without_a_model(tmp_path):
    """They have no loss: the fraction that is nearer to training images, less one half."""
    sets = read_study(write_sets(tmp_path, (MEMORIZATION, AMPLIFICATION), trained=0.2))
    left, right = memorization_figures.central(sets).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.05])
    np.testing.assert_allclose(left.lines[0].get_xdata(), [math.log(1.5)])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [5])
    assert "nearer to training" in left.get_ylabel()


def test_nothing_to_draw_is_no_central_figure(tmp_path):
    sets = read_study(write_sets(tmp_path, (MEMORIZATION,)))
    assert memorization_figures.central(sets) is None


def test_an_undefined_k_is_left_out(study):
    left, right = memorization_figures.effective_k(study).axes
    assert [line.get_xdata().tolist() for line in left.lines] == [[100], [100]]
    values = [line.get_ydata().tolist() for line in right.lines[:4]]
    assert values == [[0.8], [], [0.6], [0.5]]
    intervals = [bars.get_segments()[0][:, 1].tolist() for bars in left.collections]
    np.testing.assert_allclose(intervals, [[2.98, 3.02]] * 2)


def test_the_curvature_stands_over_the_measured_asymmetry(study):
    (legend,) = figures.curvature(study).legends
    assert "is 0.85 (2), 0.85 (3)." in " ".join(legend.get_title().get_text().split())


def test_the_gate_is_a_bar_in_three_parts(study):
    bars = quality_figures.quality_gate(study).axes[0].patches
    widths = [bar.get_width() for bar in bars]
    np.testing.assert_allclose(widths, [90, 90, 8, 8, 2, 2])


def make_losing(seed, majority, minority):
    """A cell that loses these fractions of its classes; odd seeds have the 9 as the majority."""
    info = make_info("2", seed)
    if seed % 2:
        info = dataclasses.replace(info, majority=9, minority=6)
    losses = (("majority", majority), ("minority", minority))
    return make_cell(
        info,
        loss_by_class=[
            Estimate(value, n=50, name="lost", labels={"role": role}) for role, value in losses
        ],
    )


def test_losses_are_drawn_by_class_and_role():
    cells = [
        make_losing(0, 0.1, 0.2),
        make_losing(1, 0.3, 0.4),
        make_losing(2, 0.2, 0.3),
        make_losing(3, 0.5, 0.6),
    ]
    ax = quality_figures.loss_by_class(StudyResults(settings={}, cells=cells)).axes[0]
    means = [line for line in ax.lines if line.get_markersize() == 7]
    drawn = [(line.get_color(), line.get_fillstyle(), float(line.get_ydata()[0])) for line in means]
    six, nine = means[0].get_color(), means[2].get_color()
    assert six != nine
    expected = [(six, "full", 15), (six, "none", 50), (nine, "full", 40), (nine, "none", 25)]
    assert [entry[:2] for entry in drawn] == [entry[:2] for entry in expected]
    np.testing.assert_allclose([entry[2] for entry in drawn], [entry[2] for entry in expected])
    seeds = [line.get_ydata() for line in ax.lines if line.get_markersize() == 3]
    np.testing.assert_allclose(seeds, [[10, 20], [40, 60], [30, 50], [20, 30]])
