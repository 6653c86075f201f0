import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import energies

POINTS = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (90, 12)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (5, 12)), jnp.float32)
SLOPE, BEND = jax.jit(jax.grad(energies.free_energy)), jax.jit(jax.hessian(energies.free_energy))
GRADIENT, HESSIAN, PRODUCT = map(
    jax.jit, (energies.gradient, energies.hessian, energies.hessian_product)
)


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(
        found, wanted, atol=tolerance * max(1.0, float(jnp.abs(wanted).max()))
    )


@pytest.mark.parametrize("tau", [0.3, 3.0, 100.0])
def test_derivatives_are_those_of_autodiff(tau):
    for x in X:
        close(GRADIENT(x, POINTS, tau), SLOPE(x, POINTS, tau))
        whole, v = BEND(x, POINTS, tau), np.sin(np.arange(12, dtype=np.float32))
        close(HESSIAN(x, POINTS, tau), whole)
        close(PRODUCT(x, v, POINTS, tau), np.asarray(whole) @ v)


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
            assert np.linalg.eigvalsh(HESSIAN(X[0], POINTS[:n], tau))[-1] == pytest.approx(
                2, abs=1e-5
            )
    assert np.linalg.eigvalsh(HESSIAN(X[0], POINTS, 8.0))[-1] < 1.99, (
        "where the data fill the space"
    )


def test_the_score_is_that_of_the_noised_data():
    s, sigma = 0.8, 0.6
    for x in X:
        found = energies.score(x, POINTS, s, sigma)
        centres = np.asarray(s * POINTS, np.float64)

        def log_density(x, centres=centres):
            return jax.nn.logsumexp(-jnp.square(x[None] - centres).sum(1) / (2 * sigma**2))

        close(found, jax.jit(jax.grad(log_density))(x))
        close(found, -energies.gradient(x, s * POINTS, 2 * sigma**2) / (2 * sigma**2))


def test_two_points_merge_where_tau_is_half_their_square_distance():
    """At the middle the curvature along the line is 2 - D^2 / tau: it turns positive at tau = D^2 / 2, and L's upper end
    max(2, D^2 / tau - 2) is reached there."""
    pair = jnp.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])  # D^2 = 4
    middle = jnp.zeros(3)
    for tau, sign in ((1.9, -1), (2.1, 1)):
        assert np.sign(np.linalg.eigvalsh(HESSIAN(middle, pair, tau))[0]) == sign
    norm = float(np.abs(np.linalg.eigvalsh(HESSIAN(middle, pair, 0.5))).max())
    assert norm == pytest.approx(6)
    low, high = energies.lipschitz(pair, 0.5, sampled=norm)
    assert low == pytest.approx(high)
    assert energies.lipschitz(pair, 2.0) == (2.0, 2.0)


@pytest.mark.parametrize("tau", [0.3, 1.0, 4.0])
def test_the_bracket_holds(tau):
    inside = np.random.default_rng(2).dirichlet(np.full(90, 0.05), 200) @ np.asarray(POINTS)
    whole = jax.jit(jax.vmap(energies.hessian, (0, None, None)))(
        jnp.asarray(inside, jnp.float32), POINTS, tau
    )
    low, high = energies.lipschitz(POINTS, tau, float(np.abs(np.linalg.eigvalsh(whole)).max()))
    assert low <= high


def test_a_mixture_has_the_derivatives_of_autodiff():
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(3, 4, 4))
    precisions = jnp.asarray(factors @ factors.swapaxes(1, 2) + np.eye(4), jnp.float32)
    mixture = energies.Mixture(
        jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), precisions, jnp.array([0.5, 0.3, 0.2])
    )
    x = jnp.asarray(rng.normal(size=4), jnp.float32)
    close(jax.jit(mixture.gradient)(x, 2.0), jax.jit(jax.grad(mixture.energy))(x, 2.0))
    close(jax.jit(mixture.hessian)(x, 2.0), jax.jit(jax.hessian(mixture.energy))(x, 2.0))
    points = energies.Mixture(
        POINTS[:3], jnp.stack([jnp.eye(12) * 2 / 0.7] * 3), jnp.full(3, 1 / 3)
    )
    close(points.gradient(X[0], 0.7), energies.gradient(X[0], POINTS[:3], 0.7))  # variance tau / 2


def test_near_points_are_told_apart_where_products_cannot():
    rng = np.random.default_rng(4)
    points = jnp.asarray(rng.uniform(-1, 1, (200, 3072)), jnp.float32)
    x = points[7] + jnp.float32(1e-4)
    found = energies.squared_distances(x, points)
    assert float(found[7]) == pytest.approx(3072 * 1e-8, rel=1e-2)
    with pytest.raises(
        ValueError,
        match=r"tau is 1e-06, below 2.6e-05, the error of squared distances of 3072 float32",
    ):
        energies.check_tau(1e-6, points)
    energies.check_tau(2e-4, points)
