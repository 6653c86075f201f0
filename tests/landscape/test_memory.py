import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import energies, memory

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (60, 24)).astype(np.float32)
QUERIES = RNG.uniform(-1, 1, (5, 24)).astype(np.float32)


@pytest.mark.parametrize("n", [60, 10])  # more points than dimensions, and fewer
def test_against_the_dense_matrix(n):
    points = jnp.asarray(POINTS[:n])
    measured = memory.curvature(QUERIES, POINTS[:n], 3.0)
    for i, query in enumerate(jnp.asarray(QUERIES)):
        matrix = np.asarray(energies.denoiser_jacobian(query, points, 3.0), np.float64)
        eigenvalues = np.linalg.eigvalsh(matrix)
        largest = eigenvalues[-1]
        stable_rank = np.square(eigenvalues).sum() / largest**2
        weights = np.asarray(energies.weights(query, points, 3.0), np.float64)
        k_eff = np.exp(-(weights * np.log(weights)).sum())
        assert measured["spectral_norm"][i] == pytest.approx(largest, rel=1e-4)
        assert measured["trace"][i] == pytest.approx(eigenvalues.sum(), rel=1e-4)
        assert measured["stable_rank"][i] == pytest.approx(stable_rank, rel=1e-4)
        assert measured["smallest"][i] == pytest.approx(2 - 2 * largest, abs=1e-4)
        assert measured["k_eff"][i] == pytest.approx(k_eff, rel=1e-4)


def test_shrinking_smooths_at_a_fixed_tau_alone():
    """The opposite sign of Eq. 6's c^-2; at a tau that scales with the points nothing changes."""

    def norms(scale, tau):
        return memory.curvature(scale * QUERIES, scale * POINTS, tau)["spectral_norm"]

    assert np.all(norms(0.1, 3.0) < norms(1.0, 3.0))
    unit_tau = 2.0 * memory.nearest_scale(POINTS)
    small_tau = 2.0 * memory.nearest_scale(0.1 * POINTS)
    np.testing.assert_allclose(norms(0.1, small_tau), norms(1.0, unit_tau), rtol=1e-5)


def test_a_tau_below_the_error_of_distances_is_refused():
    with pytest.raises(ValueError, match=r"tau must be at least .*, got 1e-07; take a larger tau"):
        memory.curvature(QUERIES, POINTS, 1e-7)


def test_a_memory_of_copies_has_no_scale():
    copies = np.repeat(POINTS[:2], 2, axis=0)
    with pytest.raises(ValueError, match="most of the 4 have an equal among them"):
        memory.nearest_scale(copies)
