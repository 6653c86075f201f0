"""Transformer blocks, with the mathematics and the names of diffusers' BasicTransformerBlock.

Tokens are [batch, token, feature]. The context that they attend to may have other numbers of
tokens and of features.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdiff.layers import Conv, GroupNorm, Linear, exact_gelu
from jaxdiff.ops.arrays import Heads, Images
from jaxdiff.ops.attention import dot_product_attention

__all__ = [
    "GEGLU",
    "CrossAttention",
    "FeedForward",
    "LayerNorm",
    "SpatialTransformer",
    "Tokens",
    "TransformerBlock",
    "exact_gelu",
]

Tokens = Float[Array, "batch _token _feature"]


class LayerNorm(nnx.Module):
    """Normalization over the features, with a scale and a bias; float32 inside, or wider."""

    def __init__(self, features: int, eps: float = 1e-5):
        self.weight = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Tokens) -> Tokens:
        weight = self.weight[...][None, None]
        bias = self.bias[...][None, None]
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centered = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.mean(centered * centered, axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(variance + self.eps)
        return (centered * scale * weight + bias).astype(x.dtype)


class CrossAttention(nnx.Module):
    """Multi-head attention from tokens to a context; without a context, to the tokens."""

    def __init__(self, features: int, context_features: int, heads: int, rngs: nnx.Rngs):
        if features % heads:
            raise ValueError(
                f"{heads} attention heads do not divide {features} channels; choose a divisor"
            )
        # As in diffusers, only the output's projection has a bias.
        self.to_q = Linear(features, features, rngs, bias=False)
        self.to_k = Linear(context_features, features, rngs, bias=False)
        self.to_v = Linear(context_features, features, rngs, bias=False)
        self.to_out = nnx.List([Linear(features, features, rngs)])
        self.heads = heads

    def __call__(self, x: Tokens, context: Tokens | None = None) -> Tokens:
        context = x if context is None else context
        q = self.to_q(x)
        k = self.to_k(context)
        v = self.to_v(context)
        mixed = dot_product_attention(self._split(q), self._split(k), self._split(v))
        return self.to_out[0](mixed.reshape(x.shape))

    def _split(self, tokens: Tokens) -> Heads:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1)


class GEGLU(nnx.Module):
    """h gelu(gate), of one projection to both (Shazeer 2020)."""

    def __init__(self, features: int, inner: int, rngs: nnx.Rngs):
        self.proj = Linear(features, 2 * inner, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        h, gate = jnp.split(self.proj(x), 2, axis=-1)
        return h * exact_gelu(gate)


class FeedForward(nnx.Module):
    """GEGLU to four times the features and back."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        expand = GEGLU(features, 4 * features, rngs)
        dropout = nnx.Module()  # diffusers' dropout has this index; it has no weights
        contract = Linear(4 * features, features, rngs)
        self.net = nnx.List([expand, dropout, contract])

    def __call__(self, x: Tokens) -> Tokens:
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the context and a feed-forward, each pre-normed residual."""

    def __init__(self, features: int, context_features: int, heads: int, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(features)
        self.norm2 = LayerNorm(features)
        self.norm3 = LayerNorm(features)
        self.attn1 = CrossAttention(features, features, heads, rngs)
        self.attn2 = CrossAttention(features, context_features, heads, rngs)
        self.ff = FeedForward(features, rngs)

    def __call__(self, x: Tokens, context: Tokens) -> Tokens:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """A transformer over the pixels of an image: Stable Diffusion 1's attention.

    It stands between 1 x 1 convolutions, and the image is added to its output.
    """

    def __init__(
        self, channels: int, rngs: nnx.Rngs, *, context_features: int, heads: int, groups: int
    ):
        self.norm = GroupNorm(channels, groups, 1e-6)  # diffusers' eps, whatever the U-Net's is
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
