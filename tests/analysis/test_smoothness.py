"""Verdicts on Theorem 1 from invented norms with a known answer."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxdiff.analysis import smoothness
from jaxdiff.analysis.probe_summary import summarize, tally_decreases
from jaxdiff.analysis.probed_models import Norms, ProbedModel, Quantity
from jaxdiff.reading import Reading
from jaxdiff.report import probe_figures, style

RAW = smoothness.RAW
TIMES_VARIANCE = smoothness.TIMES_VARIANCE
DECODER = Quantity("decoder")
PULL_BACK = Quantity("pull-back")


def make_reading(weights, level, reading, name, values, errors=None, **labels):
    return Reading.measured(
        reading, name, values, errors, weights=weights, t=100, level=level, **labels
    )


def make_levels(weights, scale, factor):
    """Readings of levels 0 to 2; the decoder's norm changes by a factor from level to level."""
    readings = []
    for level in range(3):
        norms = scale * factor**level * np.array([1.0, 2.0, 3.0, 4.0])
        readings += [
            make_reading(weights, level, "scale", "total_variance", [3.0**level]),
            make_reading(weights, level, "decoder", "total", norms, 0.01),
            make_reading(weights, level, "memory", "spectral_norm", norms, tau="scaled"),
        ]
        if level == 0:
            readings += [
                make_reading(weights, 0, "hessian", "spectral_norm", [2.0] * 4),
                make_reading(weights, 0, "denoiser", "spectral_norm", norms),
            ]
            continue
        readings += [
            make_reading(weights, level, "maps", "from_pixels", [0.5, 0.9, 1.0, 2.0], 0.05),
            make_reading(weights, level, "maps", "step", [0.5] * 4, 0.0),
        ]
        for rank, sign in ((2, -1), (4, 1)):
            total = [2.0 ** (sign * level)] * 3 + [math.nan]
            readings += [
                make_reading(weights, level, "pull_back", "total", total, rank=rank),
                make_reading(weights, level, "pull_back", "along", [1.0] * 4, rank=rank),
            ]
    return readings


def make_model(name, depth, scale=1.0):
    """A model whose norms fall where its weights are trained and rise where they are random.

    |J| < 1 at two of four points; the decoder's norm halves from level to level while the total
    variance grows by 3; pulled back, the norm falls at rank 2 and rises at rank 4.
    """
    trained = make_levels("trained", scale, 0.5)
    random = make_levels("random", scale, 2.0)
    return ProbedModel(name, depth, 1000 * depth, 4, [*trained, *random])


MODELS = [make_model("shallow", 1), make_model("deep", 2, scale=3.0)]


def keep_readings(model, condition):
    readings = [reading for reading in model.readings if condition(reading)]
    return ProbedModel(model.name, model.depth, model.parameters, model.bottleneck, readings)


def change_readings(group, **fields):
    """The shallow model with other values or errors in one group of readings."""
    readings = []
    for reading in MODELS[0].readings:
        if reading.reading == group:
            values = fields.get("values", reading.values)
            reading = Reading.measured(
                reading.reading, reading.name, values, fields.get("errors"), **reading.labels
            )
        readings.append(reading)
    return ProbedModel("changed", 1, 1, 4, readings)


def find_tally(models, kind="level with level", weights="trained", **fields):
    (tally,) = [
        tally
        for tally in tally_decreases(models)
        if (tally.kind, tally.weights) == (kind, weights)
        and all(getattr(tally, name) == value for name, value in fields.items())
    ]
    return tally


def select_rows(rows, **entries):
    return [row for row in rows if entries.items() <= row.items()]


def test_a_decrease_at_every_point():
    before = np.array([1.0, 2.0, 4.0, 8.0])
    test = smoothness.check_decrease(exact(before), exact(before / 2))
    assert not test.refuted
    assert test.share.value == 1.0
    assert test.log_ratio.value == pytest.approx(-np.log(2))
    assert test.log_ratio.low == pytest.approx(test.log_ratio.high)
    assert test.to_row()["verdict"] == "smaller"
    assert test.to_row()["interval"] == "t 95 % over points, given these networks"


def test_one_increase_refutes():
    before = exact(np.array([1.0, 2.0, 4.0, 8.0]))
    test = smoothness.check_decrease(before, exact(np.array([0.5, 1.0, 2.0, 9.0])))
    assert test.refuted
    assert test.share.value == 0.75
    assert test.share.low < 0.75 < test.share.high


