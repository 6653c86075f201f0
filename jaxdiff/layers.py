"""Layers of the U-Net, with the mathematics and the names of diffusers' UNet2DModel.

Attribute paths are diffusers' parameter names (`resnets.0.conv1.weight`), so that weights move
both ways. Images are NHWC, convolution kernels HWIO, matrices [in, out]. Statistics and softmax
are float32, or the parameters' type where that is wider.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from jaxdiff import rng
from jaxdiff.ops.arrays import Images
from jaxdiff.ops.attention import dot_product_attention
from jaxdiff.ops.convolution import convolve, convolve_upsampled
from jaxdiff.ops.dispatch import fusion_barrier
from jaxdiff.ops.resampling import avg_pool_2x2, upsample_nearest

Keys = Key[Array, " batch"] | None  # of each sample; None where nothing is drawn
Emb = Float[Array, "batch time_channel"] | None  # the time embedding; None where there is no time

exact_gelu: Callable[[Array], Array] = functools.partial(jax.nn.gelu, approximate=False)


def mish(x: Array) -> Array:
    """x tanh(softplus(x)) (Misra 2019)."""
    return x * jnp.tanh(jax.nn.softplus(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nnx.silu,
    "mish": mish,
    "gelu": exact_gelu,
    "relu": nnx.relu,
}


def _uniform_param(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """PyTorch's default for weights and biases: U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))."""
    return rng.uniform_param(rngs, shape, 1.0 / math.sqrt(fan_in))


def add_bias(
    x: Float[Array, "*lead channel"], bias: Float[Array, " channel"]
) -> Float[Array, "*lead channel"]:
    """x plus the bias of its last axis, of x's type."""
    # Axes are added by hand: the tests let no rank be promoted silently.
    row = bias.reshape((1,) * (x.ndim - 1) + bias.shape)
    return x + row if bias.dtype == x.dtype else _add_wide(x, row)


@jax.custom_jvp
def _add_wide(x: Array, row: Array) -> Array:
    """x + row rounded to x's type; the gradient of the row is summed in the row's own."""
    return x + row.astype(x.dtype)


@_add_wide.defjvp
def _add_wide_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple:
    # The transpose of this sum adds the bias's gradient up in float32; that of x + row in
    # bfloat16 would lose what is small beside the sum so far.
    x_tangent, row_tangent = tangents
    total = x_tangent.astype(row_tangent.dtype) + row_tangent
    return _add_wide(*primals), total.astype(x_tangent.dtype)


class Linear(nnx.Module):
    """y = x W + b over the last axis; without b where `bias` is False."""

    def __init__(self, in_features: int, out_features: int, rngs: nnx.Rngs, *, bias: bool = True):
        self.weight = _uniform_param(rngs, (in_features, out_features), in_features)
        self.bias = _uniform_param(rngs, (out_features,), in_features) if bias else None

    def __call__(self, x: Float[Array, "*lead _inner"]) -> Float[Array, "*lead _outer"]:
        # Parameters are float32; the product is of the activations' type, which may be bfloat16.
        y = x @ self.weight[...].astype(x.dtype)
        if self.bias is None:
            return y
        return add_bias(y, self.bias[...])


class Embedding(nnx.Module):
    """A row of a table for each integer."""

    def __init__(self, count: int, features: int, rngs: nnx.Rngs):
        self.weight = rng.normal_param(rngs, (count, features))

    def __call__(self, index: Int[Array, "*batch"]) -> Float[Array, "*batch _feature"]:
        return self.weight[...][index]


