import math

import numpy as np
import pytest

from jaxdiff.scaling.isoflop import choose_budgets, fit_isoflop
from jaxdiff.scaling.points import LossPoint, Refused
from tests.scaling.simulated_points import (
    ALPHA,
    BETA,
    DATA_TERM,
    FEWEST_IMAGES,
    SIZE_TERM,
    SMALLEST_FLOPS,
    simulate_points,
    true_loss,
)

BUDGETS = np.geomspace(1e15, 1e17, 4)
EXPONENT = BETA / (ALPHA + BETA)


def best_flops(compute):
    """Where alpha A F^-alpha = beta B D^-beta at compute = 3 F D."""
    a = ALPHA * SIZE_TERM * SMALLEST_FLOPS**ALPHA
    b = BETA * DATA_TERM * FEWEST_IMAGES**BETA
    return (a / b * (compute / 3) ** BETA) ** (1 / (ALPHA + BETA))


def simulate_budgets(noise=0.0, seed=0, width=4.0, sizes=7, budgets=BUDGETS, seeds=1):
    """Sizes about the best one of each budget, one length each."""
    rng = np.random.default_rng(seed)
    return [
        LossPoint(
            true_loss(flops, compute / 3 / flops) * np.exp(noise * rng.standard_normal()),
            flops,
            compute / 3 / flops,
            1e12,
            seed=run,
        )
        for compute in budgets
        for flops in best_flops(compute) * np.geomspace(1 / width, width, sizes)
        for run in range(seeds)
    ]


def parabolic_points(exponent=0.6, curvature=0.05):
    points = []
    for compute in BUDGETS:
        center = math.log(1e10) + exponent * math.log(compute / BUDGETS[0])
        for x in np.linspace(-1.5, 1.0, 6):
            flops = math.exp(center + x)
            points.append(
                LossPoint(math.exp(curvature * x**2 - 1), flops, compute / 3 / flops, 1e15)
            )
    return points


def test_parabolas_give_their_minima_and_slope_back():
    fit = fit_isoflop(parabolic_points(), bootstraps=50)
    assert float(fit.exponent) == pytest.approx(0.6, abs=1e-9)
    np.testing.assert_allclose([budget.compute for budget in fit.budgets], BUDGETS)
    np.testing.assert_allclose(
        [float(budget.best_flops) for budget in fit.budgets], 1e10 * (BUDGETS / BUDGETS[0]) ** 0.6
    )
    assert {budget.sizes for budget in fit.budgets} == {6}
    assert fit.exponent.method == "parametric bootstrap 95 % over points, 12 degrees of freedom"


def test_nearly_equal_budgets_are_one():
    points = simulate_budgets(budgets=BUDGETS)
    shifted = [
        LossPoint(p.loss, p.flops, p.images * (1 + 0.02 * (i % 2)), p.unique_images)
        for i, p in enumerate(points)
    ]
    assert len(fit_isoflop(shifted, bootstraps=10).budgets) == len(BUDGETS)


def test_best_size_of_the_law_within_a_narrow_range():
    fit = fit_isoflop(simulate_budgets(width=2.0), bootstraps=10)
    assert float(fit.exponent) == pytest.approx(EXPONENT, abs=1e-3)
    for budget in fit.budgets:
        assert float(budget.best_flops) == pytest.approx(best_flops(budget.compute), rel=0.02)


