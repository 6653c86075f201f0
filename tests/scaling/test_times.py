"""Times until memorization, by three rules, and until generation, of known times."""

import dataclasses
import math

import numpy as np
import pytest

from jaxdiff.estimates import Estimate
from jaxdiff.results import CheckpointLosses
from jaxdiff.scaling.cells import read_scaling_cells
from jaxdiff.scaling.memorization_time import EventTime, fit_memorization_time
from jaxdiff.scaling.points import LossPoint
from jaxdiff.scaling.times import (
    GENERATION,
    MEMORIZATION,
    draw_well,
    exceed_gap,
    find_times,
    find_windows,
)
from tests.scaling.small_cells import BATCH, grid_of_points, make_scaling_cell, write_cells

POINT = LossPoint(0.5, 1e6, 3200.0, 480.0)
FIRST = MEMORIZATION[0]
RULES = {rule.name: rule for rule in (*MEMORIZATION, GENERATION)}
STEPS = [round(50 * 1.25**i) for i in range(28)]
IMAGES = (100, 200, 400, 800, 1600, 3200)
# log tau = c + kappa log N: c and kappa by rule. A third of the second lies beyond the last step.
TRUE = {
    "1 % memorized": (5.0, 1.0),
    "10 % memorized": (4.2, 1.3),
    "loss gap": (5.0, 0.7),
    "generation": (9.0, 0.0),
}


def make_losses(steps, is_apart, num_pairs=6):
    """Losses of pairs that differ much from one another, and little within, but where apart."""
    of_pair = np.linspace(1, 50, num_pairs)
    within = 0.1 * (-1.0) ** np.arange(num_pairs)
    gaps = within + np.array(is_apart, float)[:, None]
    train = np.broadcast_to(of_pair, (len(steps), 8, num_pairs))
    unseen = train + gaps[:, None]
    return CheckpointLosses(
        train.astype(np.float32), unseen.astype(np.float32), np.array(steps), np.arange(8)
    )


def simulate_cell(images, seed, noise):
    """A cell of these training images, and its true times by rule."""
    taus = {
        rule: math.exp(c + kappa * math.log(images) + noise) for rule, (c, kappa) in TRUE.items()
    }
    seen = [BATCH * step for step in STEPS]

    def reached(rule):
        return [images_seen >= taus[rule] for images_seen in seen]

    point = LossPoint(0.5, 1e6, float(seen[-1]), float(images), 2, seed)
    fractions = {
        step: 0.2 if second else 0.02 if first else 0.0
        for step, first, second in zip(
            STEPS, reached("1 % memorized"), reached("10 % memorized"), strict=True
        )
    }
    cell = make_scaling_cell(point, memorized=fractions)
    good = dict(zip(STEPS, reached("generation"), strict=True))
    sections = {**cell.sections, **make_quality(good)}
    sections["checkpoints"] = [*cell.sections["checkpoints"], *sections["checkpoints"]]
    losses = make_losses(STEPS, reached("loss gap"))
    return dataclasses.replace(cell, sections=sections, losses=losses), taus


def make_quality(good):
    """KID and gate that are good at these steps, and the gate of all samples of the last one."""
    along = []
    for step, is_good in good.items():
        labels = {"space": "vgg", "against": "unseen", "step": step}
        along.append(Estimate(0.1 if is_good else 0.5, n=64, name="kid", labels=labels))
        along.append(Estimate(0.95 if is_good else 0.3, n=64, name="gate", labels={"step": step}))
    last = along.pop()
    return {"checkpoints": along, "quality": [Estimate(last.value, n=64, name="gate")]}


@pytest.fixture(scope="module")
def simulated():
    rng = np.random.default_rng(1)
    return [
        simulate_cell(images, seed, 0.2 * float(rng.standard_normal()))
        for images in IMAGES
        for seed in range(3)
    ]


