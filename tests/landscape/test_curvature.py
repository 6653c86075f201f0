import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import curvature, energies

RNG = np.random.default_rng(0)
POINTS = jnp.asarray(RNG.uniform(-1, 1, (60, 24)), jnp.float32)
X = jnp.asarray(RNG.uniform(-1, 1, (8, 24)), jnp.float32)
FREE_ENERGY = curvature.Energy(energies.free_energy)


def quadratic(x, matrix):
    return 0.5 * x.ravel() @ matrix @ x.ravel()


def linear_field(x, matrix):
    """The field of a matrix that is not symmetric."""
    return (matrix @ x.ravel()).reshape(x.shape)


def exact_values(matrix):
    symmetric = 0.5 * (matrix + matrix.T)
    skew = 0.5 * (matrix - matrix.T)
    eigenvalues = np.linalg.eigvalsh(symmetric)
    norm = np.abs(eigenvalues).max()
    frobenius_norm = np.linalg.norm(symmetric)
    return {
        "smallest": eigenvalues[0],
        "largest": eigenvalues[-1],
        "spectral_norm": norm,
        "frobenius_norm": frobenius_norm,
        "trace": np.trace(matrix),
        "stable_rank": (frobenius_norm / norm) ** 2,
        "asymmetry": np.linalg.norm(skew) / frobenius_norm,
    }


@pytest.mark.parametrize("options", [{}, {"dense": 0, "steps": 24, "probes": 4000}])
@pytest.mark.parametrize("kind", ["energy", "field"])
def test_random_matrices(kind, options):
    matrix = RNG.normal(size=(24, 24)).astype(np.float32)
    hessian = curvature.Field(linear_field)
    if kind == "energy":
        matrix = matrix + matrix.T
        hessian = curvature.Energy(quadratic)
    images = X.reshape(8, 4, 6)
    measured = curvature.curvature(
        hessian, images, jax.random.key(0), jnp.asarray(matrix), **options
    )
    for name, expected in exact_values(matrix.astype(np.float64)).items():
        values, errors = measured[name]
        assert values.shape == errors.shape == (8,)
        if not options:
            np.testing.assert_array_equal(errors, 0)
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
        elif name in ("smallest", "largest", "spectral_norm"):
            np.testing.assert_allclose(values, expected, rtol=1e-4)
            assert np.all(np.abs(values - expected) <= errors + 1e-5)
        else:
            assert np.all(np.abs(values - expected) <= 4 * errors + 1e-6), name


@pytest.mark.slow
def test_standard_errors_cover():
    """Within 3 of them in 99 % of 500 draws at 64 probes, against the dense Hessian."""
    draws = jnp.broadcast_to(X[0], (504, 24))
    expected = exact_values(np.asarray(energies.hessian(X[0], POINTS, 3.0), np.float64))
    measured = curvature.curvature(
        FREE_ENERGY, draws, jax.random.key(1), POINTS, 3.0, dense=0, probes=64
    )
    for name in ("frobenius_norm", "trace", "stable_rank"):
        values, errors = measured[name]
        coverage = np.mean(np.abs(values - expected[name]) <= 3 * errors)
        print(f"{name}: {coverage:.3f} of {len(draws)} within 3 standard errors")
        assert coverage >= 0.99


@pytest.mark.slow
def test_lanczos_in_thirty_steps_and_its_bound():
    """A gap of a tenth at both ends of 400 eigenvalues; the bound holds at any number of steps."""
    eigenvalues = np.concatenate([[-1.5], np.linspace(-1, 1.8, 398), [2.0]])
    axes, _ = np.linalg.qr(RNG.normal(size=(400, 400)))
    matrix = jnp.asarray(axes * eigenvalues @ axes.T, jnp.float32)
    points = jnp.zeros((16, 400))
    hessian = curvature.Energy(quadratic)
    for steps in (5, 10, 30):
        measured = curvature.curvature(
            hessian, points, jax.random.key(0), matrix, dense=0, steps=steps, probes=2
        )
        for name, expected in (("smallest", -1.5), ("largest", 2.0)):
            values, bounds = measured[name]
            distances = np.abs(values[:, None] - eigenvalues[None]).min(axis=1)
            assert np.all(distances <= bounds + 1e-5)
            if steps == 30:
                np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [1e3, 2.0])
def test_a_krylov_space_that_is_soon_exhausted(tau):
    """Two points: three eigenvalues, one of them 22-fold; three products leave only rounding."""
    pair = POINTS[:2]
    measured = curvature.curvature(FREE_ENERGY, X, jax.random.key(0), pair, tau, dense=0, steps=20)
    for i, x in enumerate(X):
        eigenvalues = np.linalg.eigvalsh(np.asarray(energies.hessian(x, pair, tau), np.float64))
        smallest = measured["smallest"].values[i]
        assert smallest == pytest.approx(eigenvalues[0], rel=1e-4, abs=1e-4)
        assert measured["largest"].values[i] == pytest.approx(eigenvalues[-1], rel=1e-4)
    for values, errors in measured.values():
        assert np.all(np.isfinite(values))
        assert np.all(np.isfinite(errors))


def test_the_error_of_the_stable_rank_has_that_of_the_norm():
    """Four products do not reach the largest of 400 eigenvalues between 1 and 2."""
    matrix = jnp.diag(jnp.linspace(1.0, 2.0, 400))
    measured = curvature.curvature(
        curvature.Energy(quadratic),
        jnp.ones((4, 400)),
        jax.random.key(0),
        matrix,
        dense=0,
        steps=4,
        probes=64,
    )
    values, errors = measured["stable_rank"]
    expected = float(jnp.square(jnp.diagonal(matrix)).sum()) / 4.0
    assert np.all(np.abs(values - expected) <= 3 * errors)
    assert np.all(values > 1.01 * expected), "a norm from below makes it too large"


def test_leading_eigenvalues_fall():
    matrix = jnp.diag(jnp.arange(24.0))
    measured = curvature.curvature(
        curvature.Energy(quadratic), X, jax.random.key(0), matrix, leading=3
    )
    values, bounds = measured["leading"]
    np.testing.assert_allclose(values, [[23, 22, 21]] * 8, rtol=1e-5)
    assert bounds.shape == (8, 3)


def test_estimates_at_one_point():
    key = jax.random.key(0)
    x = X[0]
    exact = exact_values(np.asarray(energies.hessian(x, POINTS, 3.0), np.float64))
    norm = curvature.spectral_norm(energies.free_energy, x, key, POINTS, 3.0)
    assert norm.standard_error == 0.0
    assert norm.bound is None
    assert float(norm) == pytest.approx(exact["spectral_norm"], rel=1e-5)
    norm = curvature.spectral_norm(energies.free_energy, x, key, POINTS, 3.0, dense=0, steps=24)
    assert norm.standard_error is None
    assert 0 <= norm.bound < 1e-3
    trace = curvature.trace(energies.free_energy, x, key, POINTS, 3.0, dense=0)
    assert abs(float(trace) - exact["trace"]) < 4 * trace.standard_error
    assert trace.n == 64
    frobenius_norm = curvature.frobenius_norm(energies.free_energy, x, key, POINTS, 3.0)
    assert float(frobenius_norm) == pytest.approx(exact["frobenius_norm"], rel=1e-5)
