import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from jaxdiff.scaling.memorization_time import (
    EventTime,
    _Times,
    fit_memorization_time,
    standard_normal_log_probability,
)
from jaxdiff.scaling.points import Refused

KAPPA, NOISE, DEPTH_EFFECT = 1.2, 0.3, -0.4
IMAGES = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0)


def simulate_times(seed=0, seeds=4, depths=(0,), end=math.inf, spacing=1.2, noise=NOISE):
    """Times between checkpoints that lie `spacing` apart as a ratio, of runs of equal length."""
    rng = np.random.default_rng(seed)
    times = []
    for depth in depths:
        for images in IMAGES:
            for run in range(seeds):
                error = noise * rng.standard_normal()
                log_tau = 2 + DEPTH_EFFECT * depth + KAPPA * math.log(images) + error
                if log_tau > math.log(end):
                    interval = (end, math.inf)
                elif spacing == 1:
                    interval = (math.exp(log_tau), math.exp(log_tau))
                else:
                    place = math.floor(log_tau / math.log(spacing))
                    interval = (spacing**place, min(spacing ** (place + 1), end))
                times.append(EventTime(images, *interval, depth, run))
    return times


def median_end(share):
    """The length of run at which about this share of sizes never memorizes."""
    log_images = np.quantile(np.log(IMAGES), 1 - share)
    return math.exp(2 + KAPPA * log_images)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 0.5), (3.0, 3.1), (-9.0, -8.0), (2.0, 7.0), (-0.1, 0.2)]
)
def test_log_mass_is_the_integral_of_the_density(low, high):
    mass = integrate.quad(stats.norm.pdf, low, high, epsabs=0, epsrel=1e-11)[0]
    result = standard_normal_log_probability(np.array([low]), np.array([high]))[0]
    assert result == pytest.approx(math.log(mass), abs=1e-9)


def test_log_mass_in_the_tails():
    result = standard_normal_log_probability(
        np.array([20.0, -np.inf, 30.0]), np.array([np.inf, -20.0, 31.0])
    )
    np.testing.assert_allclose(result[:2], stats.norm.logsf(20.0))
    np.testing.assert_allclose(result[2], stats.norm.logsf(30.0), rtol=1e-9)


def test_likelihood_is_that_of_direct_integration():
    ends = [(0.0, 2.0), (1.5, 3.0), (4.0, math.inf), (2.5, 2.5)]
    design = np.array([[1.0, x] for x in (0.0, 0.5, 1.0, 1.5)])
    low, high = np.array([[-math.inf, math.log(2.0)], *np.log(ends[1:])]).T
    coefficients, noise = np.array([0.4, 0.7]), 0.6
    expected = 0.0
    for (after, before), row in zip(ends, design, strict=True):
        tau = stats.lognorm(noise, scale=math.exp(float(row @ coefficients)))
        if after == before:
            expected += math.log(tau.pdf(after) * after)  # a density of log tau
        else:
            limits = (after, before) if math.isfinite(before) else (0.0, after)
            mass = integrate.quad(tau.pdf, *limits, epsrel=1e-11)[0]
            expected += math.log(mass if math.isfinite(before) else 1 - mass)
    parameters = np.append(coefficients, 1.0) / noise
    value, gradient = _Times(low, high, design).log_likelihood(parameters)
    assert value == pytest.approx(expected, abs=1e-8)
    differences = optimize.approx_fprime(
        parameters, lambda p: _Times(low, high, design).log_likelihood(p)[0], 1e-7
    )
    np.testing.assert_allclose(gradient, differences, atol=1e-5)


def test_known_times_give_least_squares():
    times = simulate_times(spacing=1)
    fit = fit_memorization_time(times)
    line = stats.linregress(np.log([t.images for t in times]), np.log([t.after for t in times]))
    half = stats.t.ppf(0.975, len(times) - 2) * line.stderr
    assert float(fit.kappa) == pytest.approx(line.slope, abs=1e-5)
    assert fit.offsets[0] == pytest.approx(line.intercept, abs=1e-4)
    assert fit.kappa.low == pytest.approx(line.slope - half, abs=1e-4)
    assert fit.kappa.high == pytest.approx(line.slope + half, abs=1e-4)


