"""The installed JAX computes what this project needs."""

import jax
import jax.numpy as jnp


def test_sums_of_vmapped_products_are_right():
    """Each of 32,769 rows must give 1024^3 = 1073741824; jaxlib 0.10.2 gives 1065369600 on a CPU (jax-ml/jax 39103)."""
    rows, matrix = jnp.ones((32_769, 1024), jnp.float32), jnp.ones((1024, 1024), jnp.float32)
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    assert squares.shape == (32_769,)
    assert float(squares.min()) == float(squares.max()) == 1073741824.0
