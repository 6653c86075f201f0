import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import curvature as cv
from jaxdiff.landscape import energies

RNG = np.random.default_rng(0)
POINTS = jnp.asarray(RNG.uniform(-1, 1, (60, 24)), jnp.float32)
X = jnp.asarray(RNG.uniform(-1, 1, (8, 24)), jnp.float32)
FREE = {"dense": 0}


def quadratic(x, matrix):
    return 0.5 * x.ravel() @ matrix @ x.ravel()


def rotation(x, matrix):
    """The field of a matrix that is not symmetric."""
    return (matrix @ x.ravel()).reshape(x.shape)


def exact(matrix):
    symmetric, skew = 0.5 * (matrix + matrix.T), 0.5 * (matrix - matrix.T)
    values = np.linalg.eigvalsh(symmetric)
    norm, frobenius = np.abs(values).max(), np.linalg.norm(symmetric)
    return {"smallest": values[0], "largest": values[-1], "spectral_norm": norm, "frobenius_norm": frobenius,
            "trace": np.trace(matrix), "stable_rank": (frobenius / norm) ** 2,
            "asymmetry": np.linalg.norm(skew) / frobenius}  # fmt: skip


@pytest.mark.parametrize("options", [{}, FREE | {"steps": 24, "probes": 4000}])
@pytest.mark.parametrize("kind", ["energy", "field"])
def test_known_matrices(kind, options):
    matrix = RNG.normal(size=(24, 24)).astype(np.float32)
    matrix = matrix if kind == "field" else matrix + matrix.T
    hessian = cv.Energy(quadratic) if kind == "energy" else cv.Field(rotation)
    found = cv.curvature(
        hessian, X.reshape(8, 4, 6), jax.random.key(0), jnp.asarray(matrix), **options
    )
    for name, wanted in exact(matrix.astype(np.float64)).items():
        value, error = found[name]
        assert value.shape == error.shape == (8,)
        if not options:
            np.testing.assert_array_equal(error, 0)
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-6)
        elif name in ("smallest", "largest", "spectral_norm"):
            np.testing.assert_allclose(value, wanted, rtol=1e-4)
            assert np.all(np.abs(value - wanted) <= error + 1e-5)
        else:
            assert np.all(np.abs(value - wanted) <= 4 * error + 1e-6), name


def test_standard_errors_cover():
    """Within 3 of them in 99 % of 500 draws at 64 probes, of a mixture's Hessian against the dense one."""
    draws = jnp.broadcast_to(X[0], (504, 24))
    wanted = exact(np.asarray(energies.hessian(X[0], POINTS, 3.0), np.float64))
    found = cv.curvature(
        cv.Energy(energies.free_energy), draws, jax.random.key(1), POINTS, 3.0, **FREE, probes=64
    )
    for name in ("frobenius_norm", "trace", "stable_rank"):
        value, error = found[name]
        inside = np.mean(np.abs(value - wanted[name]) <= 3 * error)
        print(f"{name}: {inside:.3f} of {len(draws)} within 3 standard errors")
        assert inside >= 0.99


def test_lanczos_in_thirty_steps_and_its_bound():
    """A gap of a tenth at both ends of 400 eigenvalues; the bound holds at every number of steps."""
    values = np.concatenate([[-1.5], np.linspace(-1, 1.8, 398), [2.0]])
    axes, _ = np.linalg.qr(RNG.normal(size=(400, 400)))
    matrix = jnp.asarray(axes * values @ axes.T, jnp.float32)
    points = jnp.zeros((16, 400))
    for steps in (5, 10, 30):
        found = cv.curvature(
            cv.Energy(quadratic), points, jax.random.key(0), matrix, dense=0, steps=steps, probes=2
        )
        for name, wanted in (("smallest", -1.5), ("largest", 2.0)):
            value, bound = found[name]
            assert np.all(np.abs(value[:, None] - values[None]).min(axis=1) <= bound + 1e-5)
            if steps == 30:
                np.testing.assert_allclose(value, wanted, rtol=1e-4)


@pytest.mark.parametrize("tau", [1e3, 2.0])
def test_a_krylov_space_that_is_soon_exhausted(tau):
    """Two points: three eigenvalues, of which one is 22-fold; nothing but rounding is left after three products."""
    found = cv.curvature(
        cv.Energy(energies.free_energy), X, jax.random.key(0), POINTS[:2], tau, **FREE, steps=20
    )
    for i, x in enumerate(X):
        values = np.linalg.eigvalsh(np.asarray(energies.hessian(x, POINTS[:2], tau), np.float64))
        assert found["smallest"][0][i] == pytest.approx(values[0], rel=1e-4, abs=1e-4)
        assert found["largest"][0][i] == pytest.approx(values[-1], rel=1e-4)
    assert all(np.all(np.isfinite(a)) for pair in found.values() for a in pair)


def test_leading_eigenvalues_fall():
    found, bound = cv.curvature(
        cv.Energy(quadratic), X, jax.random.key(0), jnp.diag(jnp.arange(24.0)), leading=3
    )["leading"]
    np.testing.assert_allclose(found, [[23, 22, 21]] * 8, rtol=1e-5)
    assert bound.shape == (8, 3)


def test_one_number_at_a_time():
    key, x = jax.random.key(0), X[0]
    whole = np.asarray(energies.hessian(x, POINTS, 3.0), np.float64)
    norm = cv.spectral_norm(energies.free_energy, x, key, POINTS, 3.0)
    assert (norm.standard_error, norm.bound) == (0.0, None)
    assert float(norm) == pytest.approx(np.abs(np.linalg.eigvalsh(whole)).max(), rel=1e-5)
    norm = cv.spectral_norm(energies.free_energy, x, key, POINTS, 3.0, dense=0, steps=24)
    assert norm.standard_error is None
    assert 0 <= norm.bound < 1e-3
    trace = cv.trace(energies.free_energy, x, key, POINTS, 3.0, dense=0)
    assert abs(float(trace) - np.trace(whole)) < 4 * trace.standard_error
    assert trace.n == 64
    assert float(cv.frobenius_norm(energies.free_energy, x, key, POINTS, 3.0)) == pytest.approx(
        np.linalg.norm(whole), rel=1e-5
    )
