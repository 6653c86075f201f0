"""The convolution that turns its kernel by operations, against JAX's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import convolution, cpu, layers
from tests.test_cpu import close, rand

CASES = {
    "3x3": (7, 3, 1, ((1, 1), (1, 1))),
    "3x3, stride 2": (8, 3, 2, ((1, 1), (1, 1))),
    "3x3, stride 2, odd, padded after": (7, 3, 2, ((0, 1), (0, 1))),
    "3x3, stride 3, padded before": (9, 3, 3, ((2, 0), (2, 0))),
    "2x2 to one side": (6, 2, 1, ((1, 0), (0, 1))),
    "1x1, stride 2": (5, 1, 2, ((0, 0), (0, 0))),
    "2x2, padded by more than its size": (5, 2, 2, ((2, 3), (2, 3))),
}
ours = convolution.convolve


def plain(x, kernel, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=dimensions
    )


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_in_both_directions(name):
    size, edge, stride, padding = CASES[name]
    x, kernel = rand(2, size, size + 1, 4), rand(edge, edge, 4, 3)
    more = rand(3, 2, size, size + 1, 4), rand(3, edge, edge, 4, 3)

    def everything(f):
        f = functools.partial(f, stride=stride, padding=padding)
        gradient = jax.grad(lambda *x: jnp.sin(f(*x)).sum(), argnums=(0, 1))
        third = jax.grad(
            lambda x, k: sum(jnp.sin(g).sum() for g in jax.jvp(gradient, (x, k), (x, k))[1]),
            argnums=(0, 1),
        )
        _, product = jax.linearize(lambda x: f(x, kernel), x)
        back = jax.linear_transpose(product, x)
        again = jax.linear_transpose(lambda y: back(y)[0], f(x, kernel))
        over = [jax.vmap(f, axes)(*args) for axes, args in (
            ((0, None), (more[0], kernel)), ((None, 0), (x, more[1])), ((0, 0), more), ((3, None), (more[0].swapaxes(0, 3), kernel)),
        )]  # fmt: skip
        return (
            f(x, kernel),
            gradient(x, kernel),
            third(x, kernel),
            product(x),
            back(f(x, kernel)),
            again(x),
            over,
        )

    close(jax.jit(lambda: everything(ours))(), jax.jit(lambda: everything(plain))(), 1e-5)
    np.testing.assert_array_equal(
        ours(x, kernel, stride, padding), plain(x, kernel, stride, padding)
    )


def test_in_bfloat16_it_stays_so():
    x, kernel = (a.astype(jnp.bfloat16) for a in (rand(1, 6, 6, 4), rand(3, 3, 4, 4)))
    mine, theirs = (
        jax.vjp(lambda *x, f=f: f(*x, 1, ((1, 1), (1, 1))), x, kernel) for f in (ours, plain)
    )
    np.testing.assert_array_equal(mine[0].astype(float), theirs[0].astype(float))
    for a, b in zip(mine[1](mine[0]), theirs[1](theirs[0]), strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        close(a.astype(float), b.astype(float), 1e-2)


def test_products_in_a_loop_keep_the_kernels_layout():
    """Where a CPU has a fast convolution: with the layout exchanged instead, a step of this loop takes a hundred times as long."""
    x, kernel = rand(2, 16, 16, 8), rand(3, 3, 8, 8)

    def power(x, kernel):
        with cpu.traced_for("cpu"):
            _, back = jax.vjp(lambda x: layers.convolve(x, kernel, 1, (1, 1)), x)
        return jax.lax.fori_loop(0, 3, lambda _, v: back(v)[0], x)

    text = jax.jit(power).lower(x, kernel).compile().as_text()
    assert "01io->b01f" in text
    assert "01oi->b01f" not in text
