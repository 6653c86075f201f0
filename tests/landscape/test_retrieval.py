import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import wilson
from jaxdiff.landscape import energies, retrieval

RNG = np.random.default_rng(0)
LABELS = (np.arange(60) >= 48).astype(np.int64)  # 80-20
# Two clouds, of which the smaller is the second class, in 6 dimensions
POINTS = jnp.asarray(
    RNG.normal(size=(60, 6)) * 0.5 + np.where(LABELS, 1.0, -1.0)[:, None], jnp.float32
)
SCHEDULE = Schedule.linear(100, 1e-3, 0.2)


def test_the_exact_denoiser_returns_the_proportions_and_points():
    x0, weights = retrieval.smoothed_sampler(POINTS, SCHEDULE, 1.0, jax.random.key(0), 500)
    soft = retrieval.soft_labels(weights, LABELS, 2)
    low, high = wilson(int(soft.argmax(axis=1).sum()), 500)
    assert low < 0.2 < high
    nearest = np.sqrt(
        np.asarray(jax.vmap(lambda x: energies.squared_distances(x, POINTS).min())(jnp.asarray(x0)))
    )
    assert np.median(nearest) < 0.05, "the exact denoiser brings the memory back"
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_without_temperature_the_labels_are_the_majority_and_the_soft_share_the_proportion():
    _, weights = retrieval.smoothed_sampler(POINTS, SCHEDULE, 1e9, jax.random.key(0), 50)
    soft = retrieval.soft_labels(weights, LABELS, 2)
    assert np.all(soft.argmax(axis=1) == 0)
    np.testing.assert_allclose(soft[:, 1], 0.2, atol=1e-3)


def test_rho_may_depend_on_the_noise_level():
    one = retrieval.smoothed_sampler(POINTS, SCHEDULE, 2.0, jax.random.key(0), 20)[0]
    each = retrieval.smoothed_sampler(POINTS, SCHEDULE, np.full(100, 2.0), jax.random.key(0), 20)[0]
    np.testing.assert_allclose(one, each, atol=1e-5)


def test_hard_votes_are_those_of_brute_force():
    queries = POINTS[:10] + 0.1
    found = retrieval.hard_votes(queries, POINTS, LABELS, 2, (1, 5, 60))
    order = np.argsort(np.square(np.asarray(queries)[:, None] - np.asarray(POINTS)).sum(-1), axis=1)
    for k in (1, 5):
        np.testing.assert_allclose(found[k][:, 1], LABELS[order[:, :k]].mean(axis=1))
    np.testing.assert_allclose(found[60], [[0.8, 0.2]] * 10)


def test_the_time_constant_of_eq_3_changes_no_end():
    start = jnp.asarray(RNG.normal(size=(8, 6)), jnp.float32)
    ends = [retrieval.flow(start, POINTS, 0.2, constant, 160.0) for constant in (0.5, 1.0, 4.0)]
    for other in ends[1:]:
        np.testing.assert_allclose(other, ends[0], atol=1e-3)
    assert np.abs(retrieval.flow(start, POINTS, 0.2, 4.0, 0.4) - ends[0]).max() > 0.1, (
        "before the end it does"
    )
    np.testing.assert_allclose(ends[0], retrieval.mean_shift(start, POINTS, 0.2), atol=1e-2)
    assert np.abs(retrieval.mean_shift(start, POINTS, 20.0) - ends[0]).max() > 0.5, (
        "the temperature of Eq. 2 does"
    )


@pytest.mark.parametrize("tau", [1e-3, 2.0, 50.0])
def test_fixed_points_have_no_gradient(tau):
    ends = retrieval.mean_shift(POINTS, POINTS, tau)
    slopes = jax.vmap(lambda x: energies.gradient(x, POINTS, tau))(ends)
    assert float(jnp.abs(slopes).max()) < 1e-3


def test_minima_merge_as_tau_grows():
    counts = [len(retrieval.minima(POINTS, tau).centres) for tau in (1e-3, 3.0, 50.0)]
    assert counts[0] == 60
    assert counts[1] == 2
    assert counts[2] == 1


def test_definition_1_on_two_clouds():
    rows = retrieval.merged(POINTS, LABELS, 1e-2, 3.0, RNG)
    assert sorted(row["points"] for row in rows) == [12, 48]
    for row in rows:
        assert row["purity"] == 1.0
        assert 0 < row["epsilon"] < 1.5
        assert row["members"] == row["points"]
        assert row["smallest_before"] == pytest.approx(2, abs=0.1), "each point is its own minimum"
        assert row["smallest_after"] < row["smallest_before"], "wider"
        assert row["gap"] > row["depth_before"] / 4, (
            "Eq. 9's premise does not hold: E~ is far from E between the minima"
        )
    (row,) = retrieval.merged(POINTS, LABELS, 1e-2, 50.0, RNG)
    assert row["purity"] == pytest.approx(0.8)
    assert np.isnan(row["depth_after"])


def test_the_gap_of_two_points_in_closed_form():
    """E~ - E along the line between (1, 0) and (-1, 0) is largest at the corners and smallest at the middle, or the reverse."""
    pair = jnp.array([[1.0, 0.0], [-1.0, 0.0]])

    def energy(x, tau):
        return -tau * np.log(0.5 * (np.exp(-((x - 1) ** 2) / tau) + np.exp(-((x + 1) ** 2) / tau)))

    line = np.linspace(-1, 1, 2001)
    wanted = np.ptp(energy(line, 4.0) - energy(line, 0.1)) / 2
    found = retrieval.hull_gap(np.asarray(pair, np.float64), pair, 0.1, 4.0, RNG)
    assert found == pytest.approx(wanted, rel=1e-2)


def test_a_tau_below_the_error_of_distances_is_refused():
    with pytest.raises(ValueError, match="the error of squared distances"):
        retrieval.minima(POINTS, 1e-9)


def test_the_depth_between_two_points_in_closed_form():
    pair = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    tau = 0.1  # E(0) = 1, E(1, 0) = tau log 2 but for e^(-4 / tau)
    found = retrieval.depth(np.array([1.0, 0.0]), np.asarray(pair, np.float64), pair, tau)
    assert found == pytest.approx(1 - tau * np.log(2), abs=1e-4)
