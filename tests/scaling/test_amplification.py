"""Theorem 2's S and b at equal loss, on courses whose S, b and losses are known."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import logit

from jaxdiff.analysis.along_training import Checkpoint
from jaxdiff.analysis.contrasts import BlockedMean, SampleReading
from jaxdiff.scaling.amplification import Course, find_courses, fit_amplification
from jaxdiff.scaling.points import LossPoint, Refused
from tests.analysis.trained_cells import make_trained
from tests.scaling.small_cells import make_scaling_cell

TRAINED = float(logit(0.2))
OFFSET = -0.3
BEGINS, ENDS = math.log(0.8), math.log(0.1)


def true_exponent(depth, log_loss):
    """It grows with depth, and along training."""
    return 1 + 0.2 * depth - 0.15 * depth * log_loss


def simulate_course(depth, seed, noise=0.0, begins=BEGINS, ends=ENDS, gate=0.95, images=1e3):
    """A course whose share lies on the law at every checkpoint; odd seeds have 9 as majority."""
    majority, sign = (9, 1) if seed % 2 else (6, -1)
    checkpoints = []
    # Runs have checkpoints at losses of their own.
    places = np.linspace(0, 1, 5 + seed) ** (1 + 0.1 * depth)
    for i, place in enumerate(places.tolist()):
        log_loss = begins + place * (ends - begins)
        share = true_exponent(depth, log_loss) * TRAINED + sign * OFFSET + noise
        checkpoints.append(Checkpoint(i + 1, log_loss, SampleReading(share, gate)))
    return Course(depth, images, majority, TRAINED, tuple(checkpoints))


def simulate_courses(depths=(2, 4, 6), seeds=(0, 1, 2, 3), **options):
    return [simulate_course(depth, seed, **options) for depth in depths for seed in seeds]


def test_exponent_and_offset_are_those_at_the_same_loss():
    fits = fit_amplification(simulate_courses())
    assert len(fits) == 9
    log_losses = sorted({math.log(fit.loss) for fit in fits}, reverse=True)
    assert log_losses == pytest.approx(np.linspace(BEGINS, ENDS, 4)[1:].tolist())
    assert [fit.depth for fit in fits[:3]] == [2, 4, 6]
    for fit in fits:
        exponent = true_exponent(fit.depth, math.log(fit.loss))
        assert float(fit.exponent) == pytest.approx(exponent, abs=1e-9)
        assert float(fit.offset) == pytest.approx(OFFSET, abs=1e-9)
        assert fit.exponent.high - fit.exponent.low < 1e-6
        assert (fit.class_label, fit.gate) == (6, pytest.approx(0.95))


def test_losses_are_those_that_all_runs_pass():
    late = simulate_course(6, 4, begins=math.log(0.5))
    slow = simulate_course(2, 5, ends=math.log(0.2))
    fits = fit_amplification([*simulate_courses(), late, slow])
    losses = sorted({fit.loss for fit in fits})
    assert losses[0] == pytest.approx(0.2)
    assert losses[-1] < 0.5
    for fit in fits:
        exponent = true_exponent(fit.depth, math.log(fit.loss))
        assert float(fit.exponent) == pytest.approx(exponent, abs=1e-9)


def test_steps_do_not_matter():
    """A run that is twice as fast has the same S at equal loss, and another one at equal steps."""
    courses = simulate_courses()
    hurried = [
        course._replace(checkpoints=tuple(c._replace(step=2 * c.step) for c in course.checkpoints))
        if course.depth == 6
        else course
        for course in courses
    ]
    assert fit_amplification(hurried) == fit_amplification(courses)


def test_intervals_are_over_seeds_with_the_roles_blocked():
    noises = np.random.default_rng(0).normal(0, 0.1, 7).tolist()
    courses = []
    for depth in (2, 4):
        courses += [simulate_course(depth, s, noise) for s, noise in enumerate(noises)]
    fit = fit_amplification(courses)[0]
    of_seeds = [
        true_exponent(2, math.log(fit.loss)) + ((1 if s % 2 else -1) * OFFSET + noise) / TRAINED
        for s, noise in enumerate(noises)
    ]
    expected = BlockedMean.of(of_seeds, [s % 2 for s in range(7)]).estimate()
    assert float(fit.exponent) == pytest.approx(expected.value)
    assert fit.exponent.low == pytest.approx(expected.low)
    assert fit.exponent.high == pytest.approx(expected.high)
    assert (fit.exponent.n, fit.exponent.method) == (7, expected.method)


def test_the_largest_training_set_is_compared():
    few = simulate_courses(images=100.0, noise=1.0)
    assert fit_amplification([*few, *simulate_courses()]) == fit_amplification(simulate_courses())


@pytest.mark.parametrize(
    ("courses", "sentence"),
    [
        ([], "no run has losses and shares of samples at two checkpoints"),
        ([c._replace(trained=0.0) for c in simulate_courses()], "S needs a minority among"),
        ([c._replace(trained=-math.inf) for c in simulate_courses()], "S needs a minority among"),
        (simulate_courses(depths=(4,)), "needs 2 depths or sizes, and there is one"),
        (
            simulate_courses(seeds=(0, 2, 4)),
            "0 of 3 depths or sizes have runs in which either class has the majority",
        ),
        (
            [*simulate_courses(depths=(2,)), *simulate_courses(depths=(4,), seeds=(1, 3))],
            "1 of 2 depths or sizes have runs in which either class has the majority",
        ),
        (
            [*simulate_courses(depths=(2,), ends=-0.9), *simulate_courses((4,), begins=-1.0)],
            "no loss is passed by all 8 runs: one begins at 0.3679, and another one does not fall "
            "below 0.4066",
        ),
    ],
)
def test_what_is_missing_is_said(courses, sentence):
    fit = fit_amplification(courses)
    assert isinstance(fit, Refused)
    assert sentence in fit.refused


def test_a_depth_of_one_seed_in_each_role_has_no_interval():
    fits = fit_amplification([*simulate_courses((2,)), *simulate_courses((4,), seeds=(0, 1))])
    for fit in fits:
        if fit.depth == 4:
            assert "2 runs leave no error; 3 seeds are needed" in fit.exponent.refused
            assert fit.offset == fit.exponent
        else:
            assert not isinstance(fit.exponent, Refused)


@pytest.mark.parametrize("gate", [0.79, math.nan])
def test_samples_that_cannot_be_read_have_no_exponent(gate):
    fits = fit_amplification([*simulate_courses((2,)), *simulate_courses((4,), gate=gate)])
    for fit in fits:
        assert isinstance(fit.exponent, Refused) == (fit.depth == 4)
    assert f"the mean gate is {gate:.2f} at this loss" in fits[1].exponent.refused


def test_cells_become_courses():
    cells = [make_trained(m, s, [0.4, 0.2], [-2.0, -1.5]) for m in ("2", "4") for s in (0, 1)]
    courses = find_courses(cells)
    assert [(c.depth, c.images, c.majority) for c in courses] == [
        (2, 300.0, 6), (2, 300.0, 9), (4, 300.0, 6), (4, 300.0, 9)
    ]  # fmt: skip
    for course in courses:
        assert course.trained == pytest.approx(TRAINED)
        assert course.log_losses == pytest.approx([math.log(0.4), math.log(0.2)])
        shares = [checkpoint.reading.logit_share for checkpoint in course.checkpoints]
        assert shares == pytest.approx([-2.0, -1.5], abs=1e-6)


def test_the_end_alone_is_no_course():
    ends = make_trained("2", 0, [0.2], [-1.5])
    without = make_scaling_cell(LossPoint(0.5, 1e6, 3200.0, 480.0))
    whole = make_trained("2", 0, [0.4, 0.2], [-2.0, -1.5])
    classless = dataclasses.replace(whole, info=dataclasses.replace(whole.info, proportions=()))
    assert len(find_courses([whole])) == 1
    assert find_courses([ends]) == find_courses([without]) == find_courses([classless]) == []
