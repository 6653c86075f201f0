"""Figures of claims: the seeds, ends and crossings that they draw."""

import numpy as np
import pytest
from scipy.special import logit

from jaxdiff.analysis.claims import judge_study
from jaxdiff.report import claim_figures, training_figures
from jaxdiff.results import StudyResults
from tests.analysis.trained_cells import make_trained

TRAINED = float(logit(0.2))
LOSSES = (0.4, 0.2, 0.1)


def make_study(num_seeds, change=-0.6, gate=0.9, secondary=("equal_loss",)):
    """Models 2 and 6 over these seeds; 6 has 0.8 of the loss of 2 and a share lower by `change`."""
    cells = []
    for seed in range(num_seeds):
        shallow = TRAINED + 0.05 * (seed // 2) + 0.2 * (seed % 2)
        deep = shallow + change + 0.02 * (seed // 2)
        gates = [gate] * 3
        cells.append(make_trained("2", seed, LOSSES, [-3.0, -2.0, shallow], gates))
        losses = [0.8 * loss for loss in LOSSES]
        cells.append(make_trained("6", seed, losses, [-3.5, -2.5, deep], gates))
    seeds = list(range(num_seeds))
    settings = {"seeds": seeds, "primary": ["2", "6"], "secondary": list(secondary)}
    return StudyResults(settings=settings, cells=cells)


def test_a_line_goes_from_the_shallow_to_the_deep_share_of_each_seed():
    study = make_study(4)
    panels = claim_figures.seed_lines(study).axes
    assert len(panels) == 2, "the primary claim, and the one at equal loss"
    lines = panels[0].lines
    drawn = np.array([line.get_ydata() for line in lines[:4]])
    shallow = TRAINED + np.array([0, 0.2, 0.05, 0.25])
    np.testing.assert_allclose(drawn[:, 0], shallow, atol=1e-6)
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], [-0.6, -0.6, -0.58, -0.58], atol=1e-6)
    np.testing.assert_allclose(lines[4].get_ydata(), drawn.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(lines[5].get_ydata(), TRAINED)
    colors = [line.get_color() for line in lines[:4]]
    assert colors[0] == colors[2] != colors[1] == colors[3], "a color for each role"
    assert "at equal loss of unseen images" in panels[1].get_title()


def test_one_seed_has_no_lines_and_no_sensitivity():
    study = make_study(1, secondary=())
    assert claim_figures.seed_lines(study) is None
    assert claim_figures.sensitivity(study) is None


@pytest.mark.parametrize("gate", [0.9, 1.0])
def test_the_ends_of_the_interval_move_apart_until_they_cross_zero(gate):
    study = make_study(4, change=-0.1, gate=gate)
    primary = judge_study(study)[0]
    ax = claim_figures.sensitivity(study).axes[0]
    low, high = ax.lines[:2]
    np.testing.assert_allclose(low.get_ydata()[0], primary.estimate.low)
    np.testing.assert_allclose(high.get_ydata()[0], primary.estimate.high)
    crossings = np.interp(0, high.get_ydata(), high.get_xdata())
    if gate == 1.0:
        np.testing.assert_allclose(high.get_ydata(), primary.estimate.high)
        assert ax.get_title() == "no R moves the interval to 0"
    else:
        assert primary.critical_ratio == pytest.approx(crossings, rel=1e-3)
        marks = [line for line in ax.lines if line.get_marker() == "o"]
        assert marks[0].get_xdata()[0] == pytest.approx(primary.critical_ratio)


def test_the_share_is_drawn_against_the_loss_of_each_checkpoint():
    ax = training_figures.share_along_training(make_study(2)).axes[0]
    courses = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert len(courses) == 4
    np.testing.assert_allclose(courses[0].get_xdata(), LOSSES)
    np.testing.assert_allclose(courses[1].get_xdata(), [0.32, 0.16, 0.08])
    np.testing.assert_allclose(courses[0].get_ydata(), [-3, -2, TRAINED], atol=1e-6)
    assert ax.get_xscale() == "log"
    # The smallest loss that both reach is the last one of model 2; model 6 is there between two.
    rings = [line for line in ax.lines if line.get_fillstyle() == "none"]
    assert len(rings) == 4
    np.testing.assert_allclose([ring.get_xdata()[0] for ring in rings], 0.1)
    weight = np.log(0.16 / 0.1) / np.log(0.16 / 0.08)
    deep = (1 - weight) * -2.5 + weight * (TRAINED - 0.6)
    np.testing.assert_allclose([ring.get_ydata()[0] for ring in rings[:2]], [TRAINED, deep])


def test_two_checkpoints_are_no_course():
    cells = [make_trained("2", 0, [0.2, 0.1], [-2.0, -1.5])]
    study = StudyResults(settings={}, cells=cells)
    assert training_figures.share_along_training(study) is None