@pytest.mark.parametrize("rule", TRUE)
def test_each_rule_finds_the_interval_of_its_time_and_its_kappa(simulated, rule):
    times = find_times([cell for cell, _ in simulated], RULES[rule])
    assert len(times) == len(simulated)
    for time, (_, taus) in zip(times, simulated, strict=True):
        assert time.after < taus[rule] <= time.before
        assert math.isinf(time.before) == (taus[rule] > BATCH * STEPS[-1])
        assert time.before <= 1.3 * time.after or math.isinf(time.before)
    fit = fit_memorization_time(times)
    kappa = TRUE[rule][1]
    assert fit.kappa.low < kappa < fit.kappa.high
    assert fit.kappa.high - fit.kappa.low < 0.35
    censored = sum(math.isinf(time.before) for time in times)
    assert (censored > 3) == (rule == "10 % memorized")


def test_a_window_holds_the_true_ratio_of_each_run(simulated):
    cells = [cell for cell, _ in simulated]
    generation = find_times(cells, GENERATION)
    for rule in MEMORIZATION:
        windows = find_windows(find_times(cells, rule), generation)
        assert len(windows) == len(simulated)
        for window, (_, taus) in zip(windows, simulated, strict=True):
            assert window.low < taus[rule.name] / taus["generation"] < window.high
            assert window.high < 1.7 * window.low or math.isinf(window.high)


INF = math.inf


@pytest.mark.parametrize(
    ("memorized", "generated", "low", "high"),
    [
        ((10.0, 20.0), (4.0, 5.0), 2.0, 5.0),
        ((10.0, INF), (4.0, 5.0), 2.0, INF),
        ((10.0, 20.0), (0.0, 5.0), 2.0, INF),
        ((0.0, 20.0), (4.0, 5.0), 0.0, 5.0),
        ((10.0, 20.0), (40.0, INF), 0.0, 0.5),
        ((10.0, INF), (10.0, INF), 0.0, INF),
        ((0.0, 20.0), (0.0, 20.0), 0.0, INF),
    ],
)
def test_a_ratio_is_an_interval_or_one_sided(memorized, generated, low, high):
    (window,) = find_windows(
        [EventTime(480.0, *memorized, 2, 1)],
        [EventTime(480.0, *generated, 2, 1)],
    )
    assert (window.low, window.high) == (low, high)
    assert window.is_bounded == ((low, high) != (0, INF))


def test_a_window_needs_both_times_of_a_run():
    time = EventTime(480.0, 1.0, 2.0, 2, 1)
    assert not find_windows([time], [dataclasses.replace(time, seed=0)])
    assert not find_windows([time], [dataclasses.replace(time, depth=4)])


@pytest.mark.parametrize(("errors", "exceeds"), [(2.9, False), (3.1, True), (-3.1, False)])
def test_the_gap_must_exceed_three_standard_errors_of_its_pairs(errors, exceeds):
    pairs = np.random.default_rng(0).standard_normal(400)
    pairs = (pairs - pairs.mean()) / pairs.std(ddof=1)
    gaps = 0.02 * (pairs + errors / math.sqrt(400))
    train = np.broadcast_to(np.linspace(1, 3, 400), (1, 8, 400))
    losses = CheckpointLosses(
        train.astype(np.float32),
        (train + gaps).astype(np.float32),
        np.array([100]),
        np.arange(8),
    )
    cell = dataclasses.replace(make_scaling_cell(POINT), losses=losses)
    assert exceed_gap(cell) == {100: exceeds}


def test_there_is_no_gap_without_pairs():
    cell = make_scaling_cell(POINT)
    assert exceed_gap(cell) == {}
    losses = make_losses([100], [True])
    unequal = dataclasses.replace(losses, train=losses.train[..., :-1])
    single = make_losses([100], [True], num_pairs=1)
    for without in (unequal, single):
        assert exceed_gap(dataclasses.replace(cell, losses=without)) == {}


