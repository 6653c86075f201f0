import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import abstraction, curvature, energies

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.uniform(-1, 1, (4, 12)), jnp.float32)
MATRIX = jnp.asarray(RNG.normal(size=(8, 12)) / 3, jnp.float32)
POINTS = jnp.asarray(RNG.uniform(-1, 1, (40, 12)), jnp.float32)
TAU = 3.0


def linear(x, matrix):
    return matrix @ x


def bent(x, matrix):
    return jnp.tanh(matrix @ x)


def energy_grad(x, *_):
    return energies.gradient(x, POINTS, TAU)


def energy(x, points=POINTS):
    return energies.free_energy(x, points, TAU)


def energy_hessian(x, points=POINTS):
    return energies.hessian(x, points, TAU)


def leading_triples(phi, points, *parameters, count, **options):
    return abstraction.leading_triples(
        phi,
        points,
        jax.random.key(0),
        count=count,
        parameters=parameters,
        options=curvature.Options(**options),
    )


@pytest.mark.parametrize("dense", [1024, 0])
def test_singular_values(dense):
    triples = leading_triples(bent, X, MATRIX, count=4, dense=dense)
    for i, x in enumerate(X):
        jacobian = np.asarray(jax.jacfwd(bent)(x, MATRIX), np.float64)
        left, values, right = np.linalg.svd(jacobian)
        np.testing.assert_allclose(triples.values[i], values[:4], rtol=1e-4)
        # Vectors are known up to a common sign.
        signs = np.sign(np.sum(triples.left[i] * left.T[:4], axis=1, keepdims=True))
        np.testing.assert_allclose(triples.left[i], signs * left.T[:4], atol=1e-3)
        np.testing.assert_allclose(triples.right[i], signs * right[:4], atol=1e-3)
        assert np.all(triples.bounds[i] < 1e-3)


def test_a_square_map_is_pulled_back_by_its_inverse():
    """z = tanh(A x) with A square: Hess E(A^-1 atanh z) by autodiff, and its two terms."""
    matrix = jnp.asarray(RNG.normal(size=(12, 12)) / 6 + np.eye(12), jnp.float32) * 0.3
    maps = abstraction.PullBack(bent, energy_grad, (12,))
    norms = abstraction.pull_back_curvature(maps, X, jax.random.key(0), matrix)[12]

    def inverse(z, a):
        return jnp.linalg.solve(a, jnp.arctanh(z))

    @jax.jit
    def oracle(z, a, points):
        x = inverse(z, a)
        j = jax.jacfwd(inverse)(z, a)
        hessian = jax.hessian(lambda z: energy(inverse(z, a), points))(z)
        return hessian, j.T @ energy_hessian(x, points) @ j

    for i, x in enumerate(X):
        with jax.enable_x64(True):
            a = jnp.asarray(np.asarray(matrix, np.float64))
            z = jnp.tanh(a @ np.asarray(x, np.float64))
            total, first = oracle(z, a, jnp.asarray(np.asarray(POINTS, np.float64)))
            expected = {"total": total, "first": first, "second": total - first}
            expected = {
                name: float(np.linalg.norm(np.asarray(term), 2)) for name, term in expected.items()
            }
        for name, norm in expected.items():
            assert getattr(norms, name)[i] == pytest.approx(norm, rel=2e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("dense", [1024, 0])
def test_a_linear_map_is_pulled_back_by_its_pseudo_inverse(dense):
    maps = abstraction.PullBack(linear, energy_grad, (2, 8))
    by_rank = abstraction.pull_back_curvature(maps, X, jax.random.key(0), MATRIX, dense=dense)
    inverse = np.linalg.pinv(np.asarray(MATRIX, np.float64))
    left, values, _ = np.linalg.svd(np.asarray(MATRIX, np.float64))
    for i, x in enumerate(X):
        hessian = inverse.T @ np.asarray(energy_hessian(x), np.float64) @ inverse
        for rank in (2, 8):
            norms = by_rank[rank]
            expected = np.linalg.norm(left[:, :rank].T @ hessian @ left[:, :rank], 2)
            assert norms.total[i] == pytest.approx(expected, rel=1e-3)
            assert norms.second[i] == pytest.approx(0, abs=1e-5)
            assert norms.smallest_value[i] == pytest.approx(values[rank - 1], rel=1e-4)


def average(x, *_):
    """A U-Net-like linear encoder: pairs are averaged; half of what that loses is a skip."""
    z = x.reshape(-1, 2).mean(axis=1)
    return z, 0.5 * (x - jnp.repeat(z, 2))


def repeat(z, skip, *_):
    return jnp.repeat(z, 2) + skip


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"dense": 0, "steps": 6}])
def test_a_linear_autoencoder_in_closed_form(options):
    """decode' = D, (D z)_2i = (D z)_2i+1 = z_i: total = Gauss-Newton = D^T H D, no remainder.

    The gap is half of what averaging loses.
    """
    maps = abstraction.Decoder(average, repeat, energy_grad)
    result = abstraction.decoder_curvature(maps, X, jax.random.key(0), **options)
    d = np.repeat(np.eye(6), 2, axis=0)
    for i, x in enumerate(X):
        z, skip = average(x)
        lost = np.linalg.norm(np.asarray(x) - d @ z)
        assert result.gap[i] == pytest.approx(lost / 2, rel=1e-4)
        hessian = np.asarray(energy_hessian(repeat(z, skip)), np.float64)
        expected = np.abs(np.linalg.eigvalsh(d.T @ hessian @ d)).max()
        for term in (result.total, result.gauss_newton):
            assert term["spectral_norm"].values[i] == pytest.approx(expected, rel=1e-4)
        assert result.remainder["spectral_norm"].values[i] == pytest.approx(0, abs=1e-5)


