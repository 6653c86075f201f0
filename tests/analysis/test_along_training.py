"""Claims about two models along training, on made-up checkpoints whose answers are known."""

import dataclasses
import math

import pytest
from scipy.special import logit

from jaxdiff.analysis.along_training import read_at_equal_loss, read_early_and_late, trajectory
from jaxdiff.analysis.claims import judge
from jaxdiff.analysis.plan import Plan
from tests.analysis.trained_cells import make_trained
from tests.report.small_results import make_cell, make_info


def test_trajectory_is_ordered_and_ends_with_all_samples():
    cell = make_trained("2", 0, [0.4, 0.2, 0.1], [-3.0, -2.0, -1.5], [0.1, 0.5, 0.9])
    steps = trajectory(cell)
    assert [checkpoint.step for checkpoint in steps] == [500, 1000, 1500]
    assert [c.log_loss for c in steps] == pytest.approx([math.log(x) for x in (0.4, 0.2, 0.1)])
    assert [c.reading.logit_share for c in steps] == pytest.approx([-3.0, -2.0, -1.5], abs=1e-6)
    assert [c.reading.gate for c in steps] == [0.1, 0.5, 0.9]


def test_results_that_do_not_name_the_form_of_the_share_have_no_trajectory():
    cell = make_trained("2", 0, [0.4, 0.2, 0.1], [-3.0, -2.0, -1.5])
    share = dataclasses.replace(cell.find("share", "share"), labels={"form": "forced_choice"})
    older = dataclasses.replace(cell, sections={**cell.sections, "share": [share]})
    assert trajectory(cell)
    assert trajectory(older) == []


@pytest.mark.parametrize("better", ["shallow", "deep"])
def test_the_better_model_is_read_where_it_reaches_the_final_loss_of_the_other(better):
    # Halfway in log loss between .2 and .05 lies .1, where the other one ends.
    good = make_trained("2", 0, [0.4, 0.2, 0.05], [-4.0, -3.0, -1.0], [0.2, 0.6, 1.0])
    poor = make_trained("6", 0, [0.8, 0.4, 0.1], [-4.0, -3.0, -1.8])
    pair = (good, poor) if better == "shallow" else (poor, good)
    readings = read_at_equal_loss(*pair)
    by_model = readings if better == "shallow" else readings[::-1]
    assert by_model[0].logit_share == pytest.approx(-2.0, abs=1e-6)
    assert by_model[0].gate == pytest.approx(0.8)
    assert by_model[1].logit_share == pytest.approx(-1.8, abs=1e-6)


def test_losses_that_rise_again_are_read_where_they_first_fall_to_the_common_one():
    rising = make_trained("2", 0, [0.4, 0.05, 0.3, 0.05], [-4.0, -3.0, -2.0, -1.0])
    poor = make_trained("6", 0, [0.8, 0.7, 0.5, 0.1], [-4.0, -3.0, -1.0, -1.8])
    shallow, _ = read_at_equal_loss(rising, poor)
    weight = math.log(0.4 / 0.1) / math.log(0.4 / 0.05)
    assert shallow.logit_share == pytest.approx(-4 + weight, abs=1e-6)
    # The worse model of the two is at its best before its end, at .12.
    steady = make_trained("2", 0, [0.4, 0.2, 0.12], [-4.0, -3.0, -2.0])
    overfitted = make_trained("6", 0, [0.3, 0.1, 0.13, 0.15], [-4.0, -3.5, -2.5, -1.0])
    shallow, deep = read_at_equal_loss(steady, overfitted)
    assert shallow.logit_share == pytest.approx(-2.0, abs=1e-6)
    weight = math.log(0.3 / 0.12) / math.log(0.3 / 0.1)
    assert deep.logit_share == pytest.approx(-4 + 0.5 * weight, abs=1e-6)


def test_without_a_common_loss_nothing_is_read():
    always_better = make_trained("2", 0, [0.09, 0.08], [-2.0, -1.0])
    poor = make_trained("6", 0, [0.8, 0.1], [-4.0, -1.8])
    assert read_at_equal_loss(always_better, poor) is None
    assert read_at_equal_loss(poor, make_cell(make_info("6"))) is None


def test_early_is_a_quarter_of_the_training():
    cell = make_trained(
        "2", 0, [0.4, 0.3, 0.2, 0.1], [-3.0, -2.5, -2.0, -1.5], [0.5, 0.6, 0.7, 0.9]
    )
    early, late = read_early_and_late(cell)
    assert (early.logit_share, early.gate) == (pytest.approx(-3.0, abs=1e-6), 0.5)
    assert (late.logit_share, late.gate) == (pytest.approx(-1.5, abs=1e-6), 0.9)
    # A fifth of the training is no quarter.
    assert read_early_and_late(make_trained("2", 0, [0.5] * 5, [-1.0] * 5)) is None