def test_errors_leave_points_undecided():
    before = Norms(np.full(3, 2.0), np.full(3, 1e-5))
    after = Norms(np.array([1.0, 2.0 - 1e-7, 2.0 + 1e-7]), np.full(3, 1e-5))
    np.testing.assert_array_equal(smoothness.compare_pointwise(before, after), [1, 0, 0])
    test = smoothness.check_decrease(before, after)
    assert (test.refuted, test.undecided, test.share.value) == (False, 2, 1.0)

    one_point = Norms(np.array([2.0]), np.array([1e-5]))
    test = smoothness.check_decrease(one_point, exact(np.array([2.0])))
    assert (test.share, test.undecided) == (None, 1)
    row = test.to_row()
    assert (row["share"], row["n"], row["verdict"]) == (None, 1, "no interval")
    assert math.isnan(row["log_low"])


@pytest.mark.parametrize(
    ("ratios", "error", "verdict"),
    [
        ([0.5, 0.6, 0.7, 0.5], 0.0, "smaller"),
        ([1.5, 1.6, 1.7, 1.5], 0.0, "larger"),
        ([0.9, 1.1, 1.0, 1.02], 0.0, "no difference seen"),
        ([0.5, 0.9, 1.2, 0.6], 0.0, "no difference seen"),
        ([0.5, 0.6, 0.7, 0.5], 1.0, "no difference seen"),
    ],
)
def test_a_verdict_needs_an_interval_without_0_and_norms_beyond_their_errors(
    ratios, error, verdict
):
    before = Norms(np.ones(4), np.full(4, error))
    after = Norms(np.array(ratios), np.full(4, error))
    row = smoothness.check_decrease(before, after).to_row()
    low, high = stats.t.interval(0.95, 3, np.mean(np.log(ratios)), stats.sem(np.log(ratios)))
    assert (row["log_low"], row["log_high"]) == pytest.approx((low, high))
    assert row["verdict"] == verdict


def test_norms_that_are_not_positive_are_refused():
    with pytest.raises(ValueError, match="must be positive to be compared, got 0 to 2"):
        smoothness.check_decrease(exact(np.array([2.0])), exact(np.array([0.0])))


def exact(values):
    return Norms(values, np.zeros_like(values))


def test_the_norm_falls_raw_and_rises_scaled():
    """Half as large at three times the variance; with random weights it rises on both scales."""
    raw = find_tally(MODELS, model="deep", quantity=DECODER, scale=RAW)
    assert (raw.decreases, raw.increases, raw.undecided) == (8, 0, 0)
    assert float(raw.log_ratio) == pytest.approx(np.log(0.5))
    assert raw.log_ratio.n == 4, "two levels repeat a point"
    scaled = find_tally(MODELS, model="deep", quantity=DECODER, scale=TIMES_VARIANCE)
    assert (scaled.decreases, scaled.increases) == (0, 8)
    assert float(scaled.log_ratio) == pytest.approx(np.log(1.5))
    random = find_tally(MODELS, model="deep", quantity=DECODER, scale=RAW, weights="random")
    assert random.decreases == 0


def test_only_points_whose_premise_holds_refute():
    """Along 4 directions alone the norm rises; |J| + error < 1 at two of the four points.

    At the fourth point the directions are undefined. From level 1 on the norms are along directions
    of each level's own, so the theorem is refuted at two points of the first step alone.
    """
    rising = [keep_readings(model, lambda r: r.labels.get("rank", 4) == 4) for model in MODELS]
    tally = find_tally(rising, model="deep", quantity=PULL_BACK, scale=RAW)
    assert (tally.decreases, tally.increases, tally.undecided) == (0, 6, 2)
    theorem = tally.theorem
    assert (theorem.premise_holds, theorem.points) == (2, 4)
    assert (theorem.decided, theorem.counterexamples) == (2, 2)
    assert theorem.verdict == "refuted"

    rows = select_rows(
        smoothness.verdict_rows(rising),
        comparison="level with level",
        model="deep",
        weights="trained",
    )
    of_theorem = select_rows(rows, reading="pull-back", scale=RAW, to=1)
    assert {row["refuted"] for row in of_theorem} == {True}
    not_of_theorem = [row for row in rows if row not in of_theorem]
    assert select_rows(not_of_theorem, reading="pull-back", scale=RAW, to=2)
    assert select_rows(not_of_theorem, reading="decoder"), "nor of a memory or a scaled norm"
    assert {row["refuted"] for row in not_of_theorem} == {None}


def test_levels_that_do_not_follow_each_other():
    """From 0 to 2 no map was measured: nothing is said of the premise, and all the rest is."""
    models = [keep_readings(model, lambda r: r.labels["level"] != 1) for model in MODELS]
    tally = find_tally(models, model="deep", quantity=DECODER, scale=RAW)
    assert (tally.decreases, tally.theorem) == (4, None)
    assert float(tally.log_ratio) == pytest.approx(np.log(0.25))


