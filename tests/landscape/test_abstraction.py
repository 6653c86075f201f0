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


def field(x, *_):
    return energies.gradient(x, POINTS, TAU)


@pytest.mark.parametrize("dense", [1024, 0])
def test_singular_values(dense):
    found = abstraction.contraction(
        bent, X, jax.random.key(0), MATRIX, count=4, dense=dense, probes=2000
    )
    for i, x in enumerate(X):
        values = np.linalg.svd(
            np.asarray(jax.jacfwd(bent)(x, MATRIX), np.float64), compute_uv=False
        )
        np.testing.assert_allclose(found["values"][0][i], values[:4], rtol=1e-4)
        assert np.all(found["values"][1][i] < 1e-3)
        root, error = (a[i] for a in found["frobenius_norm"])
        assert abs(root - np.linalg.norm(values)) < 4 * error


def test_a_square_map_is_pulled_back_as_its_inverse_does():
    """z = tanh(A x) with A square: the Hessian of E(A^-1 atanh z) by autodiff, whole and in its two terms."""
    matrix = jnp.asarray(RNG.normal(size=(12, 12)) / 6 + np.eye(12), jnp.float32) * 0.3
    maps = abstraction.PullBack(bent, field, (12,))
    found = abstraction.pull_back(maps, X, jax.random.key(0), matrix)[12]
    for i, x in enumerate(X):
        with jax.enable_x64(True):
            wide, points = (
                np.asarray(matrix, np.float64),
                jnp.asarray(np.asarray(POINTS, np.float64)),
            )

            def inverse(z, a=wide):
                return jnp.linalg.solve(a, jnp.arctanh(z))

            z = jnp.tanh(wide @ np.asarray(x, np.float64))

            @jax.jit
            def oracle(z, p=points, f=inverse):
                j = jax.jacfwd(f)(z)
                return jax.hessian(lambda z: energies.free_energy(f(z), p, TAU))(
                    z
                ), j.T @ energies.hessian(f(z), p, TAU) @ j

            whole, first = map(np.asarray, oracle(z))
        for name, wanted in (("total", whole), ("first", first), ("second", whole - first)):
            assert found[name][i] == pytest.approx(float(np.linalg.norm(wanted, 2)), rel=2e-3), name


@pytest.mark.parametrize("dense", [1024, 0])
def test_a_linear_map_is_pulled_back_by_its_pseudo_inverse(dense):
    maps = abstraction.PullBack(linear, field, (2, 8))
    found = abstraction.pull_back(maps, X, jax.random.key(0), MATRIX, dense=dense)
    inverse = np.linalg.pinv(np.asarray(MATRIX, np.float64))
    left, values, _ = np.linalg.svd(np.asarray(MATRIX, np.float64))
    for i, x in enumerate(X):
        whole = inverse.T @ np.asarray(energies.hessian(x, POINTS, TAU), np.float64) @ inverse
        for r in (2, 8):
            wanted = np.linalg.norm(left[:, :r].T @ whole @ left[:, :r], 2)
            assert found[r]["total"][i] == pytest.approx(wanted, rel=1e-3)
            assert found[r]["second"][i] == pytest.approx(0, abs=1e-5)
            assert found[r]["smallest_value"][i] == pytest.approx(values[r - 1], rel=1e-4)


def averaging(x, *_):
    """A U-Net-like linear autoencoder: pairs are averaged; half of what that loses is held as a skip."""
    z = x.reshape(-1, 2).mean(axis=1)
    return z, 0.5 * (x - jnp.repeat(z, 2))


def repeating(z, held, *_):
    return jnp.repeat(z, 2) + held


@pytest.mark.parametrize("options", [{}, {"dense": 0, "steps": 6}])
def test_a_linear_autoencoder_in_closed_form(options):
    """decode' = D, (D z)_2i = (D z)_2i+1 = z_i: total = Gauss-Newton = D^T H D, no remainder, and the gap is half of
    what averaging loses."""
    maps = abstraction.Decoder(averaging, repeating, field)
    found = abstraction.decoded(maps, X, jax.random.key(0), **options)
    d = np.repeat(np.eye(6), 2, axis=0)
    for i, x in enumerate(X):
        lost = np.asarray(x) - d @ averaging(x)[0]
        assert found["gap"][i] == pytest.approx(
            np.linalg.norm(lost) / 2 / np.linalg.norm(x), rel=1e-4
        )
        h = np.asarray(energies.hessian(repeating(*averaging(x)), POINTS, TAU), np.float64)
        wanted = np.abs(np.linalg.eigvalsh(d.T @ h @ d)).max()
        for name in ("total", "gauss_newton"):
            assert found[name]["spectral_norm"][0][i] == pytest.approx(wanted, rel=1e-4)
        assert found["remainder"]["spectral_norm"][0][i] == pytest.approx(0, abs=1e-5)


