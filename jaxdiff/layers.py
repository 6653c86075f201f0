"""The building blocks of the U-Net, with the mathematics and the names of diffusers' UNet2DModel.

Attribute paths are diffusers' parameter names (`resnets.0.conv1.weight`), so that weights move both ways.
Images are NHWC, convolution kernels HWIO, matrices [in, out]. Statistics and softmax are float32, or the
parameters' type where that is wider.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, Num

from jaxdiff import convolution, cpu
from jaxdiff import rng as random
from jaxdiff.cpu import Heads, Images, Kernel

Keys = Key[Array, " batch"] | None  # one a sample; None where nothing is drawn
MANY = (
    2**22
)  # scores of a head from which on attention takes one image at a time: 64 x 64 pixels have 2^24
Emb = Float[Array, "batch time_channel"] | None  # None where there is no time
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nnx.silu,
    "mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": nnx.relu,
}


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """PyTorch's default for weights and biases alike: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(fan_in)
    return nnx.Param(random.uniform(rngs.params(), shape, jnp.float32, low=-bound, high=bound))


class Linear(nnx.Module):
    """y = x W + b over the last axis; without b where `bias` is False."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs, bias: bool = True):
        self.weight = _uniform(rngs, (in_features, out_features), in_features)
        self.bias = _uniform(rngs, (out_features,), in_features) if bias else None

    def __call__(self, x: Float[Array, "*lead _inner"]) -> Float[Array, "*lead _outer"]:
        y = x @ self.weight[...].astype(x.dtype)
        if self.bias is None:
            return y
        bias = self.bias[...].astype(x.dtype)
        return y + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


class Embedding(nnx.Module):
    """A row of a table for each integer."""

    def __init__(self, count: int, features: int, rngs: nnx.Rngs):
        self.weight = nnx.Param(random.normal(rngs.params(), (count, features), jnp.float32))

    def __call__(self, index: Int[Array, "*batch"]) -> Float[Array, "*batch _feature"]:
        return self.weight[...][index]


def _convolve(x: Images, kernel: Kernel, stride: int, padding: tuple[int, int]) -> Images:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [padding] * 2, dimension_numbers=convolution.NHWC
    )


def convolve(x: Images, kernel: Kernel, stride: int, padding: tuple[int, int]) -> Images:
    """A square convolution with `padding` zeros before and after, along height and width alike."""
    size = kernel.shape[0]
    if size == 1 and stride == 1:  # a matrix product by definition
        return x @ kernel[0, 0]

    def plain(x, kernel):
        return _convolve(x, kernel, stride, padding)

    if (max(x.shape[1:3]) + sum(padding) - size) // stride + 1 <= cpu.SMALL:

        def fast(x, kernel):
            return cpu.convolve(x, kernel, stride, padding)
    elif stride == 1 and cpu.parts(x, kernel) > 1:

        def fast(x, kernel):
            return cpu.convolve_wide(x, kernel, padding)
    elif cpu.traced_for_cpu():
        return convolution.convolve(x, kernel, stride, (padding, padding))
    else:
        return plain(x, kernel)
    return cpu.or_else(fast, plain, x, kernel)


def convolve_doubled(x: Images, kernel: Kernel) -> Images:
    """A 3x3 convolution, padded by one, of the image with every pixel twice in height and width."""

    def plain(x, kernel):
        return convolve(double(x), kernel, 1, (1, 1))

    if max(x.shape[1:3]) <= cpu.SMALL // 2:
        return plain(x, kernel)
    return cpu.or_else(cpu.convolve_doubled, plain, x, kernel)


def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """Softmax attention, the scores divided by the root of dim; the softmax in float32, or wider where q is.

    (jax.nn.dot_product_attention has it in float32 even for float64.)
    """
    return cpu.or_else(cpu.attend, _attend, q, k, v)


def _attend(q: Heads, k: Heads, v: Heads) -> Heads:
    if q.shape[1] * k.shape[1] >= MANY:
        one = jax.checkpoint(lambda qkv: _attend_all(*(x[None] for x in qkv))[0])
        return jax.lax.map(one, (q, k, v))
    return _attend_all(q, k, v)


def _attend_all(q: Heads, k: Heads, v: Heads) -> Heads:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=wide)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1).astype(q.dtype), v)


class Conv(nnx.Module):
    """A convolution with zero padding, size // 2 on every side unless said otherwise (as PyTorch pads)."""

    def __init__(
        self, in_channels: int, out_channels: int, rngs: nnx.Rngs, size: int = 3, stride: int = 1,
        padding: tuple[int, int] | None = None,
    ):  # fmt: skip
        fan_in = size * size * in_channels
        self.weight = _uniform(rngs, (size, size, in_channels, out_channels), fan_in)
        self.bias = _uniform(rngs, (out_channels,), fan_in)
        self.stride = stride
        self.padding = padding or (size // 2, size // 2)

    def __call__(self, x: Images) -> Images:
        weight = self.weight[...].astype(x.dtype)
        bias = self.bias[...].astype(x.dtype)
        return convolve(x, weight, self.stride, self.padding) + bias[None, None, None]


class GroupNorm(nnx.Module):
    """Group normalization over [height, width, channels of the group], with a scale and a bias a channel.

    The sums are taken a channel at a time and combined on the small [batch, channel] arrays, and the result
    is one multiply-add an element: the same numbers as reshaping to groups, in a third of the time on a CPU.
    """

    def __init__(self, channels: int, groups: int, eps: float):
        if channels % groups:
            raise ValueError(
                f"norm_num_groups {groups} does not divide {channels} channels; choose a divisor of every level's"
            )
        self.weight = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.groups = groups
        self.eps = eps

    def _over_group(
        self, per_channel: Float[Array, "batch channel"]
    ) -> Float[Array, "batch channel"]:
        batch, channels = per_channel.shape
        grouped = per_channel.reshape(batch, self.groups, channels // self.groups).mean(axis=-1)
        return jnp.repeat(grouped, channels // self.groups, axis=-1)

    def __call__(self, x: Images) -> Images:
        weight, bias = self.weight[...], self.bias[...]
        x = cpu.or_else(cpu.cut, lambda x: x, x)
        wide = x.astype(jnp.promote_types(x.dtype, weight.dtype))
        mean = self._over_group(wide.mean(axis=(1, 2)))
        centred = wide - mean[:, None, None]
        variance = self._over_group(jnp.mean(centred * centred, axis=(1, 2)))
        scale = weight[None] * jax.lax.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + bias[None, None, None]).astype(x.dtype)


def fold(keys: Keys, i: int) -> Keys:
    """Other keys of the samples, for the i-th consumer."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, i)


def dropout(x: Images, rate: float, keys: Keys) -> Images:
    """Each element of a sample is zero with probability `rate`, by the sample's own key, or 1 / (1 - rate) times itself."""
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: random.uniform(key, x.shape[1:]) < 1.0 - rate)(keys)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


def halve(x: Images) -> Images:
    """The mean of every 2x2 pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def double(x: Images) -> Images:
    """Every pixel twice in height and width."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class ResnetBlock(nnx.Module):
    """norm, activation, conv, + time embedding, norm, activation, conv, + the input (1x1 convolved where sizes differ).

    time_channels None: there is no time. scale_shift: the time embedding scales and shifts after the second norm instead.
    resample: the image is halved or doubled before the first convolution. The sum is divided by output_scale.
    """

    def __init__(
        self, in_channels: int, out_channels: int, time_channels: int | None, groups: int, eps: float, rngs: nnx.Rngs, *,
        act_fn: str = "silu", dropout: float = 0.0, scale_shift: bool = False, output_scale: float = 1.0,
        resample: Literal["down", "up"] | None = None,
    ):  # fmt: skip
        self.norm1 = GroupNorm(in_channels, groups, eps)
        self.conv1 = Conv(in_channels, out_channels, rngs)
        projected = (1 + scale_shift) * out_channels
        self.time_emb_proj = (
            None if time_channels is None else Linear(time_channels, projected, rngs)
        )
        self.norm2 = GroupNorm(out_channels, groups, eps)
        self.conv2 = Conv(out_channels, out_channels, rngs)
        self.conv_shortcut = (
            Conv(in_channels, out_channels, rngs, size=1) if in_channels != out_channels else None
        )
        self.act_fn, self.dropout, self.output_scale = act_fn, dropout, output_scale
        self.scale_shift, self.resample = scale_shift, resample

    def __call__(self, x: Images, emb: Emb, keys: Keys = None) -> Images:
        act = ACTIVATIONS[self.act_fn]
        h = act(self.norm1(x))
        if self.resample is not None:
            resize = halve if self.resample == "down" else double
            x, h = resize(x), resize(h)
        h = self.conv1(h)
        if self.time_emb_proj is None:
            h = self.norm2(h)
        else:
            assert emb is not None
            time = self.time_emb_proj(act(emb))[:, None, None]
            if self.scale_shift:
                scale, shift = jnp.split(time, 2, axis=-1)
                h = self.norm2(h) * (1.0 + scale) + shift
            else:
                h = self.norm2(h + time)
        h = self.conv2(dropout(act(h), self.dropout, keys))
        h = h + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return h if self.output_scale == 1.0 else h / self.output_scale


class Attention(nnx.Module):
    """Multi-head self-attention over the pixels, a group norm before it (`groups` None: none), the input added after it.

    head_dim None is one head; the sum is divided by output_scale.
    """

    def __init__(
        self, channels: int, head_dim: int | None, groups: int | None, eps: float, rngs: nnx.Rngs, *,
        output_scale: float = 1.0,
    ):  # fmt: skip
        head_dim = channels if head_dim is None else head_dim
        if channels % head_dim:
            raise ValueError(f"attention_head_dim {head_dim} does not divide {channels} channels")
        self.group_norm = None if groups is None else GroupNorm(channels, groups, eps)
        self.to_q = Linear(channels, channels, rngs)
        self.to_k = Linear(channels, channels, rngs)
        self.to_v = Linear(channels, channels, rngs)
        self.to_out = nnx.List([Linear(channels, channels, rngs)])
        self.head_dim, self.output_scale = head_dim, output_scale

    def __call__(self, x: Images) -> Images:
        batch, height, width, channels = x.shape
        normed = x if self.group_norm is None else self.group_norm(x)
        tokens = normed.reshape(batch, height * width, channels)

        def heads(projection: Linear) -> Float[Array, "batch _token _head _dim"]:
            return projection(tokens).reshape(
                batch, height * width, channels // self.head_dim, self.head_dim
            )

        q, k, v = heads(self.to_q), heads(self.to_k), heads(self.to_v)
        mixed = attend(q, k, v).reshape(batch, height, width, channels)
        h = x + self.to_out[0](mixed)
        return h if self.output_scale == 1.0 else h / self.output_scale


class Downsample(nnx.Module):
    """A convolution of stride 2; padding 0 pads one pixel after, none before."""

    def __init__(self, channels: int, rngs: nnx.Rngs, padding: int = 1):
        self.conv = Conv(channels, channels, rngs, stride=2, padding=(padding, 1))

    def __call__(self, x: Images) -> Images:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbor doubling, then a convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, rngs)

    def __call__(self, x: Images) -> Images:
        conv = self.conv
        weight, bias = (p[...].astype(x.dtype) for p in (conv.weight, conv.bias))
        return convolve_doubled(x, weight) + bias[None, None, None]


