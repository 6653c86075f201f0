import dataclasses
import math
import pathlib

import numpy as np
import pytest
from scipy import optimize, special

from jaxdiff.estimates import Estimate
from jaxdiff.scaling.loss_law import LossLaw, find_starts, fit_from_grid, fit_huber
from jaxdiff.scaling.parametric import LeftOut, fit_parametric, predict_left_out
from jaxdiff.scaling.points import LossPoint, Refused
from tests.scaling.simulated_points import (
    ALPHA,
    BETA,
    DATA_TERM,
    DEPTH_RATIO,
    FEWEST_COVERED,
    FEWEST_IMAGES,
    IRREDUCIBLE,
    SIZE_TERM,
    SMALLEST_FLOPS,
    STUDIES,
    simulate_points,
    true_loss,
)

REPEATED = {"unique_images": 4e5, "repeat_scale": 8.0}


def build_law(points):
    depths = tuple(sorted({point.depth for point in points}))
    return LossLaw.of(points, depths), np.log([point.loss for point in points])


def test_law_is_its_formula():
    points = simulate_points(depths=(0, 1), **REPEATED)
    law, _ = build_law(points)
    theta = np.log([0.5, 0.3, 0.2, 0.4, 0.35, 0.4, 8.0])
    flops = np.array([point.flops for point in points]) / np.exp(law.center[0])
    images = np.array([point.images for point in points])
    repeated = 4e5 * (1 + 8 * (1 - np.exp(-(images / 4e5 - 1) / 8)))
    useful = np.where(images > 4e5, repeated, images) / np.exp(law.center[1])
    size = np.where([point.depth == 0 for point in points], 0.3, 0.2) * flops**-0.35
    np.testing.assert_allclose(
        law.evaluate(theta)[0], np.log(0.5 + size + 0.4 * useful**-0.4), rtol=1e-12
    )


@pytest.mark.parametrize("options", [{}, REPEATED])
def test_derivatives_are_finite_differences(options):
    law, _ = build_law(simulate_points(depths=(0, 1), **options))
    theta = np.log([0.5, 0.3, 0.2, 0.4, 0.35, 0.4, 8.0])[: law.parameters]
    differences = optimize.approx_fprime(theta, lambda x: law.evaluate(x)[0], 1e-7)
    np.testing.assert_allclose(law.evaluate(theta)[1], differences, atol=1e-6)


def test_huber_fit_is_a_minimum_of_the_definition():
    points = simulate_points(0.01, depths=(0, 1))
    law, log_loss = build_law(points)
    theta = fit_from_grid(law, log_loss)

    def definition(parameters):
        residuals = log_loss - law.evaluate(parameters)[0]
        return special.huber(1e-3, residuals).sum() / 1e-6

    best = definition(theta)
    reference = optimize.minimize(
        definition, theta, method="Nelder-Mead", options={"maxfev": 4000, "xatol": 1e-7}
    )
    assert best <= reference.fun * (1 + 1e-4)
    assert best == pytest.approx(fit_huber(law, log_loss, theta)[1] * len(points), rel=1e-4)


def test_weights_count_points():
    points = simulate_points(0.01)
    law, log_loss = build_law(points)
    start = find_starts(law, log_loss)[0]
    counts = np.arange(len(points)) % 3
    repeated = [point for point, count in zip(points, counts, strict=True) for _ in range(count)]
    weighted = fit_huber(law, log_loss, start, counts.astype(float), tolerance=1e-12)
    plain = fit_huber(law.at(repeated, (0,)), np.repeat(log_loss, counts), start, tolerance=1e-12)
    assert weighted[1] == pytest.approx(plain[1], rel=1e-4)


