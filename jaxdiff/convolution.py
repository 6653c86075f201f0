"""A convolution whose input gradient is a convolution of the same layout, for products with derivatives in a loop on a CPU.

JAX's own swaps the kernel's channel axes by its dimension numbers (HWOI). Inside a loop XLA keeps that layout, for which it has no
fast convolution on a CPU: it is a hundred times as slow (jaxlib 0.10.1 and 0.12.0; outside a loop XLA turns the kernel first). Here
operations turn the kernel. The weights' gradient, and kernels that differ between batch entries, are JAX's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Pairs = tuple[tuple[int, int], tuple[int, int]]
NHWC = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: Float[Array, "batch _h _w _inner"],
    kernel: Float[Array, "h w _inner _outer"],
    stride: int,
    padding: Pairs,
) -> Float[Array, "batch _h _w _outer"]:
    """As jax.lax.conv_general_dilated, with derivatives of every order and vmap (in jax.shard_map without check_vma)."""
    return _convolution.bind(x, kernel, stride=stride, padding=padding, dilation=1)


def _plain(x: Array, kernel: Array, *, stride: int, padding: Pairs, dilation: int) -> Array:
    both = (dilation, dilation)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, both, dimension_numbers=NHWC
    )


def _of_input(
    cotangent: Array, x: Any, kernel: Array, *, stride: int, padding: Pairs, dilation: int
) -> Array:
    """The cotangent with zeros where the stride left out, under the kernel turned round, the channels exchanged."""
    around = []
    lengths = x.aval.shape[1:3], kernel.shape[:2], cotangent.shape[1:3], padding
    for length, size, given, (before, _) in zip(*lengths, strict=True):
        first = size - 1 - before
        around.append((first, (length - 1) * dilation + size - (given - 1) * stride - 1 - first))
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _convolution.bind(
        cotangent, turned, stride=dilation, padding=tuple(around), dilation=stride
    )


def _of_kernel(cotangent: Array, x: Array, kernel: Any, **how: Any) -> Array:
    (found,) = jax.linear_transpose(lambda k: _plain(x, k, **how), kernel.aval)(cotangent)
    return found


def _batched(
    given: tuple[Array, Array], axes: tuple[int | None, int | None], **how: Any
) -> tuple[Array, int]:
    """Further images, where the kernel is the same for all."""
    (x, kernel), (axis, of_kernel) = given, axes
    if of_kernel is not None or axis is None:
        return jax.vmap(lambda x, kernel: _plain(x, kernel, **how), in_axes=axes)(x, kernel), 0
    x = jnp.moveaxis(x, axis, 0)
    found = _convolution.bind(x.reshape(-1, *x.shape[2:]), kernel, **how)
    return found.reshape(*x.shape[:2], *found.shape[1:]), 0


_convolution = Primitive("convolution_nhwc")
_convolution.def_impl(_plain)
_convolution.def_abstract_eval(
    lambda x, kernel, **how: x.update(
        shape=jax.eval_shape(functools.partial(_plain, **how), x, kernel).shape
    )
)
ad.defbilinear(_convolution, _of_input, _of_kernel)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(_plain, multiple_results=False))
