"""Computations that this project needs, and that some versions of JAX get wrong."""

import jax
import jax.numpy as jnp
import pytest

pytestmark = pytest.mark.accelerator


def test_sums_of_vmapped_products_are_right():
    """Every row's sum is 1024^3."""
    # jaxlib 0.10.2 gives 1065369600 on a CPU (jax-ml/jax 39103).
    rows = jnp.ones((32_769, 1024), jnp.float32)
    matrix = jnp.ones((1024, 1024), jnp.float32)
    sums = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    assert sums.shape == (32_769,)
    assert float(sums.min()) == float(sums.max()) == 1073741824.0
