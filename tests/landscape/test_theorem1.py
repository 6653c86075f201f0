import functools

import numpy as np
import pytest

from jaxdiff.landscape import theorem1

CASES = {case.name: case for case in theorem1.build_cases()}


@functools.cache
def levels_of(name):
    return theorem1.compute_levels(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_the_closed_forms(name):
    levels = levels_of(name)
    hessians = [level.hessian for level in levels]
    np.testing.assert_allclose(hessians, CASES[name].exact, rtol=1e-4)
    for level in levels:
        assert level.hessian <= level.bound * (1 + 1e-5), "Eq. 23 is an inequality that holds"


@pytest.mark.parametrize(
    ("name", "premise", "stepwise", "conclusion"),
    [
        ("scaling by 1/2, twice", True, True, False),
        ("scaling by 2", False, False, True),
        ("rotation and scaling", True, True, False),
        ("a falling bound", True, False, False),
        ("tanh of a parabola", True, True, True),
        ("an expanding step", True, False, False),
        ("a double well", True, True, False),
        ("a cosine", True, True, False),
    ],
)
def test_premise_and_conclusion(name, premise, stepwise, conclusion):
    levels = levels_of(name)
    assert theorem1.premise_holds(levels) == premise
    assert theorem1.stepwise_premise_holds(levels) == stepwise
    assert theorem1.conclusion_holds(levels) == conclusion


def test_a_falling_bound_does_not_make_the_norm_fall():
    _, before, after = levels_of("a falling bound")
    assert before.bound == pytest.approx(9)
    assert after.bound == pytest.approx(4.08, abs=0.01)
    assert after.hessian > before.hessian


def test_contractions_whose_sensitivity_rises():
    _, before, after = levels_of("an expanding step")
    assert before.jacobian == pytest.approx(0.5)
    assert after.jacobian == pytest.approx(0.9)
    assert after.step == pytest.approx(1.8)
    assert after.inverse == pytest.approx(1 / 0.9)


def test_the_gradient_at_the_same_z_is_not_fixed():
    before, after = levels_of("a double well")
    assert before.gradient == pytest.approx(0.375)
    assert after.gradient == pytest.approx(0, abs=1e-6)


def test_the_norm_at_a_point_is_below_the_lipschitz_constant():
    level = levels_of("a cosine")[0]
    assert level.hessian < 0.2
    slopes = np.diff(np.sin(np.linspace(-2, 2, 401))) / 0.01  # of the gradient, sin x
    assert slopes.max() == pytest.approx(1, abs=1e-4)


def test_the_norm_falls_by_the_dropped_term_alone():
    before, after = levels_of("tanh of a parabola")
    assert after.hessian < before.hessian < after.first