def judge_named(name, cells, seeds=4):
    plan = Plan(tuple(range(seeds)), primary=("2", "6"), named=(name,))
    named = {"equal_loss": "equal loss", "training_time": "training", "lpips": "differ"}
    return next(c for c in judge(cells, plan, 1000) if named[name] in c.claim)


def make_pairs(depth_change, early, early_gate=0.95):
    """Models 2 and 6 of four seeds; 6 ends with half of the loss of 2 and passes it on the way."""
    cells = []
    for seed in range(4):
        wobble = 0.01 * (seed // 2)
        end = float(logit(0.2)) + wobble
        gates = [early_gate, 0.95, 0.95, 0.95]
        shallow = [early, -2.0, -1.9, end]
        cells.append(make_trained("2", seed, [0.8, 0.4, 0.3, 0.2], shallow, gates))
        deep = [early, end + depth_change + 0.5 * wobble, -1.8, end + depth_change + 2 * wobble]
        cells.append(make_trained("6", seed, [0.8, 0.2, 0.15, 0.1], deep, gates))
    return cells


def test_equal_loss_compares_the_models_where_their_losses_meet():
    claim = judge_named("equal_loss", make_pairs(-0.6, -4.0))
    assert claim.verdict == "supported"
    assert claim.estimate.value == pytest.approx(-0.6 + 0.5 * 0.005, abs=1e-6)
    assert claim.contrast is not None


def test_training_time_compares_the_sizes_of_two_changes():
    claim = judge_named("training_time", make_pairs(-0.6, -4.0))
    depth = -0.6 + 2 * 0.005  # the means over seeds of what make_pairs gives
    training = float(logit(0.2)) + 0.005 + 4.0 + depth / 2
    assert claim.verdict == "supported"
    assert claim.estimate.value == pytest.approx(training - abs(depth), abs=1e-6)
    reverse = judge_named("training_time", make_pairs(-2.0, -2.0))
    assert reverse.verdict == "contradicted"


def test_training_time_is_not_readable_where_early_samples_are_not():
    claim = judge_named("training_time", make_pairs(-0.6, -4.0, early_gate=0.5))
    assert claim.verdict == "not readable"
    assert "0.50 of model 2 at a quarter of training" in claim.why


def test_training_time_is_widened_by_what_early_samples_hide():
    # Training moves the logit by .15 more than depth; a gate of .8 early can hide more than that.
    cells = make_pairs(-0.6, float(logit(0.2)) - 0.45 - 0.6)
    assert judge_named("training_time", cells).verdict == "supported"
    hidden = make_pairs(-0.6, float(logit(0.2)) - 0.45 - 0.6, early_gate=0.8)
    assert judge_named("training_time", hidden).verdict == "undecided"


@pytest.mark.parametrize("name", ["equal_loss", "training_time", "lpips"])
def test_nothing_is_said_of_samples_that_cannot_be_read(name):
    cells = []
    for seed in range(4):
        for model, change in (("2", 0.0), ("6", -0.6)):
            logits = [-4.0, -2.0, -1.9, -1.4 + change + 0.01 * (seed // 2)]
            lpips = 0.15 - change * (1 + 0.001 * (seed // 2))
            losses = [0.8, 0.4, 0.3, 0.2]
            cells.append(make_trained(model, seed, losses, logits, [0.3] * 4, lpips=lpips))
    assert judge_named(name, cells).verdict == "not readable"


@pytest.mark.parametrize(
    ("change", "verdict"), [(0.02, "supported"), (-0.02, "contradicted"), (0.0, "undecided")]
)
def test_lpips_is_compared_at_the_training_mix(change, verdict):
    cells = []
    for seed in range(4):
        noise = 0.001 * (-1) ** (seed // 2)
        cells.append(make_trained("2", seed, [0.2], [-1.4], lpips=0.15))
        cells.append(make_trained("6", seed, [0.2], [-1.5], lpips=0.15 + change + noise))
    claim = judge_named("lpips", cells)
    assert claim.estimate.value == pytest.approx(change, abs=1e-12)
    assert claim.verdict == verdict


@pytest.mark.parametrize("name", ["training_time", "lpips"])
def test_a_cell_without_the_value_is_named(name):
    cells = [make_trained(m, s, [0.2], [-1.4 - 0.1 * s]) for m in ("2", "6") for s in range(4)]
    claim = judge_named(name, cells)
    assert claim.verdict == "undecided"
    assert "2-s0 and 6-s0" in claim.why
