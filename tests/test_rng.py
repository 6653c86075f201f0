"""First parameters are jax.random's numbers, and abstract networks have their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import rng
from jaxdiff.denoiser import abstract_network, build_network, get_params
from tests.conftest import TINY_CONFIG


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (1024,), (33, 32), (3, 3, 40, 8)])
def test_a_parameter_is_jax_randoms_draw(shape):
    key = nnx.Rngs(3).params()
    normal = rng.normal_param(nnx.Rngs(3), shape)[...]
    uniform = rng.uniform_param(nnx.Rngs(3), shape, 0.3)[...]
    np.testing.assert_array_equal(normal, jax.random.normal(key, shape))
    np.testing.assert_array_equal(uniform, jax.random.uniform(key, shape, jnp.float32, -0.3, 0.3))


def test_a_traced_network_has_the_same_parameters():
    def draw(key):
        return rng.uniform_param(nnx.Rngs(key), (5, 7), 0.1)[...]

    key = jax.random.key(2)
    np.testing.assert_array_equal(jax.jit(draw)(key), draw(key))


def test_shapes_are_those_of_drawn_parameters():
    shapes = get_params(abstract_network(TINY_CONFIG))
    params = get_params(build_network(TINY_CONFIG, nnx.Rngs(0)))
    assert {k: (v.shape, v.dtype) for k, v in shapes.items()} == {
        k: (v.shape, v.dtype) for k, v in params.items()
    }
    assert all(isinstance(value, jax.ShapeDtypeStruct) for value in shapes.values())
    # Outside of the tracing of shapes, numbers are drawn again.
    assert float(jnp.std(params["conv_in.weight"])) > 0
