"""CLIP's text encoder, with the mathematics and the names of transformers' CLIPTextModel (Radford et al. 2021)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdiff.layers import Embedding, Linear
from jaxdiff.transformer import LayerNorm, Tokens, exact_gelu

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": exact_gelu,
}


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """transformers' CLIPTextConfig, with its defaults and its names. Raises ValueError for a value that is not known here."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"hidden_act is {self.hidden_act!r}; {', '.join(ACTIVATIONS)} are known here"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads do not divide {self.hidden_size} features"
            )

    @classmethod
    def read(cls, raw: dict[str, Any]) -> "TextConfig":
        """From config.json; what else is in it changes nothing in the text's features."""
        return cls(
            **{
                field.name: raw[field.name]
                for field in dataclasses.fields(cls)
                if field.name in raw
            }
        )


class TextEmbeddings(nnx.Module):
    """A row for each token and one for its place."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size, rngs)
        self.position_embedding = Embedding(
            config.max_position_embeddings, config.hidden_size, rngs
        )

    def __call__(self, tokens: Int[Array, "batch token"]) -> Tokens:
        return (
            self.token_embedding(tokens)
            + self.position_embedding(jnp.arange(tokens.shape[1]))[None]
        )


class CausalAttention(nnx.Module):
    """Multi-head attention of every token to itself and to those before it."""

    def __init__(self, features: int, heads: int, rngs: nnx.Rngs):
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Linear(features, features, rngs) for _ in range(4)
        )
        self.heads = heads

    def __call__(self, x: Tokens) -> Tokens:
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.heads, -1)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))


class MLP(nnx.Module):
    """Two linear layers."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, rngs)
        self.act = config.hidden_act

    def __call__(self, x: Tokens) -> Tokens:
        return self.fc2(ACTIVATIONS[self.act](self.fc1(x)))


class EncoderLayer(nnx.Module):
    """Attention and MLP, each normed before and added to its input."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.layer_norm1, self.layer_norm2 = (
            LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2)
        )
        self.self_attn = CausalAttention(config.hidden_size, config.num_attention_heads, rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Layers(nnx.Module):
    """The layers, one after the other."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [EncoderLayer(config, rngs) for _ in range(config.num_hidden_layers)]
        )


class TextEncoder(nnx.Module):
    """Tokens int [batch, token] to what the U-Net attends to, float [batch, token, feature]: the last layer, normed."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.config = config
        self.embeddings, self.encoder = TextEmbeddings(config, rngs), Layers(config, rngs)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, tokens: Int[Array, "batch token"]) -> Float[Array, "batch token _feature"]:
        x = self.embeddings(tokens)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)
