"""The convolution that turns its kernel by operations, against JAX's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.ops.convolution import convolve
from jaxdiff.ops.convolution_primitive import convolve_in_loops
from jaxdiff.ops.dispatch import tracing_for
from tests.ops.helpers import assert_close, random_array

# name: pixels on a side, kernel size, stride, padding
CASES = {
    "3x3": (7, 3, 1, ((1, 1), (1, 1))),
    "3x3, stride 2": (8, 3, 2, ((1, 1), (1, 1))),
    "3x3, stride 2, odd, padded after": (7, 3, 2, ((0, 1), (0, 1))),
    "3x3, stride 3, padded before": (9, 3, 3, ((2, 0), (2, 0))),
    "2x2 to one side": (6, 2, 1, ((1, 0), (0, 1))),
    "1x1, stride 2": (5, 1, 2, ((0, 0), (0, 0))),
    "2x2, padded by more than its size": (5, 2, 2, ((2, 3), (2, 3))),
}


def jax_convolution(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def compute_derivatives(convolution, x, kernel):
    """The value, gradients of the first and the third order, and products in both directions."""
    gradient = jax.grad(lambda *args: jnp.sin(convolution(*args)).sum(), argnums=(0, 1))

    def sum_second_derivatives(x, kernel):
        _, second = jax.jvp(gradient, (x, kernel), (x, kernel))
        return sum(jnp.sin(array).sum() for array in second)

    third = jax.grad(sum_second_derivatives, argnums=(0, 1))
    value = convolution(x, kernel)
    _, product = jax.linearize(lambda x: convolution(x, kernel), x)
    transposed = jax.linear_transpose(product, x)
    transposed_twice = jax.linear_transpose(lambda y: transposed(y)[0], value)
    return (
        value,
        gradient(x, kernel),
        third(x, kernel),
        product(x),
        transposed(value),
        transposed_twice(x),
    )


def compute_batches(convolution, x, kernel):
    """vmap over images, over kernels and over both, along the first axis and the fourth."""
    images = random_array(3, *x.shape)
    kernels = random_array(3, *kernel.shape)
    return (
        jax.vmap(convolution, (0, None))(images, kernel),
        jax.vmap(convolution, (None, 0))(x, kernels),
        jax.vmap(convolution, (0, 0))(images, kernels),
        jax.vmap(convolution, (3, None))(images.swapaxes(0, 3), kernel),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_in_both_directions(name):
    size, kernel_size, stride, padding = CASES[name]
    x = random_array(2, size, size + 1, 4)
    kernel = random_array(kernel_size, kernel_size, 4, 3)

    def compute(function):
        convolution = functools.partial(function, stride=stride, padding=padding)
        derivatives = compute_derivatives(convolution, x, kernel)
        return derivatives, compute_batches(convolution, x, kernel)

    actual = jax.jit(lambda: compute(convolve_in_loops))()
    expected = jax.jit(lambda: compute(jax_convolution))()
    assert_close(actual, expected, 1e-5)
    np.testing.assert_array_equal(
        convolve_in_loops(x, kernel, stride, padding), jax_convolution(x, kernel, stride, padding)
    )


def test_bfloat16_stays_bfloat16():
    x = random_array(1, 6, 6, 4).astype(jnp.bfloat16)
    kernel = random_array(3, 3, 4, 4).astype(jnp.bfloat16)

    def differentiate(function):
        return jax.vjp(lambda *args: function(*args, 1, ((1, 1), (1, 1))), x, kernel)

    value, pull = differentiate(convolve_in_loops)
    expected, pull_expected = differentiate(jax_convolution)
    np.testing.assert_array_equal(value.astype(float), expected.astype(float))
    for a, b in zip(pull(value), pull_expected(expected), strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        assert_close(a.astype(float), b.astype(float), 1e-2)


def test_products_in_a_loop_keep_the_kernels_layout():
    """With the layout exchanged, a step of this loop takes a hundred times as long on a CPU."""
    x = random_array(2, 16, 16, 8)
    kernel = random_array(3, 3, 8, 8)

    def iterate(x, kernel):
        with tracing_for("cpu"):
            _, pull = jax.vjp(lambda x: convolve(x, kernel, 1, (1, 1)), x)
        return jax.lax.fori_loop(0, 3, lambda _, v: pull(v)[0], x)

    text = jax.jit(iterate).lower(x, kernel).compile().as_text()
    assert "01io->b01f" in text
    assert "01oi->b01f" not in text