class Conv(nnx.Module):
    """A convolution with zero padding.

    Parameters
    ----------
    in_channels, out_channels
        Channels of its input and output.
    size
        Pixels on a side of the kernel.
    stride
        Pixels between two results.
    padding
        Zeros before and after, along height and width alike; by default ``size // 2`` of both, as
        PyTorch pads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rngs: nnx.Rngs,
        *,
        size: int = 3,
        stride: int = 1,
        padding: tuple[int, int] | None = None,
    ):
        fan_in = size * size * in_channels
        self.weight = _uniform_param(rngs, (size, size, in_channels, out_channels), fan_in)
        self.bias = _uniform_param(rngs, (out_channels,), fan_in)
        self.stride = stride
        self.padding = padding or (size // 2, size // 2)

    def __call__(self, x: Images) -> Images:
        weight = self.weight[...].astype(x.dtype)
        return add_bias(convolve(x, weight, self.stride, self.padding), self.bias[...])


class GroupNorm(nnx.Module):
    """Group normalization with a scale and a bias for every channel (Wu and He 2018).

    The statistics are over height, width and the channels of a group.
    """

    def __init__(self, channels: int, groups: int, eps: float):
        if channels % groups:
            raise ValueError(
                f"norm_num_groups {groups} does not divide {channels} channels; "
                "choose a divisor of every level's"
            )
        self.weight = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.groups = groups
        self.eps = eps

    def _mean_over_group(
        self, per_channel: Float[Array, "batch channel"]
    ) -> Float[Array, "batch channel"]:
        batch, channels = per_channel.shape
        grouped = per_channel.reshape(batch, self.groups, channels // self.groups).mean(axis=-1)
        return jnp.repeat(grouped, channels // self.groups, axis=-1)

    def __call__(self, x: Images) -> Images:
        weight = self.weight[...]
        bias = self.bias[...]
        x = fusion_barrier(x)
        if jnp.promote_types(x.dtype, weight.dtype) != x.dtype:
            return self._norm_narrow(x, weight, bias)
        # Means are taken over each channel and combined on the small [batch, channel] arrays, and
        # the result is a multiply-add of every element: the same numbers as reshaping to groups,
        # in a third of the time on a CPU.
        mean = self._mean_over_group(x.mean(axis=(1, 2)))
        centered = x - mean[:, None, None]
        variance = self._mean_over_group(jnp.mean(centered * centered, axis=(1, 2)))
        scale = weight[None] * jax.lax.rsqrt(variance + self.eps)
        return centered * scale[:, None, None] + bias[None, None, None]

    def _norm_narrow(
        self, x: Images, weight: Float[Array, " channel"], bias: Float[Array, " channel"]
    ) -> Images:
        """The same of activations narrower than the parameters, such as bfloat16.

        Mean and mean square are sums of one pass over the pixels, and so are both sums of the
        backward pass. What the difference E[x^2] - E[x]^2 loses in float32 is far below what the
        rounding of x itself makes of the variance.
        """
        size = len(weight) // self.groups

        def mean_over_group(per_channel: Array) -> Array:
            # A sum of slices is fused with what follows; a reduction is a kernel of its own.
            grouped = per_channel.reshape(len(x), self.groups, size)
            total = sum((grouped[..., i] for i in range(1, size)), grouped[..., 0])
            return jnp.repeat(total / size, size, axis=-1)

        wide = x.astype(weight.dtype)
        mean = mean_over_group(wide.mean(axis=(1, 2)))
        mean_square = mean_over_group(jnp.mean(wide * wide, axis=(1, 2)))
        # Rounding can make the difference negative where a group is nearly constant.
        variance = jnp.maximum(mean_square - mean * mean, 0.0)
        scale = weight[None] * jax.lax.rsqrt(variance + self.eps)
        shift = bias[None] - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)


def fold_in(keys: Keys, i: int) -> Keys:
    """The samples' keys for the i-th consumer."""
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, None))(keys, i)


def dropout(x: Images, rate: float, keys: Keys) -> Images:
    """Set elements to zero with probability `rate`, by each sample's key, and scale the rest."""
    if keys is None or rate == 0.0:
        return x
    mask = jax.vmap(lambda key: rng.uniform(key, x.shape[1:]) < 1.0 - rate)(keys)
    return jnp.where(mask, x / (1.0 - rate), 0.0)


