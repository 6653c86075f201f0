"""Convolutions: the plain definition and the forms that a CPU runs fast.

All are of square kernels (HWIO) on images NHWC, padded with zeros.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff.ops.arrays import Images, Kernel
from jaxdiff.ops.convolution_primitive import NHWC, Padding, convolve_in_loops
from jaxdiff.ops.dispatch import is_tracing_for_cpu, platform_dispatch
from jaxdiff.ops.resampling import upsample_nearest

MAX_MATMUL_PIXELS = 4  # on a side of the result, up to which a convolution is a matrix product
# The same on a GPU, where it spares the copies of kernels that cuDNN wants in another order.
MAX_CUDA_MATMUL_PIXELS = 2
MIN_SPLIT_BYTES = 2**22  # of the result, from which on the batch is split
PART_BYTES = 2**20  # of the result of a part of the batch


def convolve(x: Images, kernel: Kernel, stride: int, padding: tuple[int, int]) -> Images:
    """A square convolution.

    Parameters
    ----------
    x
        Images [batch, height, width, inner].
    kernel
        Kernel [size, size, inner, outer].
    stride
        Pixels between two results, along height and width alike.
    padding
        Zeros before and after the pixels, along height and width alike.

    Returns
    -------
    Array
        Images [batch, height, width, outer].
    """
    size = kernel.shape[0]
    if size == 1 and stride == 1:  # a matrix product by definition
        return x @ kernel[0, 0]

    def plain(x, kernel):
        return plain_convolution(x, kernel, stride, padding)

    def matmul(x, kernel):
        return matmul_convolution(x, kernel, stride, padding)

    def split(x, kernel):
        return split_convolution(x, kernel, padding)

    pixels = _count_results(max(x.shape[1:3]), size, stride, padding)
    if pixels <= MAX_MATMUL_PIXELS:
        cuda_form = matmul if pixels <= MAX_CUDA_MATMUL_PIXELS else plain
        return platform_dispatch(matmul, plain, x, kernel, cuda=cuda_form)
    if stride == 1 and count_parts(x, kernel) > 1:
        return platform_dispatch(split, plain, x, kernel)
    if is_tracing_for_cpu():
        return convolve_in_loops(x, kernel, stride, (padding, padding))
    return plain(x, kernel)


def convolve_upsampled(x: Images, kernel: Kernel) -> Images:
    """A 3 x 3 convolution, padded by one, of images with every pixel doubled."""

    def plain(x, kernel):
        return convolve(upsample_nearest(x), kernel, 1, (1, 1))

    if max(x.shape[1:3]) <= MAX_MATMUL_PIXELS // 2:
        # The plain form is then a single matrix product on a CPU.
        return plain(x, kernel)
    return platform_dispatch(upsampled_convolution, plain, x, kernel)


def plain_convolution(x: Images, kernel: Kernel, stride: int, padding: tuple[int, int]) -> Images:
    """The definition."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=NHWC
    )


def matmul_convolution(x: Images, kernel: Kernel, stride: int, padding: tuple[int, int]) -> Images:
    """A convolution to few pixels as one matrix product of the shifted views.

    It is up to fifty times as fast at 2 x 2 pixels. Taps that meet padding alone are left out: at
    1 x 1 pixels the one in the middle remains.
    """
    size = kernel.shape[0]
    height = _count_results(x.shape[1], size, stride, padding)
    width = _count_results(x.shape[2], size, stride, padding)
    rows = stride * (height - 1) + 1
    columns = stride * (width - 1) + 1
    taps_down = _useful_taps(x.shape[1], size, stride, padding)
    taps_across = _useful_taps(x.shape[2], size, stride, padding)
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    # The views' order is that of the kernel's rows and columns, as its reshape has them.
    views = []
    for i in range(size)[taps_down]:
        for j in range(size)[taps_across]:
            views.append(x[:, i : i + rows : stride, j : j + columns : stride])
    useful = kernel[taps_down, taps_across]
    return jnp.concatenate(views, axis=-1) @ useful.reshape(-1, kernel.shape[-1])


