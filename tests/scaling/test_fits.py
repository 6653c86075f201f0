"""All fits of a study whose law is known, and what small studies refuse."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest

from jaxdiff.estimates import Estimate
from jaxdiff.scaling.cells import ScalingCells
from jaxdiff.scaling.fits import fit_study
from jaxdiff.scaling.memorization_time import EventTime
from jaxdiff.scaling.points import Refused
from tests.report.small_results import STUDY
from tests.scaling.simulated_points import ALPHA, BETA, simulate_points
from tests.scaling.test_amplification import simulate_courses
from tests.scaling.test_memorization_time import simulate_times


def build_cells(points, **fields):
    names = tuple(f"cell{i}" for i in range(len(points)))
    defaults = {"study": "made up", "settings": STUDY, "held_out": 512}
    return ScalingCells(names=names, points=tuple(points), **defaults | fields)


@pytest.fixture(scope="module")
def fits():
    times = tuple(simulate_times(depths=(2, 4)))
    generation = tuple(dataclasses.replace(time, after=400.0, before=500.0) for time in times)
    return fit_study(
        build_cells(
            simulate_points(0.003, depths=(2, 4)),
            times={"1 % memorized": times},
            generation=generation,
            courses=tuple(simulate_courses((2, 4))),
        )
    )


def test_numbers_of_a_study(fits):
    numbers = fits.numbers()
    law = {number.name: number for number in numbers["law"]}
    assert float(law["alpha"].answer) == pytest.approx(ALPHA, rel=0.2)
    assert float(law["beta"].answer) == pytest.approx(BETA, rel=0.2)
    assert law["depth_effect"].answer.high < 0
    assert [number.labels["left_out"] for number in numbers["left_out"]] == [
        "largest size",
        "longest run",
    ]
    for number in numbers["left_out"]:
        assert abs(float(number.answer)) < 0.02
    assert {number.labels["depth"] for number in numbers["isoflop"]} == {2, 4}
    kappa = numbers["memorization"][0]
    assert kappa.labels == {"rule": "1 % memorized"}
    assert kappa.answer.low < 1.2 < kappa.answer.high
    assert [n.labels["rule"] for n in numbers["memorization"] if n.name == "kappa"] == [
        "1 % memorized",
        "10 % memorized",
        "loss gap",
    ]
    # Any slope this small keeps all runs between the same two checkpoints.
    assert abs(float(numbers["generation"][0].answer)) < math.log(500 / 400) / math.log(32)
    assert {number.labels["depth"] for number in numbers["amplification"]} == {2, 4}
    assert {n.name for n in numbers["amplification"]} == {"exponent", "offset", "gate"}


def test_a_window_has_ends_and_no_value(fits):
    windows = fits.numbers()["window"]
    assert len(windows) == len(fits.cells.generation)
    for number, time in zip(windows, fits.cells.times["1 % memorized"], strict=True):
        assert number.labels == {
            "rule": "1 % memorized", "depth": time.depth, "images": time.images, "seed": time.seed
        }  # fmt: skip
        assert number.answer.value is None
        assert number.answer.low == time.after / 500.0
        assert number.answer.high == time.before / 400.0


def test_ends_of_a_window_that_are_not_known():
    times = [
        EventTime(480.0, 4.0, math.inf, 2, 0),
        EventTime(480.0, 0.0, 2.0, 2, 1),
        EventTime(480.0, 4.0, math.inf, 2, 2),
    ]
    ends = [(1.0, 2.0), (1.0, 2.0), (4.0, math.inf)]
    generation = [
        dataclasses.replace(time, after=after, before=before)
        for time, (after, before) in zip(times, ends, strict=True)
    ]
    cells = build_cells(
        simulate_points(), times={"loss gap": tuple(times)}, generation=tuple(generation)
    )
    least, most, unknown = fit_study(cells).numbers()["window"]
    assert (least.answer.low, least.answer.high) == (2.0, None)
    assert (most.answer.low, most.answer.high) == (None, 2.0)
    assert "on neither side" in unknown.answer.refused


def test_every_number_is_an_estimate_or_has_a_reason(fits):
    few = fit_study(build_cells(simulate_points(sizes=2, lengths=2), held_out=100))
    for study in (fits, few):
        for numbers in study.numbers().values():
            for number in numbers:
                entry = json.loads(json.dumps(number.to_json(), allow_nan=False))
                assert entry["name"] == number.name
                assert number.labels.items() <= entry.items()
                if isinstance(number.answer, Refused):
                    assert entry["refused"]
                else:
                    assert Estimate.from_json(entry).to_json() == entry
    assert isinstance(few.law, Refused)
    for numbers, sentence in (
        (few.numbers()["memorization"], "no run has"),
        (few.numbers()["generation"], "no run has both the gate and KID of samples at two"),
        (few.numbers()["window"], "no run has both times"),
        (few.numbers()["amplification"], "no run has losses and shares"),
    ):
        assert all(sentence in number.answer.refused for number in numbers)
    assert len(few.numbers()["memorization"]) == 3


def test_limits():
    points = simulate_points(sizes=3, unique_images=1e4)
    few = fit_study(build_cells(points, held_out=100, majorities=(6, 9)))
    assert [limit.split(",")[0] for limit in few.limits] == [
        "A loss is of 100 unseen images",
        "Some size has fewer than 3 seeds",
        "There are 3 sizes",
        "Training images are seen up to 320 times",
        "Either class has the majority in some cells",
        "One learning rate was tried",
    ]


def test_the_best_size_is_of_the_largest_training_set():
    points = [*simulate_points(), *simulate_points(unique_images=1e4)]
    fits = fit_study(build_cells(points))
    alone = fit_study(build_cells(simulate_points()))
    assert fits.isoflop[0].budgets == alone.isoflop[0].budgets


def test_what_is_slow_to_import_is_imported_where_it_is_used():
    code = (
        "import sys, jaxdiff.scaling.fits; "
        "print({'scipy.stats', 'scipy.optimize', 'jax'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
