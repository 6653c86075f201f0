import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from jaxdiff.estimates import (
    Proportion,
    falls,
    holm,
    jackknife,
    logit_over_seeds,
    mcnemar,
    rogan_gladen,
    wilson,
)


def test_wilson_is_the_printed_interval():
    """Newcombe (1998), Table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)
    with pytest.raises(ValueError, match="got 5 of 4"):
        wilson(5, 4)


def test_a_perfect_classifier_changes_nothing_but_the_width():
    corrected = rogan_gladen(Proportion(20, 100), Proportion(50, 50), Proportion(50, 50))
    assert corrected.value == pytest.approx(0.2)
    assert corrected.low < wilson(20, 100)[0] < corrected.value <= corrected.high
    assert rogan_gladen(Proportion(20, 100), Proportion(20, 50), Proportion(20, 50)) is None


@pytest.mark.parametrize(
    ("share", "errors", "n"), [(0.2, 0.02, 256), (0.3, 0.1, 256), (0.5, 0.05, 1000)]
)
def test_the_corrected_interval_covers_the_truth(share, errors, n):
    """Samples and both error rates are drawn anew each time: 95 % intervals must cover in about 95 %."""
    rng, trials, test = np.random.default_rng(0), 2000, 200
    called = rng.binomial(n, share * (1 - errors) + (1 - share) * errors, trials)
    hits, rejections = rng.binomial(test, 1 - errors, (2, trials))
    intervals = [
        rogan_gladen(Proportion(int(c), n), Proportion(int(h), test), Proportion(int(r), test))
        for c, h, r in zip(called, hits, rejections, strict=True)
    ]
    assert 0.93 <= np.mean([i.low <= share <= i.high for i in intervals]) <= 0.985
    assert abs(np.mean([i.value for i in intervals]) - share) < 0.005


@pytest.mark.slow
def test_coverage_of_the_corrected_interval_over_a_grid():
    """5,000 trials a cell: the mean is near 95 %, no cell is far under it."""
    rng, trials, covered = np.random.default_rng(0), 5_000, []
    for share, error, n, test in itertools.product(
        (0.05, 0.1, 0.2, 0.35, 0.5), (0.02, 0.05, 0.1), (256, 1000), (200, 950)
    ):
        called = rng.binomial(n, share * (1 - error) + (1 - share) * error, trials)
        hits, rejections = rng.binomial(test, 1 - error, (2, trials))
        found = [
            rogan_gladen(Proportion(int(c), n), Proportion(int(h), test), Proportion(int(r), test))
            for c, h, r in zip(called, hits, rejections, strict=True)
        ]
        inside = np.mean([i.low <= share <= i.high for i in found])
        enough = min(share * n, error * test) >= 10
        assert inside >= (0.93 if enough else 0.92), (share, error, n, test)
        covered.append(inside)
    assert 0.945 <= np.mean(covered) <= 0.96


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=40)
    without = (x.sum() - x) / 39
    assert jackknife(x.mean(), without, np.ones(40)) == pytest.approx(x.std(ddof=1) / 40**0.5)
    uneven = np.array([10, 10, 12, 8])
    groups = np.split(x, np.cumsum(uneven)[:-1])
    without = np.array([(x.sum() - g.sum()) / (40 - len(g)) for g in groups])
    assert (
        0.3 < jackknife(x.mean(), without, uneven.astype(float)) / (x.std(ddof=1) / 40**0.5) < 2.5
    )
    assert math.isnan(jackknife(1.0, np.array([np.nan, 1.0, 2.0]), np.ones(3)))


def test_shares_over_seeds():
    found = logit_over_seeds([0.2, 0.25, 0.15], [1000] * 3)
    logits = logit(np.array([0.2, 0.25, 0.15]))
    half = stats.t.ppf(0.975, 2) * logits.std(ddof=1) / 3**0.5
    assert (found.low, found.high) == pytest.approx(
        tuple(expit(logits.mean() + np.array([-half, half])))
    )
    assert logit_over_seeds([0.2], [100]) is None
    assert 0 < logit_over_seeds([0.0, 0.1], [100, 100]).value < 0.1, (
        "a count of 0 is half an observation"
    )


def test_holm_and_mcnemar():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * sum(math.comb(10, k) for k in (0, 1)) / 2**10)


def test_falls():
    before = np.array([1.0, 2.0, 4.0, 8.0])
    found = falls(before, before / 2)
    assert not found["refuted"]
    assert (found["share"], found["log_ratio"]) == (1.0, pytest.approx(-np.log(2)))
    assert found["log_low"] == pytest.approx(found["log_high"])
    found = falls(before, np.array([0.5, 1.0, 2.0, 9.0]))
    assert found["refuted"]
    assert found["share"] == 0.75
    assert found["low"] < 0.75 < found["high"]


def test_errors_leave_points_undecided():
    found = falls(np.full(3, 2.0), np.array([1.0, 2.0 - 1e-7, 2.0 + 1e-7]), 1e-5, np.full(3, 1e-5))
    assert (found["refuted"], found["undecided"], found["share"]) == (False, 2, 1.0)
    found = falls(np.array([2.0]), np.array([2.0]), 1e-5)
    assert (found["share"], found["undecided"]) == (None, 1)
    with pytest.raises(ValueError, match="norms of 0 to 2 were given; positive ones are compared"):
        falls(np.array([2.0]), np.array([0.0]))