def _useful_taps(length: int, size: int, stride: int, padding: tuple[int, int]) -> slice:
    """The taps along an axis of `length` pixels that meet at least one of them."""
    results = _count_results(length, size, stride, padding)
    pixels = range(padding[0], padding[0] + length)
    useful = [tap for tap in range(size) if any(tap + stride * i in pixels for i in range(results))]
    return slice(useful[0], useful[-1] + 1)


def _count_results(length: int, size: int, stride: int, padding: tuple[int, int]) -> int:
    """Pixels of the result along an axis of `length` pixels."""
    return (length + sum(padding) - size) // stride + 1


def count_parts(x: Images, kernel: Kernel) -> int:
    """Parts into which `split_convolution` splits the batch; 1 where splitting gains nothing."""
    image_bytes = x.shape[1] * x.shape[2] * kernel.shape[-1] * x.dtype.itemsize
    if len(x) * image_bytes <= MIN_SPLIT_BYTES:
        return 1
    parts = 1
    while len(x) % (2 * parts) == 0 and len(x) // parts * image_bytes > PART_BYTES:
        parts *= 2
    return parts


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def split_convolution(x: Images, kernel: Kernel, padding: tuple[int, int]) -> Images:
    """A convolution of stride 1; its kernel's gradient is summed over parts of the batch."""
    # That gradient reads the gradient of the whole result for every entry of the kernel: where
    # this is out of the cache, at a third of the rate.
    return _cpu_convolution(x, kernel, (padding, padding))


@split_convolution.defjvp
def _split_convolution_jvp(
    padding: tuple[int, int], primals: tuple, tangents: tuple
) -> tuple[Images, Images]:
    x, kernel = primals
    x_tangent, kernel_tangent = tangents
    both = (padding, padding)
    # Its transpose is the kernel's gradient: a sum over the parts.
    by_kernel = [
        _cpu_convolution(part, kernel_tangent, both)
        for part in jnp.split(x, count_parts(x, kernel))
    ]
    value = split_convolution(x, kernel, padding)
    tangent = _cpu_convolution(x_tangent, kernel, both) + jnp.concatenate(by_kernel)
    return value, tangent


def _cpu_convolution(x: Images, kernel: Kernel, padding: Padding) -> Images:
    """A convolution of stride 1 by XLA, as loops of products need it where one is traced."""
    if is_tracing_for_cpu():
        return convolve_in_loops(x, kernel, 1, padding)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=NHWC)


def upsampled_convolution(x: Images, kernel: Kernel) -> Images:
    """`convolve_upsampled` as four 2 x 2 convolutions of the small images."""
    quarters = []
    for i, row_kernel in enumerate(_merge_taps(kernel, axis=0)):
        for j, small_kernel in enumerate(_merge_taps(row_kernel, axis=1)):
            # Even results begin with the pixel before, and odd ones end with the pixel after.
            padding = ((1 - i, i), (1 - j, j))
            quarters.append(_cpu_convolution(x, small_kernel, padding))
    # The four are interleaved as [batch, height, 2, width, 2, channel].
    even_rows = jnp.stack(quarters[:2], axis=3)
    odd_rows = jnp.stack(quarters[2:], axis=3)
    rows = jnp.stack([even_rows, odd_rows], axis=2)
    batch, height, width, channels = quarters[0].shape
    return rows.reshape(batch, 2 * height, 2 * width, channels)


def _merge_taps(kernel: Array, axis: int) -> tuple[Array, Array]:
    """The kernels of even and of odd results, two taps along the axis in place of three."""

    # Of a row that is there twice, even results see the pixels i - 1 and i of the small images,
    # odd ones i and i + 1; taps that fall on the same pixel are added up.
    def tap(i):
        return kernel[i] if axis == 0 else kernel[:, i]

    even = jnp.stack([tap(0), tap(1) + tap(2)], axis=axis)
    odd = jnp.stack([tap(0) + tap(1), tap(2)], axis=axis)
    return even, odd
