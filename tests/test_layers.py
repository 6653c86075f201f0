"""Layers of the U-Net against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.layers import Attention, GroupNorm, Upsample, add_bias, dropout
from jaxdiff.ops.convolution import convolve

pytestmark = pytest.mark.accelerator


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "stride"), [(1, 1), (2, 1), (4, 1), (5, 1), (4, 2), (7, 2), (8, 2), (16, 2)]
)
def test_a_convolution_is_the_definition_at_every_size(size, stride):
    """Small images go through a matrix product, large ones through XLA's convolution."""
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve(x, kernel, stride, (1, 1)), expected, atol=1e-5)


def test_group_norm_is_the_definition():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    norm = GroupNorm(6, 3, 1e-5)
    grouped = np.asarray(x).reshape(2, 16, 3, 2)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(2, 4, 4, 6)
    np.testing.assert_allclose(norm(x), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 3.0, 50.0])
def test_group_norm_of_bfloat16_is_that_of_float32(offset):
    """Its own rounding apart: mean square less squared mean loses nothing that bfloat16 has."""
    x = offset + jax.random.normal(jax.random.key(0), (2, 8, 8, 12))
    x = x.astype(jnp.bfloat16)
    weights = jax.random.normal(jax.random.key(1), x.shape)
    norm = GroupNorm(12, 4, 1e-5)
    norm.weight[...] = 1 + jnp.arange(12.0) / 12

    def loss(x):
        return jnp.sum(norm(x).astype(jnp.float32) * weights)

    np.testing.assert_allclose(
        norm(x).astype(jnp.float32), norm(x.astype(jnp.float32)), rtol=2**-8, atol=2e-3
    )
    gradient = jax.grad(loss)(x).astype(jnp.float32)
    expected = jax.grad(loss)(x.astype(jnp.float32))
    np.testing.assert_allclose(gradient, expected, rtol=2**-7, atol=2**-8 * abs(expected).max())


def test_a_bias_of_bfloat16_activations_has_a_float32_gradient():
    x = jnp.zeros((64, 32, 32, 2), jnp.bfloat16)
    bias = jnp.asarray([1.0, -1.0])

    def total(bias):
        return jnp.sum(add_bias(x, bias).astype(jnp.float32))

    # 65,536 ones: a sum in bfloat16 stays at 256.
    np.testing.assert_array_equal(jax.grad(total)(bias), [65_536, 65_536])
    assert "bf16[2] = reduce_sum" not in str(jax.make_jaxpr(jax.grad(total))(bias))
    tangent = jax.jvp(total, [bias], [jnp.asarray([1.0, 2.0])])[1]
    assert tangent == 3 * 65_536
    assert add_bias(x, bias).dtype == jnp.bfloat16


def test_attention_is_the_definition_one_pixel_at_a_time():
    layer = Attention(8, nnx.Rngs(0), head_dim=4, groups=2, eps=1e-5)
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    tokens = layer.group_norm(x).reshape(4, 8)
    q = np.asarray(layer.to_q(tokens))
    k = np.asarray(layer.to_k(tokens))
    v = np.asarray(layer.to_v(tokens))
    mixed = np.zeros((4, 8))
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(4):
            exps = np.exp(k[:, head] @ q[i, head] / 2.0)
            mixed[i, head] = exps @ v[:, head] / exps.sum()
    projected = layer.to_out[0](jnp.asarray(mixed, jnp.float32))
    expected = np.asarray(x) + np.asarray(projected).reshape(1, 2, 2, 8)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_upsampling_repeats_the_nearest_pixel():
    layer = Upsample(1, nnx.Rngs(0))
    layer.conv.weight[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    layer.conv.bias[...] = jnp.zeros(1)
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    expected = np.kron(np.arange(4.0).reshape(2, 2), np.ones((2, 2)))
    np.testing.assert_array_equal(layer(x)[0, :, :, 0], expected)


def test_dropout_keeps_the_mean():
    keys = jax.random.split(jax.random.key(1), 4)
    dropped = dropout(jnp.ones((4, 32, 32, 4)), 0.25, keys)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)  # 4 standard errors of 16,384
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.015)
