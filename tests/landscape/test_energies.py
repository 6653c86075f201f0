import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import energies
from tests.landscape import oracles

POINTS = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (90, 12)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (5, 12)), jnp.float32)

autodiff_gradient = jax.jit(jax.grad(energies.free_energy))
autodiff_hessian = jax.jit(jax.hessian(energies.free_energy))
gradient = jax.jit(energies.gradient)
hessian = jax.jit(energies.hessian)


def assert_close(result, expected, tolerance=1e-5):
    scale = max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(result, expected, atol=tolerance * scale)


@pytest.mark.parametrize("tau", [0.3, 3.0, 100.0])
def test_derivatives_are_those_of_autodiff(tau):
    for x in X:
        assert_close(gradient(x, POINTS, tau), autodiff_gradient(x, POINTS, tau))
        assert_close(hessian(x, POINTS, tau), autodiff_hessian(x, POINTS, tau))


def test_a_covariance_in_blocks_is_the_whole_one(monkeypatch):
    whole = energies.denoiser_jacobian(X[0], POINTS, 2.0)
    monkeypatch.setattr(energies, "COVARIANCE_BLOCK", 32)
    assert_close(energies.denoiser_jacobian(X[0], POINTS, 2.0), whole, 1e-6)


def test_the_energy_is_its_formula_in_float64():
    points = np.asarray(POINTS, np.float64)
    x = np.asarray(X[0], np.float64)
    tau = 0.3
    expected = -tau * np.log(np.mean(np.exp(-np.square(x - points).sum(1) / tau)))
    assert_close(energies.free_energy(X[0], POINTS, tau), expected, 1e-6)


def test_the_largest_eigenvalue_is_two_whatever_the_data():
    for n in (2, 12):  # n <= d
        for tau in (0.2, 5.0):
            largest = np.linalg.eigvalsh(hessian(X[0], POINTS[:n], tau))[-1]
            assert largest == pytest.approx(2, abs=1e-5)
    largest = np.linalg.eigvalsh(hessian(X[0], POINTS, 8.0))[-1]
    assert largest < 1.99, "where the data fill the space"


def test_the_score_is_that_of_the_noised_data():
    s = 0.8
    sigma = 0.6
    centers = np.asarray(s * POINTS, np.float64)

    @jax.jit
    @jax.grad
    def log_density_gradient(x):
        return jax.nn.logsumexp(-jnp.square(x[None] - centers).sum(1) / (2 * sigma**2))

    for x in X:
        # The exact denoiser is the weighted mean of the data in x_t / s.
        x0_hat = energies.weighted_mean(x / s, POINTS, 2.0 * (sigma / s) ** 2)
        score = (s * x0_hat - x) / sigma**2
        assert_close(score, log_density_gradient(x))
        assert_close(score, -energies.gradient(x, s * POINTS, 2 * sigma**2) / (2 * sigma**2))


def test_two_points_merge_where_tau_is_half_their_square_distance():
    """At the middle the curvature along the line is 2 - D^2 / tau.

    It turns positive at tau = D^2 / 2, and L's upper end D^2 / tau - 2 is reached there.
    """
    pair = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # D^2 = 4
    middle = jnp.zeros(3)
    for tau, sign in ((1.9, -1), (2.1, 1)):
        assert np.sign(np.linalg.eigvalsh(hessian(middle, pair, tau))[0]) == sign
    norm = float(np.abs(np.linalg.eigvalsh(hessian(middle, pair, 0.5))).max())
    assert norm == pytest.approx(6)
    low, high = oracles.lipschitz_bracket(pair, 0.5, norm)
    assert low == pytest.approx(high)
    assert oracles.lipschitz_bracket(pair, 2.0) == (2.0, 2.0)


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_the_lipschitz_bracket_holds(tau):
    mixtures = np.random.default_rng(2).dirichlet(np.full(90, 0.05), 200)
    inside = jnp.asarray(mixtures @ np.asarray(POINTS), jnp.float32)
    hessians = jax.jit(jax.vmap(energies.hessian, (0, None, None)))(inside, POINTS, tau)
    norm = float(np.abs(np.linalg.eigvalsh(hessians)).max())
    low, high = oracles.lipschitz_bracket(POINTS, tau, norm)
    assert low <= high


def test_points_are_a_mixture_of_variance_half_tau():
    tau = 0.7
    points = POINTS[:3]
    precisions = jnp.stack([jnp.eye(12) * 2 / tau] * 3)
    mixture = (points, precisions, jnp.full(3, 1 / 3), tau)
    for x in X:
        expected = jax.jit(jax.grad(oracles.mixture_energy))(x, *mixture)
        assert_close(gradient(x, points, tau), expected)
        expected = jax.jit(jax.hessian(oracles.mixture_energy))(x, *mixture)
        assert_close(hessian(x, points, tau), expected)


def test_near_points_differ_where_products_cannot_tell():
    rng = np.random.default_rng(4)
    points = jnp.asarray(rng.uniform(-1, 1, (200, 3072)), jnp.float32)
    x = points[7] + jnp.float32(1e-4)
    squares = energies.squared_distances(x, points)
    assert float(squares[7]) == pytest.approx(3072 * 1e-8, rel=1e-2)
    sentence = (
        r"tau must be at least 2.6e-05, the error of squared distances of 3072 float32 numbers, "
        r"got 1e-06; take a larger tau"
    )
    with pytest.raises(ValueError, match=sentence):
        energies.check_tau(1e-6, points)
    energies.check_tau(2e-4, points)