def test_the_terms_of_a_bent_decoder_sum_to_the_whole():
    def decode(z, skip):
        return jnp.tanh(MATRIX.T @ z)

    maps = abstraction.Decoder(lambda x: (MATRIX @ x, ()), decode, energy_grad)
    result = abstraction.decoder_curvature(maps, X, jax.random.key(0))

    @jax.jit
    def oracle(z):
        j = jax.jacfwd(lambda z: decode(z, ()))(z)
        hessian = jax.hessian(lambda z: energy(decode(z, ())))(z)
        return hessian, j.T @ energy_hessian(decode(z, ())) @ j

    for i, x in enumerate(X):
        total, gauss_newton = oracle(MATRIX @ x)
        expected = {
            "total": total,
            "gauss_newton": gauss_newton,
            "remainder": total - gauss_newton,
        }
        for name, matrix in expected.items():
            term = getattr(result, name)
            norm = float(np.linalg.norm(matrix, 2))
            trace = float(np.trace(matrix))
            assert term["spectral_norm"].values[i] == pytest.approx(norm, rel=1e-3, abs=1e-5), name
            assert term["trace"].values[i] == pytest.approx(trace, rel=1e-3, abs=1e-4), name


def test_total_variance():
    z = RNG.normal(size=(5000, 2, 3)) * 2
    assert abstraction.total_variance(z) == pytest.approx(24, rel=0.05)


def test_few_steps_have_honest_bounds():
    """30 of 300 dimensions: every value is within its bound of a singular value."""
    left, _ = np.linalg.qr(RNG.normal(size=(300, 300)))
    right, _ = np.linalg.qr(RNG.normal(size=(400, 300)))
    values = np.concatenate([[3.0, 2.5], np.linspace(2, 0, 298)])
    matrix = jnp.asarray(left * values @ right.T, jnp.float32)
    for steps in (4, 10, 30):
        triples = leading_triples(
            linear, jnp.zeros((2, 400)), matrix, count=3, dense=0, steps=steps
        )
        distances = np.abs(triples.values[..., None] - values).min(axis=-1)
        assert np.all(distances <= triples.bounds + 1e-5)
    # The largest are found.
    np.testing.assert_allclose(triples.values[:, :2], [[3.0, 2.5]] * 2, rtol=1e-4)


def test_directions_that_a_map_does_not_have_are_nan():
    """Rank 3 of 8: nothing can be said of 8 directions, where J+ would be 1 / rounding."""
    rank_3 = jnp.asarray(RNG.normal(size=(8, 3)) @ RNG.normal(size=(3, 12)), jnp.float32)
    maps = abstraction.PullBack(linear, energy_grad, (3, 8))
    norms = abstraction.pull_back_curvature(maps, X, jax.random.key(0), rank_3)
    assert np.all(np.isfinite(norms[3].total))
    assert np.all(np.isnan(norms[8].total))


def test_more_directions_than_dimensions_are_refused():
    maps = abstraction.PullBack(linear, energy_grad, (9,))
    with pytest.raises(ValueError, match="must be 1 to 8 for this map, got 9"):
        abstraction.pull_back_curvature(maps, X, jax.random.key(0), MATRIX)


def test_a_multiple_of_the_identity_has_one_singular_value():
    triples = leading_triples(lambda x: 0.5 * x, X, count=1, dense=0)
    np.testing.assert_allclose(triples.values[:, 0], 0.5, rtol=1e-5)


def test_one_compiled_program_serves_all_points_and_parameters():
    curvature._map_points.clear_cache()
    for scale in (1.0, 2.0):
        leading_triples(linear, X, MATRIX * scale, count=1)
    assert curvature._map_points._cache_size() == 1


def test_the_terms_of_a_pull_back_go_as_powers_of_the_singular_value():
    """By which their errors follow from its error: the inverse square, and the inverse cube."""

    def bend(x, slope):
        return slope * x + 0.5 * x**2

    def gradient(x, _):
        return 1.0 + 2.0 * x

    maps = abstraction.PullBack(bend, gradient, (1,))
    point = jnp.zeros((1, 1))
    norms = [
        abstraction.pull_back_curvature(maps, point, jax.random.key(0), slope)[1]
        for slope in (0.5, 1.0)
    ]
    assert norms[0].first / norms[1].first == pytest.approx(4.0)
    assert norms[0].second / norms[1].second == pytest.approx(8.0)
