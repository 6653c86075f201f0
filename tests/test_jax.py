"""The installed JAX computes what this project needs."""

import jax
import jax.numpy as jnp


def test_sums_of_vmapped_products_are_right():
    """jaxlib 0.10.2 gives 1065369600 here on a CPU (jax-ml/jax 39103), which is the shape of our neighbor code."""
    rows = jnp.ones((32_769, 4), jnp.float32)
    matrix = jnp.full((4, 4), 64.0) * jnp.eye(4) + 0.0
    squares = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    assert squares.shape == (32_769,)
    assert bool((squares == 4 * 64.0**2).all())
    total = jax.jit(lambda rows: jnp.sum(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)[:-1]))(rows)
    assert float(total) == 32_768 * 4 * 64.0**2
