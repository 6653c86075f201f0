import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import energies

POINTS = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (90, 12)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (5, 12)), jnp.float32)


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, atol=tolerance * max(1.0, float(jnp.abs(wanted).max())))


@pytest.mark.parametrize("tau", [0.3, 3.0, 100.0])
def test_derivatives_are_those_of_autodiff(tau):
    for x in X:
        close(energies.gradient(x, POINTS, tau), jax.grad(energies.free_energy)(x, POINTS, tau))
        whole = jax.hessian(energies.free_energy)(x, POINTS, tau)
        close(energies.hessian(x, POINTS, tau), whole)
        v = jnp.sin(jnp.arange(12.0))
        close(energies.hessian_product(x, v, POINTS, tau), whole @ v)


def test_blocks_are_the_whole(monkeypatch):
    whole = energies.contraction(X[0], POINTS, 2.0)
    monkeypatch.setattr(energies, "BLOCK", 32)
    close(energies.contraction(X[0], POINTS, 2.0), whole, 1e-6)


def test_the_energy_is_what_it_says_in_float64():
    points, x, tau = np.asarray(POINTS, np.float64), np.asarray(X[0], np.float64), 0.3
    wanted = -tau * np.log(np.mean(np.exp(-np.square(x - points).sum(1) / tau)))
    close(energies.free_energy(X[0], POINTS, tau), wanted, 1e-6)


def test_the_largest_eigenvalue_is_two_whatever_the_data():
    for n in (2, 12):  # N <= d
        for tau in (0.2, 5.0):
            found = jnp.linalg.eigvalsh(energies.hessian(X[0], POINTS[:n], tau))[-1]
            assert float(found) == pytest.approx(2, abs=1e-5)
    assert float(jnp.linalg.eigvalsh(energies.hessian(X[0], POINTS, 8.0))[-1]) < 1.99, "where the data fill the space"


def test_the_score_is_that_of_the_noised_data():
    s, sigma = 0.8, 0.6
    for x in X:
        found = energies.score(x, POINTS, s, sigma)
        centres = np.asarray(s * POINTS, np.float64)

        def log_density(x, centres=centres):
            return jax.nn.logsumexp(-jnp.square(x[None] - centres).sum(1) / (2 * sigma**2))

        close(found, jax.grad(log_density)(x))
        close(found, -energies.gradient(x, s * POINTS, 2 * sigma**2) / (2 * sigma**2))


def test_two_points_merge_where_tau_is_half_their_square_distance():
    """At the middle the curvature along the line is 2 - D^2 / tau: it turns positive at tau = D^2 / 2, and L's upper end
    max(2, D^2 / tau - 2) is reached there."""
    pair = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # D^2 = 4
    middle = jnp.zeros(3)
    for tau, sign in ((1.9, -1), (2.1, 1)):
        assert np.sign(jnp.linalg.eigvalsh(energies.hessian(middle, pair, tau))[0]) == sign
    norm = float(jnp.abs(jnp.linalg.eigvalsh(energies.hessian(middle, pair, 0.5))).max())
    assert norm == pytest.approx(6)
    low, high = energies.lipschitz(pair, 0.5, sampled=norm)
    assert low == pytest.approx(high)
    assert energies.lipschitz(pair, 2.0) == (2.0, 2.0)


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_the_bracket_holds(tau):
    inside = np.random.default_rng(2).dirichlet(np.full(90, 0.05), 200) @ np.asarray(POINTS)
    norms = jax.vmap(lambda x: jnp.abs(jnp.linalg.eigvalsh(energies.hessian(x, POINTS, tau))).max())(
        jnp.asarray(inside, jnp.float32)
    )
    low, high = energies.lipschitz(POINTS, tau, float(norms.max()))
    assert low <= high


def test_a_mixture_has_the_derivatives_of_autodiff():
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(3, 4, 4))
    precisions = jnp.asarray(factors @ factors.swapaxes(1, 2) + np.eye(4), jnp.float32)
    mixture = energies.Mixture(
        jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), precisions, jnp.array([0.5, 0.3, 0.2])
    )
    x = jnp.asarray(rng.normal(size=4), jnp.float32)
    close(mixture.gradient(x, 2.0), jax.grad(mixture.energy)(x, 2.0))
    close(mixture.hessian(x, 2.0), jax.hessian(mixture.energy)(x, 2.0))
    points = energies.Mixture(POINTS[:3], jnp.stack([jnp.eye(12) * 2 / 0.7] * 3), jnp.full(3, 1 / 3))
    close(points.gradient(X[0], 0.7), energies.gradient(X[0], POINTS[:3], 0.7))  # variance tau / 2


def test_near_points_are_told_apart_where_products_cannot():
    rng = np.random.default_rng(4)
    points = jnp.asarray(rng.uniform(-1, 1, (200, 3072)), jnp.float32)
    x = points[7] + jnp.float32(1e-4)
    found = energies.squared_distances(x, points)
    assert float(found[7]) == pytest.approx(3072 * 1e-8, rel=1e-2)
    with pytest.raises(
        ValueError, match=r"tau is 1e-06, below 2.6e-05, the error of squared distances of 3072 float32"
    ):
        energies.check_tau(1e-6, points)
    energies.check_tau(2e-4, points)
