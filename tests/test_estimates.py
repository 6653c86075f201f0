"""Intervals and tests against published tables, closed forms and simulations."""

import itertools
import math

import numpy as np
import pytest

from jaxdiff.estimates import (
    Estimate,
    Proportion,
    holm,
    holm_levels,
    jackknife,
    mcnemar,
    rogan_gladen,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_is_the_printed_interval(successes, trials, interval):
    """Newcombe (1998), Table I, method 3."""
    assert wilson(successes, trials) == pytest.approx(interval, abs=1e-4)


def test_wilson_refuses_more_successes_than_trials():
    with pytest.raises(ValueError, match="got 5 of 4"):
        wilson(5, 4)


def test_a_perfect_classifier_changes_nothing_but_the_width():
    corrected = rogan_gladen(Proportion(20, 100), Proportion(50, 50), Proportion(50, 50))
    assert corrected.value == pytest.approx(0.2)
    assert corrected.low < wilson(20, 100)[0] < corrected.value <= corrected.high


def test_a_classifier_worse_than_chance_gives_no_estimate():
    assert rogan_gladen(Proportion(20, 100), Proportion(20, 50), Proportion(20, 50)) is None


def simulate_corrections(rng, *, share, error, n, test_size, trials):
    """Corrected shares, with fresh samples and fresh counts of both errors in every trial."""
    positive_share = share * (1 - error) + (1 - share) * error
    positives = rng.binomial(n, positive_share, trials)
    hits, rejections = rng.binomial(test_size, 1 - error, (2, trials))
    estimates = []
    for positive, hit, rejection in zip(positives, hits, rejections, strict=True):
        observed = Proportion(int(positive), n)
        sensitivity = Proportion(int(hit), test_size)
        specificity = Proportion(int(rejection), test_size)
        estimates.append(rogan_gladen(observed, sensitivity, specificity))
    return estimates


def compute_coverage(estimates, truth):
    """The share of the intervals that contain the truth."""
    return np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])


@pytest.mark.parametrize(
    ("share", "error", "n"), [(0.2, 0.02, 256), (0.3, 0.1, 256), (0.5, 0.05, 1000)]
)
def test_the_corrected_interval_covers_the_truth(share, error, n):
    """About 95 % of the 95 % intervals cover it."""
    rng = np.random.default_rng(0)
    estimates = simulate_corrections(rng, share=share, error=error, n=n, test_size=200, trials=2000)
    assert 0.93 <= compute_coverage(estimates, share) <= 0.985
    assert abs(np.mean([estimate.value for estimate in estimates]) - share) < 0.005


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_coverage_of_the_corrected_interval_over_a_grid():
    """The mean is near 95 %, and no point of the grid is far below."""
    rng = np.random.default_rng(0)
    shares = (0.05, 0.1, 0.2, 0.35, 0.5)
    errors = (0.02, 0.05, 0.1)
    coverages = []
    for share, error, n, test_size in itertools.product(shares, errors, (256, 1000), (200, 950)):
        estimates = simulate_corrections(
            rng, share=share, error=error, n=n, test_size=test_size, trials=5_000
        )
        coverage = compute_coverage(estimates, share)
        # The normal approximation needs about ten events of both kinds.
        has_enough_events = min(share * n, error * test_size) >= 10
        lowest = 0.93 if has_enough_events else 0.92
        assert coverage >= lowest, (share, error, n, test_size)
        coverages.append(coverage)
    assert 0.945 <= np.mean(coverages) <= 0.96


@pytest.mark.parametrize("error", [0.0, math.nan, math.inf])
def test_without_a_spread_there_is_no_normal_interval(error):
    estimate = Estimate.normal(2.0, error, 5, "jackknife 95 %", "kid")
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (2.0, None, None, 5)
    assert estimate.method == "none"


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = np.random.default_rng(0).normal(size=40)
    standard_error = x.std(ddof=1) / 40**0.5
    leave_one_out = (x.sum() - x) / 39
    assert jackknife(x.mean(), leave_one_out, np.ones(40)) == pytest.approx(standard_error)


def test_the_jackknife_takes_groups_of_different_sizes():
    x = np.random.default_rng(0).normal(size=40)
    standard_error = x.std(ddof=1) / 40**0.5
    sizes = np.array([10, 10, 12, 8])
    groups = np.split(x, np.cumsum(sizes)[:-1])
    leave_group_out = np.array([(x.sum() - group.sum()) / (40 - len(group)) for group in groups])
    ratio = jackknife(x.mean(), leave_group_out, sizes.astype(float)) / standard_error
    assert 0.3 < ratio < 2.5


def test_the_jackknife_of_an_undefined_value_is_nan():
    assert math.isnan(jackknife(1.0, np.array([np.nan, 1.0, 2.0]), np.ones(3)))


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_mcnemar():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 9) == pytest.approx(2 * sum(math.comb(10, k) for k in (0, 1)) / 2**10)


def test_holm_levels_reject_as_the_adjusted_p_values_do():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = (rng.random(5) ** 3).tolist()
        levels = holm_levels(p_values, 0.05)
        by_level = [p <= level for p, level in zip(p_values, levels, strict=True)]
        assert by_level == [p <= 0.05 for p in holm(p_values)]
    assert holm_levels([0.001, 0.04, 0.02], 0.06) == pytest.approx([0.02, 0.06, 0.03])


@pytest.mark.parametrize(("sensitivity", "specificity"), [((3, 3), (10, 100)), ((4, 4), (16, 100))])
def test_a_classifier_that_may_be_no_better_than_chance_leaves_the_share_open(
    sensitivity, specificity
):
    """Better than chance as counted, and not once the rates are shrunk."""
    estimate = rogan_gladen(Proportion(95, 100), Proportion(*sensitivity), Proportion(*specificity))
    assert (estimate.low, estimate.high) == (0, 1)
    assert 0 <= estimate.value <= 1