def test_times_without_noise_give_the_parameters_back():
    fit = fit_memorization_time(simulate_times(spacing=1, depths=(0, 1), noise=0.0))
    assert float(fit.kappa) == pytest.approx(KAPPA, abs=1e-4)
    assert float(fit.depth_effect) == pytest.approx(DEPTH_EFFECT, abs=1e-4)
    assert fit.offsets == pytest.approx({0: 2.0, 1: 2.0 + DEPTH_EFFECT}, abs=1e-3)


def test_depth_effect_with_censored_times():
    times = simulate_times(depths=(0, 1, 2), seeds=6, end=median_end(1 / 3))
    fit = fit_memorization_time(times)
    assert fit.kappa.low < KAPPA < fit.kappa.high
    assert fit.depth_effect.low < 2 * DEPTH_EFFECT < fit.depth_effect.high
    assert fit.sigma == pytest.approx(NOISE, rel=0.3)
    assert "profile likelihood 95 %" in fit.kappa.method


def test_a_first_checkpoint_may_be_too_late():
    times = simulate_times()
    early = [EventTime(t.images, 0.0, t.before) if t.images == 100 else t for t in times]
    fit = fit_memorization_time(early)
    assert fit.kappa.low < KAPPA < fit.kappa.high


def test_a_depth_that_never_memorizes_has_no_effect():
    times = simulate_times() + [EventTime(n, 1e9, math.inf, depth=1) for n in IMAGES]
    fit = fit_memorization_time(times)
    assert "without a bound" in fit.depth_effect.refused
    assert fit.kappa.low < KAPPA < fit.kappa.high
    assert isinstance(fit.offsets[0], float)
    assert isinstance(fit.offsets[1], Refused)
    from_the_start = [EventTime(n, 0.0, 1.0, depth=1) for n in IMAGES]
    fit = fit_memorization_time(simulate_times() + from_the_start)
    assert isinstance(fit.offsets[1], Refused)


def test_refusals():
    times = simulate_times()
    two = fit_memorization_time([t for t in times if t.images < 300])
    assert isinstance(two, Refused)
    assert "kappa needs 3 different numbers of training images, got 2" in two.refused
    one = [t if t.images == 100 else EventTime(t.images, 5.0, math.inf) for t in times]
    assert "2 different numbers of training images at which runs memorize, got 1" in (
        fit_memorization_time(one).refused
    )
    few = [times[0], times[4], EventTime(800.0, 5.0, math.inf)]
    assert "2 runs memorize, and 2 coefficients" in fit_memorization_time(few).refused


@pytest.mark.parametrize("ends", [(2.0, 1.0), (-1.0, 1.0), (0.0, 0.0), (math.inf, math.inf)])
def test_a_time_must_be_an_interval(ends):
    with pytest.raises(ValueError, match="a time needs 0 <= after <= before"):
        fit_memorization_time([EventTime(100.0, *ends)])


def test_bad_input():
    with pytest.raises(ValueError, match="needs times, got none"):
        fit_memorization_time([])
    with pytest.raises(ValueError, match="images must be finite and above 0, got 0"):
        fit_memorization_time([EventTime(0.0, 1.0, 2.0)])


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_intervals_cover_kappa_with_a_third_censored():
    covered = 0
    censored = []
    for study in range(100):
        times = simulate_times(seed=study, end=median_end(1 / 3))
        censored.append(np.mean([math.isinf(time.before) for time in times]))
        kappa = fit_memorization_time(times).kappa
        covered += kappa.low <= KAPPA <= kappa.high
    print(covered, np.mean(censored))
    assert np.mean(censored) == pytest.approx(1 / 3, abs=0.05)
    assert covered >= 93
