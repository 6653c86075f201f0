import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import energies, minima
from tests.landscape import oracles
from tests.landscape.clouds import LABELS, POINTS, RNG

PAIR = jnp.array([[1.0, 0.0], [-1.0, 0.0]])


def test_the_time_constant_of_eq_3_changes_no_end():
    start = jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32)
    ends = [oracles.flow(start, POINTS, 0.2, constant, 160.0) for constant in (0.5, 1.0, 4.0)]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=1e-3)
    early = oracles.flow(start, POINTS, 0.2, 4.0, 0.4)
    assert np.abs(early - ends[0]).max() > 0.1, "before the end it does"
    np.testing.assert_allclose(ends[0], minima.mean_shift(start, POINTS, 0.2), atol=1e-2)
    smoother = minima.mean_shift(start, POINTS, 20.0)
    assert np.abs(smoother - ends[0]).max() > 0.5, "the temperature of Eq. 2 does"


@pytest.mark.parametrize("tau", [1e-3, 2.0, 50.0])
def test_fixed_points_have_no_gradient(tau):
    ends = minima.mean_shift(POINTS, POINTS, tau)
    slopes = jax.vmap(lambda x: energies.gradient(x, POINTS, tau))(ends)
    assert float(jnp.abs(slopes).max()) < 1e-3


def test_minima_merge_as_tau_grows():
    counts = [len(minima.find_minima(POINTS, tau).centers) for tau in (1e-3, 3.0, 50.0)]
    assert counts == [60, 2, 1]


def test_minima_far_from_the_origin_are_told_apart():
    """Around a length of 300 a float32 step of the descent would end it too early."""
    far = POINTS + 300.0
    counts = [len(minima.find_minima(far, tau).centers) for tau in (3.0, 50.0)]
    assert counts == [2, 1]
    expected = minima.find_minima(POINTS, 3.0).centers + 300.0
    np.testing.assert_allclose(minima.find_minima(far, 3.0).centers, expected, atol=1e-3)


def test_the_smallest_eigenvalue_is_that_of_the_dense_hessian():
    x = RNG.normal(size=(3, POINTS.shape[1])).astype(np.float32)
    smallest = minima._smallest_eigenvalues(x, POINTS, 3.0)
    for value, point in zip(smallest, jnp.asarray(x), strict=True):
        hessian = np.asarray(energies.hessian(point, POINTS, 3.0), np.float64)
        assert value == pytest.approx(np.linalg.eigvalsh(hessian)[0], abs=1e-4)


def test_definition_1_on_two_clouds():
    merged = minima.merged_minima(POINTS, LABELS, tau_before=1e-2, tau_after=3.0, rng=RNG)
    assert sorted(minimum.points for minimum in merged) == [12, 48]
    for minimum in merged:
        assert minimum.purity == 1.0
        assert 0 < minimum.epsilon < 1.5
        assert minimum.members == minimum.points
        assert minimum.smallest_before == pytest.approx(2, abs=0.1), "each point is a minimum"
        assert minimum.smallest_after < minimum.smallest_before, "wider"
        # Eq. 9's premise does not hold: E~ is far from E between the minima.
        assert minimum.gap > minimum.depth_before / 4


def test_definition_1_where_one_minimum_is_left():
    merged = minima.merged_minima(POINTS, LABELS, tau_before=1e-2, tau_after=50.0, rng=RNG)
    (minimum,) = merged
    assert minimum.purity == pytest.approx(0.8)
    assert np.isnan(minimum.depth_after)


def test_the_gap_of_two_points_in_closed_form():
    """Along the line between them E~ - E has its extremes at the corners and at the middle."""

    def energy(x, tau):
        return -tau * np.log(0.5 * (np.exp(-((x - 1) ** 2) / tau) + np.exp(-((x + 1) ** 2) / tau)))

    line = np.linspace(-1, 1, 2001)
    expected = np.ptp(energy(line, 4.0) - energy(line, 0.1)) / 2
    members = np.asarray(PAIR, np.float64)
    gap = minima.hull_gap(members, PAIR, tau_before=0.1, tau_after=4.0, rng=RNG)
    assert gap == pytest.approx(expected, rel=1e-2)


def test_a_tau_below_the_error_of_distances_is_refused():
    with pytest.raises(ValueError, match="the error of squared distances"):
        minima.find_minima(POINTS, 1e-9)


def test_the_depth_between_two_points_in_closed_form():
    tau = 0.1  # E(0) = 1, E(1, 0) = tau log 2 but for e^(-4 / tau)
    centers = np.asarray(PAIR, np.float64)
    depth = minima.depth(np.array([1.0, 0.0]), centers, PAIR, tau)
    assert depth == pytest.approx(1 - tau * np.log(2), abs=1e-4)