def timestep_features(
    t: Num[Array, " batch"], channels: int, cos_first: bool = True, shift: float = 0.0
) -> Float[Array, "batch channel"]:
    """Sinusoidal features [cos | sin] (or [sin | cos]) of the step; frequencies fall from 1 to 1/10000.

    They do so over half - shift of the half = channels // 2 entries. An odd number of channels ends with a zero.
    """
    half = channels // 2
    frequencies = jnp.exp(
        -math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift)
    )
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    waves = (jnp.cos(angles), jnp.sin(angles))
    features = jnp.concatenate(waves if cos_first else waves[::-1], axis=-1)
    return jnp.pad(features, ((0, 0), (0, channels % 2)))


class FourierFeatures(nnx.Module):
    """[sin | cos] of 2 pi w log(t) for fixed Gaussian frequencies w of standard deviation 16 (Song et al. 2021)."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.weight = nnx.Param(16.0 * jax.random.normal(rngs.params(), (features,), jnp.float32))

    def __call__(self, t: Num[Array, " batch"]) -> Float[Array, "batch _feature"]:
        frequencies = jax.lax.stop_gradient(self.weight[...])
        angles = jnp.log(t.astype(jnp.float32))[:, None] * frequencies[None] * (2.0 * jnp.pi)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nnx.Module):
    """Two linear layers on the features of the step."""

    def __init__(self, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_channels, out_channels, rngs)
        self.linear_2 = Linear(out_channels, out_channels, rngs)

    def __call__(
        self, features: Float[Array, "batch _channel"]
    ) -> Float[Array, "batch time_channel"]:
        return self.linear_2(nnx.silu(self.linear_1(features)))
