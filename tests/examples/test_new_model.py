"""The example of a model family of one's own, a small DiT."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.new_model import DiT, DiTConfig
from jaxdiff.denoiser import (
    Denoiser,
    LeveledDenoiser,
    abstract_network,
    as_function,
    build_network,
    check_denoiser,
    config_from_json,
    config_to_json,
    get_params,
)

CONFIG = DiTConfig(in_channels=1, image_size=8, patch_size=2, width=16, heads=2, blocks=2)


@pytest.fixture(scope="module")
def network():
    return build_network(CONFIG, nnx.Rngs(0))


@pytest.fixture(scope="module")
def inputs():
    xt = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    return xt, jnp.array([3, 900])


def test_it_is_a_denoiser_without_levels(network):
    check_denoiser(network)
    assert isinstance(network, DiT)
    assert isinstance(network, Denoiser)
    assert not isinstance(network, LeveledDenoiser)
    assert network.input_shape == (8, 8, 1)
    assert network.num_classes is None


def test_its_output_has_the_images_shape_and_starts_at_zero(network, inputs):
    np.testing.assert_array_equal(network(*inputs), np.zeros((2, 8, 8, 1)))


def test_patches_go_out_and_in(network, inputs):
    xt, _ = inputs
    tokens = network.patchify(xt)
    assert tokens.shape == (2, 16, 4)
    np.testing.assert_array_equal(tokens[0, 1], xt[0, :2, 2:4, 0].ravel())
    np.testing.assert_array_equal(network.unpatchify(tokens), xt)


@pytest.mark.slow
def test_gradients_reach_all_parameters(network, inputs):
    """Head, gates and modulation start at zero: two steps leave that, one after the other."""
    target = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    apply = as_function(abstract_network(CONFIG))

    @jax.jit
    def compute_gradient(params):
        return jax.grad(lambda p: jnp.mean((apply(p, *inputs) - target) ** 2))(params)

    params = get_params(network)
    for _ in range(2):
        gradient = compute_gradient(params)
        params = {name: param - 0.1 * gradient[name] for name, param in params.items()}
    for name, value in compute_gradient(params).items():
        assert float(jnp.abs(value).max()) > 0, name


def test_its_config_goes_through_json():
    fields = config_to_json(CONFIG)
    assert fields["type"] == "dit"
    assert config_from_json(json.loads(json.dumps(fields))) == CONFIG


def test_shapes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size 4, got 10"):
        DiTConfig(image_size=10)
    with pytest.raises(ValueError, match="width must be a multiple of heads 3, got 64"):
        DiTConfig(heads=3)