def with_quality(kids, gates):
    """A cell of these values at the steps 25, 50, ..., of which the last is its end."""
    steps = [100 * (i + 1) // len(kids) for i in range(len(kids))]
    cell = make_scaling_cell(POINT)
    sections = {**cell.sections, **make_quality(dict.fromkeys(steps, True))}
    along = []
    for estimate in sections["checkpoints"]:
        values = kids if estimate.name == "kid" else gates
        value = values[steps.index(estimate.labels["step"])]
        along.append(dataclasses.replace(estimate, value=value))
    sections["checkpoints"] = along
    sections["quality"] = [Estimate(gates[-1], n=64, name="gate")]
    return dataclasses.replace(cell, sections=sections)


@pytest.mark.parametrize(
    ("kids", "gates", "after", "before"),
    [
        ([0.5, 0.109, 0.1, 0.3], [0.95, 0.95, 0.95, 0.95], 25, 50),
        ([0.5, 0.111, 0.1, 0.3], [0.95, 0.95, 0.95, 0.95], 50, 75),
        ([0.5, 0.1, 0.1, 0.1], [0.95, 0.89, 0.9, 0.95], 50, 75),
        ([0.1, 0.3, 0.3, 0.3], [0.5, 0.95, 0.95, 0.95], 100, INF),
        ([0.5, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.95], 75, 100),
        ([0.5, -0.0095, -0.01, 0.1], [0.95, 0.95, 0.95, 0.95], 25, 50),
        ([0.1, 0.5, 0.5, 0.5], [0.95, 0.95, 0.95, 0.95], 0, 25),
    ],
)
def test_generation_needs_the_gate_and_nearly_the_best_kid(kids, gates, after, before):
    (time,) = find_times([with_quality(kids, gates)], GENERATION)
    assert (time.after, time.before) == (BATCH * after, BATCH * before)


def test_a_single_checkpoint_has_no_best_kid():
    assert draw_well(with_quality([0.1], [0.95])) == {}
    assert draw_well(make_scaling_cell(POINT)) == {}
    assert find_times([make_scaling_cell(POINT)], GENERATION) == []


def test_times_are_read_from_disk(tmp_path):
    cells = [make_scaling_cell(point) for point in grid_of_points(sizes=2, lengths=1)]
    cells = [dataclasses.replace(cell, losses=make_losses([50, 100], [0, 1])) for cell in cells]
    read = read_scaling_cells([write_cells(tmp_path, cells)])
    assert [len(read.times[rule.name]) for rule in MEMORIZATION] == [0, 0, 2]
    assert {(time.after, time.before) for time in read.times["loss gap"]} == {(1600.0, 3200.0)}


@pytest.mark.parametrize(
    ("memorized", "after", "before"),
    [
        ({10: 0.0, 50: 0.005, 100: 0.02}, 50, 100),
        ({10: 0.02, 50: 0.0, 100: 0.5}, 0, 10),
        ({10: 0.0, 100: 0.0}, 100, math.inf),
        ({100: 0.3}, 0, 100),
    ],
)
def test_times_lie_between_checkpoints(memorized, after, before):
    (time,) = find_times([make_scaling_cell(POINT, memorized=memorized)], FIRST)
    assert (time.after, time.before) == (BATCH * after, BATCH * before)
    assert (time.images, time.depth, time.seed) == (480, 0, 0)


def test_the_longest_run_stands_for_those_that_it_began():
    long = dataclasses.replace(POINT, images=6400.0)
    cells = [
        make_scaling_cell(long, memorized={100: 0.0, 200: 0.1}),
        make_scaling_cell(POINT, memorized={100: 0.5}),
        make_scaling_cell(dataclasses.replace(long, seed=1)),  # no samples were looked at
    ]
    (time,) = find_times(cells, FIRST)
    assert (time.after, time.before) == (3200, 6400)


def test_sizes_of_one_depth_have_times_of_their_own():
    other = dataclasses.replace(POINT, flops=2e6)
    cells = [make_scaling_cell(point, memorized={100: 0.1}) for point in (other, POINT)]
    assert [time.depth for time in find_times(cells, FIRST)] == ["0, 1e+06 FLOP", "0, 2e+06 FLOP"]
