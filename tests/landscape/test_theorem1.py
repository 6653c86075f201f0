import numpy as np
import pytest

from jaxdiff.landscape import theorem1

CASES = {case.name: case for case in theorem1.laboratory()}


@pytest.mark.parametrize("name", CASES)
def test_the_closed_forms(name):
    found = theorem1.levels(CASES[name])
    print(f"{name}: premise {theorem1.premise(found)}, conclusion {theorem1.conclusion(found)}")
    np.testing.assert_allclose([level.hessian for level in found], CASES[name].exact, rtol=1e-4)
    for level in found:
        assert level.hessian <= level.bound * (1 + 1e-5), "Eq. 23 is an inequality that holds"


@pytest.mark.parametrize(
    ("name", "premise", "conclusion"),
    [
        ("scaling by 1/2, twice", True, False),
        ("scaling by 2", False, True),
        ("rotation and scaling", True, False),
        ("an expanding step", False, False),
        ("a double well", True, False),
    ],
)
def test_premise_and_conclusion(name, premise, conclusion):
    found = theorem1.levels(CASES[name])
    assert (theorem1.premise(found), theorem1.conclusion(found)) == (premise, conclusion)


def test_a_falling_bound_does_not_make_the_norm_fall():
    _, before, after = theorem1.levels(CASES["a falling bound"])
    assert (before.bound, after.bound) == (pytest.approx(9), pytest.approx(4))
    assert after.hessian > before.hessian


def test_the_norm_falls_by_the_dropped_term_alone():
    before, after = theorem1.levels(CASES["tanh of a parabola"])
    assert after.hessian < before.hessian < after.first


def test_falls():
    before = np.array([1.0, 2.0, 4.0, 8.0])
    found = theorem1.falls(before, before / 2)
    assert not found["refuted"]
    assert (found["share"], found["log_ratio"]) == (1.0, pytest.approx(-np.log(2)))
    assert found["log_low"] == pytest.approx(found["log_high"])
    found = theorem1.falls(before, np.array([0.5, 1.0, 2.0, 9.0]))
    assert found["refuted"]
    assert found["share"] == 0.75
    assert found["low"] < 0.75 < found["high"]
