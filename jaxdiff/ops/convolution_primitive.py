"""A convolution whose gradients keep the layout of its kernel, for loops on a CPU.

JAX's own input gradient swaps the kernel's channel axes by its dimension numbers (HWOI). Inside a
loop XLA keeps that layout, for which it has no fast convolution on a CPU: it is a hundred times as
slow (jaxlib 0.10.1 and 0.12.0; outside a loop XLA turns the kernel first). This primitive turns
the kernel by operations. The kernel's gradient, and kernels that differ between batch entries,
are JAX's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]  # (before, after) of height and of width
NHWC = ("NHWC", "HWIO", "NHWC")


def convolve_in_loops(
    x: Float[Array, "batch _h _w _inner"],
    kernel: Float[Array, "h w _inner _outer"],
    stride: int,
    padding: Padding,
) -> Float[Array, "batch _h _w _outer"]:
    """As jax.lax.conv_general_dilated, with derivatives of every order and vmap.

    Within jax.shard_map it needs ``check_vma=False``, as `jaxdiff.parallel.shard_map` has it.
    """
    return _primitive.bind(x, kernel, stride=stride, padding=padding, dilation=1)


def _definition(x: Array, kernel: Array, *, stride: int, padding: Padding, dilation: int) -> Array:
    """The convolution of the images with `dilation` - 1 zeros between their pixels."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC,
    )


def _transpose_images(
    cotangent: Array, x: Any, kernel: Array, *, stride: int, padding: Padding, dilation: int
) -> Array:
    """The images' gradient: a convolution of the cotangent with the kernel turned around.

    Zeros stand in the cotangent where the stride left pixels out; the channels are exchanged.
    """
    transposed_padding = []
    for axis in (0, 1):
        size = kernel.shape[axis]
        dilated_length = (x.aval.shape[1 + axis] - 1) * dilation
        strided_length = (cotangent.shape[1 + axis] - 1) * stride
        before = size - 1 - padding[axis][0]
        # So much that the gradient has as many pixels as the images.
        after = dilated_length + size - strided_length - 1 - before
        transposed_padding.append((before, after))
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _primitive.bind(
        cotangent, turned, stride=dilation, padding=tuple(transposed_padding), dilation=stride
    )


def _transpose_kernel(cotangent: Array, x: Array, kernel: Any, **options: Any) -> Array:
    """The kernel's gradient, which is JAX's own."""

    def convolve_kernel(kernel):
        return _definition(x, kernel, **options)

    (gradient,) = jax.linear_transpose(convolve_kernel, kernel.aval)(cotangent)
    return gradient


def _batch(
    operands: tuple[Array, Array], axes: tuple[int | None, int | None], **options: Any
) -> tuple[Array, int]:
    """Under vmap, images are joined with the batch where the kernel is the same for all."""
    x, kernel = operands
    x_axis, kernel_axis = axes
    if kernel_axis is not None or x_axis is None:

        def definition(x, kernel):
            return _definition(x, kernel, **options)

        return jax.vmap(definition, in_axes=axes)(x, kernel), 0
    x = jnp.moveaxis(x, x_axis, 0)
    result = _primitive.bind(x.reshape(-1, *x.shape[2:]), kernel, **options)
    return result.reshape(*x.shape[:2], *result.shape[1:]), 0


def _abstract_eval(x: Any, kernel: Any, **options: Any) -> Any:
    shape = jax.eval_shape(functools.partial(_definition, **options), x, kernel).shape
    return x.update(shape=shape)


_primitive = Primitive("convolution_nhwc")
_primitive.def_impl(_definition)
_primitive.def_abstract_eval(_abstract_eval)
ad.defbilinear(_primitive, _transpose_images, _transpose_kernel)
batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, mlir.lower_fun(_definition, multiple_results=False))
