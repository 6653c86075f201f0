import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.landscape import energies, memory

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (60, 24)).astype(np.float32)
QUERIES = RNG.uniform(-1, 1, (5, 24)).astype(np.float32)


@pytest.mark.parametrize("few", [60, 10])  # more points than dimensions, and fewer
def test_against_the_dense_matrix(few):
    found = memory.curvature(QUERIES, POINTS[:few], 3.0)
    for i, query in enumerate(QUERIES):
        points = jnp.asarray(POINTS[:few])
        values = np.linalg.eigvalsh(
            np.asarray(energies.contraction(jnp.asarray(query), points, 3.0), np.float64)
        )
        assert found["spectral_norm"][i] == pytest.approx(values[-1], rel=1e-4)
        assert found["trace"][i] == pytest.approx(values.sum(), rel=1e-4)
        assert found["stable_rank"][i] == pytest.approx(
            np.square(values).sum() / values[-1] ** 2, rel=1e-4
        )
        assert found["smallest"][i] == pytest.approx(2 - 2 * values[-1], abs=1e-4)
        w = np.asarray(energies.weights(jnp.asarray(query), points, 3.0), np.float64)
        assert found["k_eff"][i] == pytest.approx(np.exp(-(w * np.log(w)).sum()), rel=1e-4)


def test_shrinking_smooths_at_a_fixed_tau_and_changes_nothing_at_a_scaled_one():
    """The opposite sign of Eq. 6's c^-2."""
    small = [0.1 * rows for rows in (QUERIES, POINTS)]
    raw, raw_small = (
        memory.curvature(*rows, 3.0)["spectral_norm"] for rows in ((QUERIES, POINTS), small)
    )
    assert np.all(raw_small < raw)
    scaled, scaled_small = (
        memory.curvature(*rows, 2.0 * memory.nearest_scale(rows[1]))["spectral_norm"]
        for rows in ((QUERIES, POINTS), small)
    )
    np.testing.assert_allclose(scaled_small, scaled, rtol=1e-5)


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(ValueError, match=r"tau is 1e-07, below .*; take a larger tau"):
        memory.curvature(QUERIES, POINTS, 1e-7)
    with pytest.raises(ValueError, match="most of the 4 memories have an equal among them"):
        memory.nearest_scale(np.repeat(POINTS[:2], 2, axis=0))