class ResnetBlock(nnx.Module):
    """norm, activation, conv, + time embedding, norm, activation, dropout, conv, + the input.

    The input goes through a 1 x 1 convolution where the channels differ.

    Parameters
    ----------
    in_channels, out_channels
        Channels of its input and output.
    time_channels
        Channels of the time embedding; None where there is no time.
    groups, eps
        Groups and epsilon of both group norms.
    act_fn
        Name of the activation, a key of ACTIVATIONS.
    dropout
        Probability that an element is dropped, in training only.
    scale_shift
        The time embedding scales and shifts after the second norm, in place of being added.
    output_scale
        What the sum is divided by.
    resample
        The image is halved or doubled before the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rngs: nnx.Rngs,
        *,
        time_channels: int | None,
        groups: int,
        eps: float,
        act_fn: str = "silu",
        dropout: float = 0.0,
        scale_shift: bool = False,
        output_scale: float = 1.0,
        resample: Literal["down", "up"] | None = None,
    ):
        self.norm1 = GroupNorm(in_channels, groups, eps)
        self.conv1 = Conv(in_channels, out_channels, rngs)
        projected = 2 * out_channels if scale_shift else out_channels
        # An attribute that was None cannot become a module: nnx then takes it for static.
        self.time_emb_proj = (
            None if time_channels is None else Linear(time_channels, projected, rngs)
        )
        self.norm2 = GroupNorm(out_channels, groups, eps)
        self.conv2 = Conv(out_channels, out_channels, rngs)
        self.conv_shortcut = (
            Conv(in_channels, out_channels, rngs, size=1) if in_channels != out_channels else None
        )
        self.act_fn = act_fn
        self.dropout = dropout
        self.scale_shift = scale_shift
        self.output_scale = output_scale
        self.resample = resample

    def __call__(self, x: Images, emb: Emb, keys: Keys = None) -> Images:
        act = ACTIVATIONS[self.act_fn]
        h = act(self.norm1(x))
        if self.resample is not None:
            resize = avg_pool_2x2 if self.resample == "down" else upsample_nearest
            # As in diffusers, the shortcut is resampled as well, and h after its activation.
            x = resize(x)
            h = resize(h)
        h = self._norm_with_time(self.conv1(h), emb)
        # The keys' batch is the images': a sample's mask does not depend on its neighbors.
        h = self.conv2(dropout(act(h), self.dropout, keys))
        h = h + (x if self.conv_shortcut is None else self.conv_shortcut(x))
        return h if self.output_scale == 1.0 else h / self.output_scale

    def _norm_with_time(self, h: Images, emb: Emb) -> Images:
        if self.time_emb_proj is None:
            return self.norm2(h)
        assert emb is not None
        act = ACTIVATIONS[self.act_fn]
        time = self.time_emb_proj(act(emb))[:, None, None]
        if not self.scale_shift:
            # With one channel a group the norm subtracts the time again (`UNetConfig.time_blind`).
            return self.norm2(h + time)
        scale, shift = jnp.split(time, 2, axis=-1)
        return self.norm2(h) * (1.0 + scale) + shift


class Attention(nnx.Module):
    """Multi-head self-attention over the pixels, with a group norm before and the input added.

    Parameters
    ----------
    channels
        Channels of its input and output.
    head_dim
        Channels of a head; None is a single head.
    groups, eps
        Groups and epsilon of the group norm; with groups None there is no norm.
    output_scale
        What the sum is divided by.
    """

    def __init__(
        self,
        channels: int,
        rngs: nnx.Rngs,
        *,
        head_dim: int | None,
        groups: int | None,
        eps: float,
        output_scale: float = 1.0,
    ):
        head_dim = channels if head_dim is None else head_dim
        if channels % head_dim:
            raise ValueError(
                f"attention_head_dim {head_dim} does not divide {channels} channels; "
                "choose a divisor of those of every level with attention"
            )
        self.group_norm = None if groups is None else GroupNorm(channels, groups, eps)
        self.to_q = Linear(channels, channels, rngs)
        self.to_k = Linear(channels, channels, rngs)
        self.to_v = Linear(channels, channels, rngs)
        # A list for the name to_out.0: diffusers' to_out.1 is a dropout.
        self.to_out = nnx.List([Linear(channels, channels, rngs)])
        self.head_dim = head_dim
        self.output_scale = output_scale

    def __call__(self, x: Images) -> Images:
        batch, height, width, channels = x.shape
        normed = x if self.group_norm is None else self.group_norm(x)
        tokens = normed.reshape(batch, height * width, channels)

        def project_to_heads(projection: Linear) -> Float[Array, "batch _token _head _dim"]:
            return projection(tokens).reshape(batch, height * width, -1, self.head_dim)

        q = project_to_heads(self.to_q)
        k = project_to_heads(self.to_k)
        v = project_to_heads(self.to_v)
        mixed = dot_product_attention(q, k, v).reshape(batch, height, width, channels)
        h = x + self.to_out[0](mixed)
        return h if self.output_scale == 1.0 else h / self.output_scale


class Downsample(nnx.Module):
    """A convolution of stride 2; padding 0 pads a single pixel after the image, none before."""

    def __init__(self, channels: int, rngs: nnx.Rngs, padding: int = 1):
        self.conv = Conv(channels, channels, rngs, stride=2, padding=(padding, 1))

    def __call__(self, x: Images) -> Images:
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbor doubling, then a convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(channels, channels, rngs)

    def __call__(self, x: Images) -> Images:
        weight = self.conv.weight[...].astype(x.dtype)
        return add_bias(convolve_upsampled(x, weight), self.conv.bias[...])
