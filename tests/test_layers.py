"""Layers of the U-Net against their definitions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.layers import Attention, GroupNorm, Upsample, dropout
from jaxdiff.ops.convolution import convolve


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