@pytest.mark.parametrize("options", [{}, REPEATED])
def test_points_without_noise_give_the_parameters_back(options):
    fit = fit_parametric(simulate_points(depths=(0, 1, 2), **options), bootstraps=2)
    size = SIZE_TERM * SMALLEST_FLOPS**ALPHA
    assert float(fit.alpha) == pytest.approx(ALPHA, abs=1e-4)
    assert float(fit.beta) == pytest.approx(BETA, abs=1e-4)
    assert float(fit.irreducible_loss) == pytest.approx(IRREDUCIBLE, rel=1e-4)
    for depth in range(3):
        expected = size * DEPTH_RATIO**depth
        assert float(fit.size_coefficients[depth]) == pytest.approx(expected, rel=1e-3)
    assert float(fit.data_coefficient) == pytest.approx(DATA_TERM * FEWEST_IMAGES**BETA, rel=1e-3)
    assert float(fit.allocation) == pytest.approx(BETA / (ALPHA + BETA), abs=1e-4)
    assert float(fit.depth_effect) == pytest.approx(2 * math.log(DEPTH_RATIO), abs=1e-4)
    assert np.abs(fit.residuals).max() < 1e-5
    if options:
        assert float(fit.repeat_scale) == pytest.approx(8.0, rel=1e-3)
    else:
        assert fit.repeat_scale is None


def test_allocation_is_the_exponent_of_the_best_size():
    fit = fit_parametric(simulate_points(), bootstraps=2)

    def best_log_flops(compute):
        return optimize.minimize_scalar(
            lambda x: fit.predict(math.exp(x), compute / 3 / math.exp(x)),
            bounds=(math.log(1e8), math.log(1e12)),
            method="bounded",
            options={"xatol": 1e-9},
        ).x

    slope = (best_log_flops(1e17) - best_log_flops(1e15)) / math.log(100)
    assert slope == pytest.approx(float(fit.allocation), abs=1e-4)


def test_predictions_and_residuals():
    points = simulate_points(0.01, depths=(0, 1))
    fit = fit_parametric(points, bootstraps=2)
    point = points[-1]
    predicted = fit.predict(point.flops, point.images, point.unique_images, point.depth)
    assert math.log(point.loss / predicted) == pytest.approx(fit.residuals[-1])
    assert fit.predict(1e13, 1e9) == pytest.approx(true_loss(1e13, 1e9), rel=0.1)
    with pytest.raises(ValueError, match="must have the depth, got 7: give one of 0, 1"):
        fit.predict(1e9, 1e6, depth=7)
    with pytest.raises(ValueError, match="repeated images need a fit in which some repeat"):
        fit.predict(1e9, 1e6, 1e5)


def test_intervals_are_the_same_for_the_same_seed_and_contain_the_value():
    points = simulate_points(0.01, depths=(0, 1), sizes=4)
    first = fit_parametric(points, bootstraps=20, seed=3)
    assert first.alpha == fit_parametric(points, bootstraps=20, seed=3).alpha
    assert first.alpha != fit_parametric(points, bootstraps=20, seed=4).alpha
    answers = [first.alpha, first.beta, first.irreducible_loss, first.data_coefficient]
    answers += [first.allocation, first.depth_effect, *first.size_coefficients.values()]
    for answer in answers:
        assert answer.low <= answer.value <= answer.high
        assert answer.method == "parametric bootstrap 95 % over points, 34 degrees of freedom"


def test_three_seeds_of_every_size_are_the_unit():
    points = simulate_points(0.01, sizes=4, lengths=4, seeds=3)
    fit = fit_parametric(points, bootstraps=20)
    assert fit.alpha.method == "bootstrap 95 % over seeds, 8 degrees of freedom"
    assert fit.alpha.n == 12
    uneven = fit_parametric(points[1:4] + points[5:], bootstraps=20)
    assert "over seeds" in uneven.alpha.method
    one_missing = [point for point in points if (point.flops, point.seed) != (points[0].flops, 2)]
    assert "over points" in fit_parametric(one_missing, bootstraps=20).alpha.method


