"""Random arrays, and comparison relative to the largest value."""

import jax
import jax.numpy as jnp
import numpy as np


def random_array(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jnp.asarray(values, jnp.float32)


def assert_close(actual, expected, tolerance):
    """Every array of a tree within `tolerance` times the largest value of its counterpart."""
    actual_arrays = jax.tree.leaves(actual)
    expected_arrays = jax.tree.leaves(expected)
    for a, b in zip(actual_arrays, expected_arrays, strict=True):
        scale = max(float(jnp.abs(b).max()), 1e-6)
        assert float(jnp.abs(a - b).max()) <= tolerance * scale