def test_memories_of_one_image_are_not_compared():
    """Norms below 1e-6 are rounding errors: they neither fall nor rise."""
    cold = change_readings("memory", values=[1e-30, 2e-30, 3e-30, 4e-30])
    tallies = [tally for tally in tally_decreases([cold]) if tally.quantity.reading == "memory"]
    assert tallies
    assert all(tally.decided == 0 for tally in tallies)


def test_ranks_must_agree():
    tally = find_tally(MODELS, model="deep", quantity=PULL_BACK, scale=RAW)
    assert (tally.decreases, tally.increases, tally.undecided) == (0, 0, 8)
    assert tally.theorem.verdict == "undecided"
    rows = select_rows(
        smoothness.verdict_rows(MODELS),
        comparison="level with level",
        model="deep",
        reading="pull-back",
        weights="trained",
        scale=RAW,
    )
    assert {(row["form"], row["share"]) for row in rows} == {("r = 2", 1.0), ("r = 4", 0.0)}
    assert all(row["n"] == 3 for row in rows), "an undefined direction is left out"
    assert tally.verdict == "ranks disagree"
    alone = [keep_readings(model, lambda r: r.labels.get("rank", 4) == 4) for model in MODELS]
    assert find_tally(alone, model="deep", quantity=PULL_BACK, scale=RAW).verdict == "larger"


def test_large_errors_leave_all_points_undecided():
    doubtful = change_readings("decoder", errors=10.0)
    tally = find_tally([doubtful], quantity=DECODER, scale=RAW)
    assert (tally.decreases, tally.undecided, tally.percent) == (0, 8, None)


def test_models_are_compared_at_bottlenecks_and_pixels():
    """deep is 3 times shallow: 3 / 2 at level 2 against level 1, and 3 at the pixels."""
    bottleneck = find_tally(MODELS, "bottleneck with bottleneck", quantity=DECODER, scale=RAW)
    assert float(bottleneck.log_ratio) == pytest.approx(np.log(1.5))
    assert bottleneck.theorem is None
    pixels = find_tally(MODELS, "level 0 with level 0", quantity=Quantity("pixels", "|M|"))
    assert float(pixels.log_ratio) == pytest.approx(np.log(3))
    assert pixels.increases == 4
    assert pixels.verdict == "larger"


def test_the_interval_of_two_models_is_over_points_and_not_over_noise_levels():
    """A point's log ratios at two noise levels are averaged first: n is 4 and not 8."""
    ratios = np.array([[0.8, 1.1, 1.0, 1.3], [0.9, 1.2, 1.4, 0.7]])
    readings = {"shallow": [], "deep": []}
    for t, after in zip((100, 200), ratios, strict=True):
        for name, values in (("shallow", np.ones(4)), ("deep", after)):
            labels = {"weights": "trained", "t": t, "level": 0}
            reading = Reading.measured("denoiser", "spectral_norm", values, **labels)
            readings[name].append(reading)
    models = [ProbedModel(name, i + 1, 1, 4, readings[name]) for i, name in enumerate(readings)]
    (tally,) = [t for t in tally_decreases(models) if t.kind == "level 0 with level 0"]
    means = np.log(ratios).mean(axis=0)
    low, high = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    ends = (float(tally.log_ratio), tally.log_ratio.low, tally.log_ratio.high)
    assert ends == pytest.approx((means.mean(), low, high))
    (line,) = [line for line in summarize(models) if line.statistic == "ratio"]
    assert (line.trained, line.low, line.high) == pytest.approx(
        (np.exp(means.mean()), np.exp(low), np.exp(high))
    )
    assert line.verdict == "no difference seen"


def test_the_largest_eigenvalue_of_m_counts_once():
    """2 less the smallest eigenvalue of H = 2 (I - M) is 2 lambda_max(M): the same ratio."""
    rng = np.random.default_rng(0)
    models = []
    for i, name in enumerate(("shallow", "deep")):
        matrices = [np.diag(rng.uniform(0, 1, 5)) for _ in range(4)]
        norms = [np.linalg.norm(m, 2) for m in matrices]
        smallest = [np.linalg.eigvalsh(2 * (np.eye(5) - m))[0] for m in matrices]
        np.testing.assert_allclose(2 - np.array(smallest), 2 * np.array(norms))
        readings = [
            make_reading("trained", 0, "denoiser", "spectral_norm", norms),
            make_reading("trained", 0, "hessian", "smallest", smallest),
        ]
        models.append(ProbedModel(name, i + 1, 1, 4, readings))
    rows = select_rows(smoothness.verdict_rows(models), comparison="level 0 with level 0")
    assert [(row["reading"], row["form"]) for row in rows] == [("pixels", "|M|")]


