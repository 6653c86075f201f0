"""Forms of the U-Net's operations that XLA runs fast on a CPU. Each computes what its namesake in layers.py defines.

Chosen by measurement on two cores (benchmarks/train.py); plain automatic differentiation of them is what is fast, so all
of JAX's transformations work as on the definitions.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff import convolution

LONG = 128  # tokens from which on attention takes one image at a time
LOOPED = 1024  # the same within traced_for: a loop of products with derivatives would compute the scores again in each
CACHED = 2**19  # scores at once, 2 MiB
WIDE, PART = (
    2**22,
    2**20,
)  # bytes of a convolution's result from which on it is cut, and to how many
SMALL = 4  # pixels on a side up to which a convolution is a matrix product

Images = Float[Array, "batch _height _width _channel"]  # only the batch is the same in and out
Kernel = Float[Array, "h w _inner _outer"]
Heads = Float[Array, "batch _token head dim"]  # queries' tokens and keys' may differ in number


_TRACED_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar("traced_for", default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Forms are chosen while tracing, for this platform, and not while compiling: each order of derivatives of a choice
    multiplies its branches, and three orders of a U-Net's take minutes to trace. The forms are those for derivatives whose
    products are taken in loops."""
    token = _TRACED_FOR.set(platform)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


def traced_for_cpu() -> bool:
    """Whether what is traced now is for a CPU, by traced_for."""
    return _TRACED_FOR.get() == "cpu"


def or_else(fast: Callable[..., Array], plain: Callable[..., Array], *inputs: Array) -> Array:
    """fast(*inputs) where compiled for a CPU, plain(*inputs) elsewhere."""
    platform = _TRACED_FOR.get()
    if platform is None:
        return jax.lax.platform_dependent(*inputs, cpu=fast, default=plain)
    return (fast if platform == "cpu" else plain)(*inputs)


def cut(x: Images) -> Images:
    """x itself, kept from being fused with what comes before it, and its gradient with what comes after.

    Before a group norm, XLA otherwise fuses the norm's whole backward pass into the transposed copies that the weight
    gradients need, where it runs with strides: cutting there gains 12 % of a train step.
    """
    return jax.lax.optimization_barrier(x)


def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """Softmax attention with the scores laid out keys by queries.

    The sums of the softmax come out of the product with the values, by a row of ones appended to these; the division is
    made on the small result. Long rows of tokens take one image and a few heads at a time and compute the scores again in
    the backward pass, so that they stay in the cache: with 32 heads that is 1.5 times as fast as all heads at once.
    """
    batch, tokens, heads, dim = q.shape
    if tokens < (LOOPED if traced_for_cpu() else LONG):
        return _attend(q, k, v)
    few = max(
        n
        for n in range(1, heads + 1)
        if heads % n == 0 and n <= max(1, CACHED // (tokens * k.shape[1]))
    )

    def apart(x):
        return (
            x.reshape(batch, x.shape[1], -1, few, dim)
            .swapaxes(1, 2)
            .reshape(-1, x.shape[1], few, dim)
        )

    parts = [apart(x) for x in (q, k, v)]
    one = jax.checkpoint(lambda qkv: _attend(*(x[None] for x in qkv))[0])
    mixed = jax.lax.map(one, tuple(parts))
    return mixed.reshape(batch, -1, tokens, few, dim).swapaxes(1, 2).reshape(q.shape)


def _attend(q: Heads, k: Heads, v: Heads) -> Heads:
    scores = k.transpose(0, 2, 1, 3) @ (q * q.shape[-1] ** -0.5).transpose(0, 2, 3, 1)
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = jnp.exp(wide - jax.lax.stop_gradient(wide.max(axis=-2, keepdims=True))).astype(
        v.dtype
    )
    values = v.transpose(0, 2, 3, 1)
    mixed = jnp.concatenate([values, jnp.ones_like(values[:, :, :1])], axis=-2) @ weights
    return (mixed[:, :, :-1] / mixed[:, :, -1:]).transpose(0, 3, 1, 2)


def convolve(x: Images, kernel: Kernel, stride: int, padding: tuple[int, int]) -> Images:
    """A convolution to few pixels as one matrix product of the shifted views: up to fifty times as fast at 2x2 pixels."""
    size = kernel.shape[0]
    height, width = ((length + sum(padding) - size) // stride + 1 for length in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    views = [
        x[:, i : i + rows : stride, j : j + columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def parts(x: Images, kernel: Kernel) -> int:
    """Into how many parts `convolve_wide` cuts the batch: 1 where it gains nothing, of what it gives being small."""
    given = x.shape[1] * x.shape[2] * kernel.shape[-1] * x.dtype.itemsize
    count = 1
    while len(x) * given > WIDE and len(x) % (2 * count) == 0 and len(x) // count * given > PART:
        count *= 2
    return count


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolve_wide(x: Images, kernel: Kernel, padding: tuple[int, int]) -> Images:
    """A convolution of stride 1 that gives many numbers; its weights' gradient is summed over parts of the batch.

    That gradient reads the whole result's for every weight: where this is out of the cache, at a third of the rate.
    """
    return _convolve(x, kernel, (padding, padding))


@convolve_wide.defjvp
def _(padding: tuple[int, int], primals: tuple, tangents: tuple) -> tuple[Images, Images]:
    (x, kernel), (dx, dkernel) = primals, tangents
    both = (padding, padding)
    of_kernel = [_convolve(part, dkernel, both) for part in jnp.split(x, parts(x, kernel))]
    return convolve_wide(x, kernel, padding), _convolve(dx, kernel, both) + jnp.concatenate(
        of_kernel
    )


def _convolve(
    x: Images, kernel: Kernel, padding: tuple[tuple[int, int], tuple[int, int]]
) -> Images:
    if traced_for_cpu():
        return convolution.convolve(x, kernel, 1, padding)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=convolution.NHWC
    )


def convolve_doubled(x: Images, kernel: Kernel) -> Images:
    """A 3x3 convolution of the image with every pixel twice, as four 2x2 convolutions of the small image.

    Even rows of the result see the rows i-1 and i of the small image, odd ones i and i+1, with the kernel's rows that
    fall on the same pixel added up; columns likewise.
    """
    rows = (
        jnp.stack([kernel[0], kernel[1] + kernel[2]]),
        jnp.stack([kernel[0] + kernel[1], kernel[2]]),
    )
    quarters = []
    for i, by_row in enumerate(rows):
        columns = (
            jnp.stack([by_row[:, 0], by_row[:, 1] + by_row[:, 2]], axis=1),
            jnp.stack([by_row[:, 0] + by_row[:, 1], by_row[:, 2]], axis=1),
        )
        for j, small in enumerate(columns):
            quarters.append(_convolve(x, small, ((1 - i, i), (1 - j, j))))
    batch, height, width, channels = quarters[0].shape
    even, odd = (jnp.stack(quarters[i : i + 2], axis=3) for i in (0, 2))
    return jnp.stack([even, odd], axis=2).reshape(batch, 2 * height, 2 * width, channels)
