"""Transformer blocks over tokens, with the mathematics and the names of diffusers' BasicTransformerBlock.

Tokens are [batch, token, feature]. What the tokens attend to (`context`) may have other tokens and features than they.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdiff.layers import Conv, GroupNorm, Images, Linear, attend

Tokens = Float[Array, "batch _token _feature"]
exact_gelu: Callable[[Array], Array] = functools.partial(jax.nn.gelu, approximate=False)


class LayerNorm(nnx.Module):
    """Normalization over the features, with a scale and a bias; float32 inside, or wider."""

    def __init__(self, features: int, eps: float = 1e-5):
        self.weight = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Tokens) -> Tokens:
        weight, bias = self.weight[...][None, None], self.bias[...][None, None]
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (centred * scale * weight + bias).astype(x.dtype)


class CrossAttention(nnx.Module):
    """Multi-head attention from tokens to a context, which is the tokens themselves where none is given."""

    def __init__(self, features: int, context_features: int, heads: int, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(f"{heads} attention heads do not divide {features} channels")
        self.to_q = Linear(features, features, rngs, bias=False)
        self.to_k = Linear(context_features, features, rngs, bias=False)
        self.to_v = Linear(context_features, features, rngs, bias=False)
        self.to_out = nnx.List([Linear(features, features, rngs)])
        self.heads = heads

    def __call__(self, x: Tokens, context: Tokens | None = None) -> Tokens:
        context = x if context is None else context
        q, k, v = (
            y.reshape(*y.shape[:2], self.heads, -1)
            for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](attend(q, k, v).reshape(x.shape))


class GEGLU(nnx.Module):
    """h * gelu(gate), of one projection to both (Shazeer 2020)."""

    def __init__(self, features: int, inner: int, rngs: nnx.Rngs):
        self.proj = Linear(features, 2 * inner, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        h, gate = jnp.split(self.proj(x), 2, axis=-1)
        return h * exact_gelu(gate)


class FeedForward(nnx.Module):
    """GEGLU to four times the features and back."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        nothing = nnx.Module()  # diffusers' dropout stands here; it has no weights
        self.net = nnx.List(
            [GEGLU(features, 4 * features, rngs), nothing, Linear(4 * features, features, rngs)]
        )

    def __call__(self, x: Tokens) -> Tokens:
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Attention to itself, attention to the context, and a feed-forward, each normed before and added to its input."""

    def __init__(self, features: int, context_features: int, heads: int, rngs: nnx.Rngs):
        self.norm1, self.norm2, self.norm3 = (LayerNorm(features) for _ in range(3))
        self.attn1 = CrossAttention(features, features, heads, rngs)
        self.attn2 = CrossAttention(features, context_features, heads, rngs)
        self.ff = FeedForward(features, rngs)

    def __call__(self, x: Tokens, context: Tokens) -> Tokens:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """A transformer over the pixels of an image, between 1x1 convolutions, the image added: Stable Diffusion 1's attention."""

    def __init__(
        self, channels: int, context_features: int, heads: int, groups: int, rngs: nnx.Rngs
    ):
        self.norm = GroupNorm(channels, groups, 1e-6)
        self.proj_in = Conv(channels, channels, rngs, size=1)
        self.transformer_blocks = nnx.List(
            [TransformerBlock(channels, context_features, heads, rngs)]
        )
        self.proj_out = Conv(channels, channels, rngs, size=1)

    def __call__(self, x: Images, context: Tokens) -> Images:
        batch, height, width, channels = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(batch, height * width, channels)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.reshape(batch, height, width, channels))