def test_the_summary_has_every_result_on_a_line():
    lines = {
        (line.comparison, line.model, line.quantity, line.scale, line.statistic): line
        for line in summarize(MODELS)
    }

    def numbers(*key):
        line = lines[key]
        return line.trained, line.random, line.theorem

    jacobian = ("premise", "deep", "|J|", "")
    assert numbers(*jacobian, "below 1, %") == (50.0, 50.0, "")
    assert numbers(*jacobian, "largest") == (2.0, 2.0, "")
    levels = ("level with level", "deep")
    falls = "falls, %"
    assert numbers(*levels, "decoder", RAW, falls) == (100.0, 0.0, "")
    assert numbers(*levels, "decoder", TIMES_VARIANCE, falls) == (0.0, 0.0, "")
    assert numbers(*levels, "memory scaled tau", RAW, falls) == (100.0, 0.0, "")
    assert numbers(*levels, "pull-back", RAW, falls) == (None, None, "undecided")
    assert numbers(*levels, "pull-back", TIMES_VARIANCE, falls) == (0.0, 0.0, "")
    ratio = ("level 0 with level 0", "shallow -> deep", "pixels |M|", RAW, "ratio")
    assert numbers(*ratio) == (pytest.approx(3), pytest.approx(3), "")
    assert lines[ratio].verdict == "larger"
    assert lines[(*levels, "decoder", RAW, falls)].verdict == ""
    assert numbers("pixels", "shallow", "|H|", "", "median") == (2.0, 2.0, "")
    assert numbers("pixels", "shallow", "|H|", "", "90 % quantile") == (2.0, 2.0, "")


@pytest.mark.parametrize(
    ("name", "panels"),
    [("against_level", 5), ("against_noise", 1), ("against_depth", 6), ("verdicts", 1)],
)
def test_the_figures_draw_what_was_measured(name, panels):
    figure = probe_figures.FIGURES[name](MODELS)
    visible = [ax for ax in figure.axes if ax.get_visible()]
    assert len(visible) == panels
    assert all(ax.lines or ax.texts for ax in visible)
    assert "<svg" in style.to_svg(figure, name)


def test_the_asymmetry_stands_under_the_figures_and_in_the_summary():
    """The median over points and noise levels of the trained network alone."""
    readings = [
        make_reading("trained", 0, "denoiser", "asymmetry", [0.3, 0.4]),
        make_reading("trained", 0, "denoiser", "asymmetry", [0.5, 0.4]),
        make_reading("random", 0, "denoiser", "asymmetry", [0.9, 0.9]),
    ]
    deep = MODELS[1]
    measured = ProbedModel("deep", 2, 1, 4, [*deep.readings, *readings])
    medians = [line for line in summarize([measured]) if line.quantity == "asymmetry of M"]
    assert (medians[0].statistic, medians[0].random) == ("median", 0.9)
    assert medians[0].trained == pytest.approx(0.4)
    for name in ("against_level", "against_noise", "against_depth"):
        (legend,) = probe_figures.FIGURES[name]([MODELS[0], measured]).legends
        note = " ".join(legend.get_title().get_text().split())
        assert "the median of |M - M^T| / |M + M^T|, 0 for a gradient, is 0.40 (deep)." in note
        (legend,) = probe_figures.FIGURES[name](MODELS).legends
        assert not legend.get_title().get_text()


def test_what_was_not_measured_is_not_drawn():
    readings = [make_reading("trained", 0, "scale", "total_variance", [1.0])]
    models = [ProbedModel("alone", 1, 1, 4, readings)]
    for plot in probe_figures.FIGURES.values():
        assert plot(models) is None
    assert smoothness.verdict_rows(models) == []
    assert summarize(models) == []


def test_a_reading_survives_json():
    reading = make_reading("trained", 0, "hessian", "smallest", [1 / 3, math.inf], 0.5, rank=2)
    row = reading.to_json()
    assert row["values"] == [0.3333333, None], "7 digits, and null where undefined"
    assert row["errors"] == [0.5, 0.5]
    assert Reading.from_json(row).to_json() == row


def test_quantiles_over_points_as_an_estimate():
    values = [1.0, math.nan, 3.0]
    reading = make_reading("trained", 0, "hessian", "smallest", values, [0.0, math.nan, 0.1])
    estimate = reading.summarize()
    assert (estimate.value, estimate.n) == (2.0, 2)
    assert estimate.low == pytest.approx(1.2)
    assert estimate.method == "10 to 90 % of points, error at most 1.0e-01"
    row = estimate.to_json()
    assert (row["weights"], row["t"], row["level"], row["rank"]) == ("trained", 100, 0, "")


def test_a_proportion_keeps_its_own_interval():
    reading = Reading.measured("retrieval", "soft", [0.5], low=0.2, high=0.8, n=8)
    estimate = reading.summarize()
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (0.5, 0.2, 0.8, 8)
    assert estimate.method == "Wilson 95 %"
    assert Reading.measured("retrieval", "minima", [3]).summarize().method == "none"