def test_left_out_points_are_predicted_from_the_rest():
    points = simulate_points()
    size, length = predict_left_out(points)
    assert isinstance(size, LeftOut)
    assert (size.what, length.what) == ("largest size", "longest run")
    assert (len(size.points), len(length.points)) == (5, 6)
    assert {point.flops for point in size.points} == {max(point.flops for point in points)}
    np.testing.assert_allclose(
        size.predicted, [true_loss(point.flops, point.images) for point in size.points], rtol=1e-4
    )
    worse = [
        dataclasses.replace(point, loss=point.loss * 1.1) if point in size.points else point
        for point in points
    ]
    assert float(predict_left_out(worse)[0].relative_error) == pytest.approx(1 / 1.1 - 1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sizes": 2}, "2 sizes of one depth and 5 lengths"),
        ({"lengths": 2}, "6 sizes of one depth and 2 lengths"),
    ],
)
def test_too_few_sizes_or_lengths_are_refused(options, reason):
    fit = fit_parametric(simulate_points(**options))
    assert isinstance(fit, Refused)
    assert reason in fit.refused


def test_too_few_points_are_refused():
    points = simulate_points(sizes=3, lengths=3)
    fit = fit_parametric([points[0], points[4], points[8]])
    assert "3 points, and 5 parameters" in fit.refused


def test_left_out_refusals():
    size, length = predict_left_out(simulate_points(sizes=3))
    assert "without the largest size there are 2 sizes" in size.refused
    assert isinstance(length, LeftOut)
    only_large = LossPoint(1.0, 1e12, 1e5, 1e9, depth=1)
    assert "no point of depth 1" in predict_left_out([*simulate_points(), only_large])[0].refused


@pytest.mark.slow
def test_an_exponent_that_is_not_determined_is_refused():
    noisy = [
        dataclasses.replace(point, loss=float(np.exp(0.1 * np.random.default_rng(i).normal())))
        for i, point in enumerate(simulate_points(sizes=3, lengths=3))
    ]
    fit = fit_parametric(noisy, bootstraps=50)
    assert "is not within 0.01 to 2: the points do not determine it" in fit.alpha.refused
    assert fit.size_coefficients[0] == fit.irreducible_loss == fit.alpha
    assert isinstance(fit.allocation, Refused)


@pytest.mark.parametrize("bootstraps", [1, 0])
def test_too_few_bootstraps(bootstraps):
    with pytest.raises(ValueError, match="at least 2 bootstraps"):
        fit_parametric(simulate_points(), bootstraps=bootstraps)


def test_published_fit_of_chinchilla():
    """Besiroglu et al. (2024), Table 1: without the five runs that saw the fewest tokens."""
    parameters, compute, loss = np.loadtxt(
        pathlib.Path(__file__).parent / "chinchilla.csv", delimiter=",", unpack=True
    )
    tokens = compute / (6 * parameters)
    points = [
        LossPoint(loss[i], parameters[i], tokens[i], tokens[i])
        for i in np.argsort(tokens)[5:].tolist()
    ]
    fit = fit_parametric(points, bootstraps=2)
    assert len(points) == 240
    assert float(fit.irreducible_loss) == pytest.approx(1.8172, abs=0.03)
    assert float(fit.size_coefficients[0]) == pytest.approx(482.01, abs=124.58)
    assert float(fit.data_coefficient) == pytest.approx(2085.43, abs=1293.23)
    assert float(fit.alpha) == pytest.approx(0.3478, abs=0.02)
    assert float(fit.beta) == pytest.approx(0.3658, abs=0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("noise", [0.003, 0.01])
def test_intervals_cover_the_exponents(noise):
    covered = {"alpha": 0, "beta": 0}
    for study in range(STUDIES):
        fit = fit_parametric(simulate_points(noise, seed=study), bootstraps=150, seed=study)
        for name, truth in (("alpha", ALPHA), ("beta", BETA)):
            answer = getattr(fit, name)
            assert isinstance(answer, Estimate)
            covered[name] += answer.low <= truth <= answer.high
    print(noise, covered)
    assert min(covered.values()) >= FEWEST_COVERED