def test_the_terms_of_a_bent_decoder_sum_to_the_whole():
    def decode(z, held):
        return jnp.tanh(MATRIX.T @ z)

    maps = abstraction.Decoder(lambda x: (MATRIX @ x, ()), decode, field)
    found = abstraction.decoded(maps, X, jax.random.key(0))

    @jax.jit
    def oracle(z):
        j = jax.jacfwd(lambda z: decode(z, ()))(z)
        first = j.T @ energies.hessian(decode(z, ()), POINTS, TAU) @ j
        return jax.hessian(lambda z: energies.free_energy(decode(z, ()), POINTS, TAU))(z), first

    for i, x in enumerate(X):
        whole, first = map(np.asarray, oracle(MATRIX @ x))
        for name, wanted in (
            ("total", whole),
            ("gauss_newton", first),
            ("remainder", whole - first),
        ):
            norm, trace = (float(found[name][q][0][i]) for q in ("spectral_norm", "trace"))
            assert norm == pytest.approx(float(np.linalg.norm(wanted, 2)), rel=1e-3, abs=1e-5), name
            assert trace == pytest.approx(float(np.trace(wanted)), rel=1e-3, abs=1e-4)


def test_total_variance():
    z = RNG.normal(size=(5000, 2, 3)) * 2
    assert abstraction.total_variance(z) == pytest.approx(24, rel=0.05)


def test_few_steps_have_honest_bounds():
    """30 of 300 dimensions: every value lies within its bound of a singular value, and the largest is found."""
    left, _ = np.linalg.qr(RNG.normal(size=(300, 300)))
    right, _ = np.linalg.qr(RNG.normal(size=(400, 300)))
    values = np.concatenate([[3.0, 2.5], np.linspace(2, 0, 298)])
    matrix = jnp.asarray(left * values @ right.T, jnp.float32)
    for steps in (4, 10, 30):
        found, bounds = abstraction.contraction(
            linear,
            jnp.zeros((2, 400)),
            jax.random.key(0),
            matrix,
            count=3,
            dense=0,
            steps=steps,
            probes=2,
        )["values"]
        assert np.all(np.abs(found[..., None] - values).min(axis=-1) <= bounds + 1e-5)
    np.testing.assert_allclose(found[:, :2], [[3.0, 2.5]] * 2, rtol=1e-4)


def test_directions_that_a_map_does_not_have_are_nan():
    """Rank 3 of 8: nothing can be said of 8 directions, where J+ would be 1 / rounding."""
    poor = jnp.asarray(RNG.normal(size=(8, 3)) @ RNG.normal(size=(3, 12)), jnp.float32)
    found = abstraction.pull_back(
        abstraction.PullBack(linear, field, (3, 8)), X, jax.random.key(0), poor
    )
    assert np.all(np.isfinite(found[3]["total"]))
    assert np.all(np.isnan(found[8]["total"]))
    with pytest.raises(ValueError, match="9 singular values were asked for; this map has 8"):
        abstraction.pull_back(abstraction.PullBack(linear, field, (9,)), X, jax.random.key(0), poor)


def test_a_multiple_of_the_identity_has_one_singular_value():
    found = abstraction.contraction(lambda x: 0.5 * x, X, jax.random.key(0), dense=0)
    np.testing.assert_allclose(found["values"][0][:, 0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(found["frobenius_norm"][0], 0.5 * 12**0.5, rtol=1e-5)


def test_one_compiled_program_serves_all_points_and_parameters():
    curvature._over_points.clear_cache()
    for scale in (1.0, 2.0):
        abstraction.contraction(linear, X, jax.random.key(0), MATRIX * scale)
    assert curvature._over_points._cache_size() == 2, "one for singular values, one for the norm"