def test_losses_are_interpolated_along_runs():
    """Where log L is linear in log D, interpolation is exact."""
    sizes = np.geomspace(1e9, 16e9, 6)

    def loss(flops, images):
        x = math.log(flops / 4e9)
        return math.exp(0.1 * x**2 + 0.2 * x - 0.3 * math.log(images / 1e6))

    points = [
        LossPoint(loss(flops, images), flops, images, 1e12)
        for flops in sizes
        for images in np.geomspace(1e4, 1e8, 5)
    ]
    fit = fit_isoflop(points, budgets=[1e15, 1e16, 1e17], bootstraps=10)
    # At D = C / (3 F) the loss is 0.1 x^2 + (0.2 + 0.3) x, least at x = -2.5.
    assert all(isinstance(budget.best_flops, Refused) for budget in fit.budgets)
    assert "not bracketed" in fit.budgets[0].best_flops.refused
    wider = [
        LossPoint(loss(flops, images), flops, images, 1e12)
        for flops in np.geomspace(1e8, 4e9, 6)
        for images in np.geomspace(1e4, 1e9, 6)
    ]
    fit = fit_isoflop(wider, budgets=[3e14, 1e15, 3e15], bootstraps=10)
    for budget in fit.budgets:
        assert float(budget.best_flops) == pytest.approx(4e9 * math.exp(-2.5), rel=1e-6)
    assert float(fit.exponent) == pytest.approx(0, abs=1e-6)


def test_budgets_are_those_that_most_sizes_reach():
    assert choose_budgets(simulate_budgets()) is None, "the points share them"
    budgets = choose_budgets(simulate_points(sizes=6, lengths=5))
    smallest, largest = (1e9, 64e9)
    ratio = 64 ** (1 / 5)  # of neighboring sizes
    # Five sizes: the fifth has begun, and the second has not ended.
    assert budgets[0] == pytest.approx(3 * largest / ratio * FEWEST_IMAGES)
    assert budgets[-1] == pytest.approx(3 * smallest * ratio * 32 * FEWEST_IMAGES)
    fit = fit_isoflop(simulate_points(sizes=6, lengths=5), budgets, bootstraps=10)
    assert min(budget.sizes for budget in fit.budgets) >= 5
    few = choose_budgets(simulate_points(sizes=3, lengths=3))
    assert few[0] == pytest.approx(3 * 8 * smallest * FEWEST_IMAGES), "two of three sizes"
    assert len(choose_budgets(simulate_points(sizes=1, lengths=1))) == 1


def test_a_budget_has_its_parabola():
    budget = fit_isoflop(parabolic_points(), bootstraps=10).budgets[0]
    np.testing.assert_allclose(budget.loss_at(np.array(budget.flops)), budget.losses)
    best = float(budget.best_flops)
    assert budget.loss_at(np.array([best]))[0] == pytest.approx(math.exp(-1))


def test_refusals():
    few = fit_isoflop(simulate_budgets(sizes=4), bootstraps=10)
    assert "4 sizes at 1e+15 FLOP, and a parabola needs 5" in few.budgets[0].best_flops.refused
    assert "0 budgets have a minimum" in few.exponent.refused
    two = fit_isoflop(simulate_budgets(budgets=BUDGETS[:2]), bootstraps=10)
    assert "2 budgets have a minimum" in two.exponent.refused
    noisy = fit_isoflop(simulate_budgets(0.3, seed=2), bootstraps=200)
    assert isinstance(noisy.exponent, Refused)


def test_bad_input():
    points = simulate_budgets()
    other = LossPoint(1.0, 1e9, 1e6, 1e12, depth=5)
    with pytest.raises(ValueError, match="points of one depth, got 0, 5: fit each alone"):
        fit_isoflop([*points, other])
    with pytest.raises(ValueError, match="a budget must be finite and above 0, got -1"):
        fit_isoflop(points, budgets=[-1.0])
    with pytest.raises(ValueError, match="at least 2 bootstraps"):
        fit_isoflop(points, bootstraps=1)
    with pytest.raises(ValueError, match="needs points"):
        fit_isoflop([])


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.003, 0.01])
def test_intervals_cover_the_exponent(noise):
    covered = 0
    for study in range(100):
        fit = fit_isoflop(simulate_budgets(noise, seed=study), seed=study)
        covered += fit.exponent.low <= EXPONENT <= fit.exponent.high
    print(noise, covered)
    assert covered >= 93
