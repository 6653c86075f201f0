"""The building blocks of the U-Net, with the mathematics and the names of diffusers' UNet2DModel.

Attribute paths are diffusers' parameter names (`resnets.0.conv1.weight`), so that weights move both ways.
Images are NHWC, convolution kernels HWIO, matrices [in, out]. Statistics and softmax are float32, or the
parameters' type where that is wider.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

Images = Float[Array, "batch _height _width _channel"]  # only the batch is the same in and out


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """PyTorch's default for weights and biases alike: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))


class Linear(nnx.Module):
    """y = x W + b over the last axis."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs):
        self.weight = _uniform(rngs, (in_features, out_features), in_features)
        self.bias = _uniform(rngs, (out_features,), in_features)

    def __call__(self, x: Float[Array, "*lead _inner"]) -> Float[Array, "*lead _outer"]:
        bias = self.bias[...].astype(x.dtype)
        return x @ self.weight[...].astype(x.dtype) + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def convolve(x: Images, kernel: Float[Array, "h w _inner _outer"], stride: int, padding: int) -> Images:
    """A square convolution with `padding` zeros on every side.

    As a matrix product where that is faster on a CPU: of 1x1 kernels several times, and of the nine (or more) shifted
    views where at most 4x4 pixels come out, up to fifty times (2x2 images fall off XLA's fast path).
    """
    size = kernel.shape[0]
    if size == 1 and stride == 1:
        return x @ kernel[0, 0]
    height, width = ((length + 2 * padding - size) // stride + 1 for length in x.shape[1:3])
    if max(height, width) > 4:
        pads = [(padding, padding)] * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    views = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


class Conv(nnx.Module):
    """A convolution with zero padding of size // 2 on every side, as PyTorch pads."""

    def __init__(self, in_channels: int, out_channels: int, rngs: nnx.Rngs, size: int = 3, stride: int = 1):
        fan_in = size * size * in_channels
        self.weight = _uniform(rngs, (size, size, in_channels, out_channels), fan_in)
        self.bias = _uniform(rngs, (out_channels,), fan_in)
        self.stride = stride

    def __call__(self, x: Images) -> Images:
        weight = self.weight[...].astype(x.dtype)
        bias = self.bias[...].astype(x.dtype)
        return convolve(x, weight, self.stride, weight.shape[0] // 2) + bias[None, None, None]


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

    def _over_group(self, per_channel: Float[Array, "batch channel"]) -> Float[Array, "batch channel"]:
        batch, channels = per_channel.shape
        grouped = per_channel.reshape(batch, self.groups, channels // self.groups).mean(axis=-1)
        return jnp.repeat(grouped, channels // self.groups, axis=-1)

    def __call__(self, x: Images) -> Images:
        weight, bias = self.weight[...], self.bias[...]
        wide = x.astype(jnp.promote_types(x.dtype, weight.dtype))
        mean = self._over_group(wide.mean(axis=(1, 2)))
        centred = wide - mean[:, None, None]
        variance = self._over_group(jnp.mean(centred * centred, axis=(1, 2)))
        scale = weight[None] * jax.lax.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + bias[None, None, None]).astype(x.dtype)


class ResnetBlock(nnx.Module):
    """norm, SiLU, conv, + time embedding, norm, SiLU, conv, + the input (a 1x1 convolution where sizes differ)."""

    def __init__(
        self, in_channels: int, out_channels: int, time_channels: int, groups: int, eps: float, rngs: nnx.Rngs
    ):
        self.norm1 = GroupNorm(in_channels, groups, eps)
        self.conv1 = Conv(in_channels, out_channels, rngs)
        self.time_emb_proj = Linear(time_channels, out_channels, rngs)
        self.norm2 = GroupNorm(out_channels, groups, eps)
        self.conv2 = Conv(out_channels, out_channels, rngs)
        self.conv_shortcut = Conv(in_channels, out_channels, rngs, size=1) if in_channels != out_channels else None

    def __call__(self, x: Images, emb: Float[Array, "batch time_channel"]) -> Images:
        h = self.conv1(nnx.silu(self.norm1(x)))
        h = h + self.time_emb_proj(nnx.silu(emb))[:, None, None]
        h = self.conv2(nnx.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nnx.Module):
    """Multi-head self-attention over the pixels, with a group norm before it and the input added after it."""

    def __init__(self, channels: int, head_dim: int, groups: int, eps: float, rngs: nnx.Rngs):
        if channels % head_dim:
            raise ValueError(f"attention_head_dim {head_dim} does not divide {channels} channels")
        self.group_norm = GroupNorm(channels, groups, eps)
        self.to_q = Linear(channels, channels, rngs)
        self.to_k = Linear(channels, channels, rngs)
        self.to_v = Linear(channels, channels, rngs)
        self.to_out = nnx.List([Linear(channels, channels, rngs)])
        self.head_dim = head_dim

    def __call__(self, x: Images) -> Images:
        batch, height, width, channels = x.shape
        tokens = self.group_norm(x).reshape(batch, height * width, channels)

        def heads(projection: Linear) -> Float[Array, "batch _token _head _dim"]:
            return projection(tokens).reshape(batch, height * width, channels // self.head_dim, self.head_dim)

        q, k, v = heads(self.to_q), heads(self.to_k), heads(self.to_v)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q * self.head_dim**-0.5, k)
        wide = jnp.promote_types(x.dtype, self.to_q.weight[...].dtype)
        weights = jax.nn.softmax(scores.astype(wide), axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, height, width, channels)
        return x + self.to_out[0](mixed)


class Downsample(nnx.Module):
    """A convolution of stride 2."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, rngs, stride=2)

    def __call__(self, x: Images) -> Images:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbor doubling, then a convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, rngs)

    def __call__(self, x: Images) -> Images:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


def timestep_features(t: Int[Array, " batch"], channels: int) -> Float[Array, "batch channel"]:
    """Sinusoidal features [cos | sin] of the integer step, frequencies from 1 down to 1/10000 (exclusive)."""
    half = channels // 2
    frequencies = jnp.exp(-math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbedding(nnx.Module):
    """Two linear layers on the sinusoidal features."""

    def __init__(self, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_channels, out_channels, rngs)
        self.linear_2 = Linear(out_channels, out_channels, rngs)

    def __call__(self, features: Float[Array, "batch _channel"]) -> Float[Array, "batch time_channel"]:
        return self.linear_2(nnx.silu(self.linear_1(features)))
