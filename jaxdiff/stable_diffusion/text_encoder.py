"""CLIP's text encoder (Radford et al. 2021), with transformers' mathematics and names."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxdiff.layers import Embedding, Linear
from jaxdiff.transformer import LayerNorm, Tokens, exact_gelu


def quick_gelu(x: Array) -> Array:
    """CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The fields of transformers' CLIPTextConfig that matter here, with its names and defaults.

    Raises
    ------
    ValueError
        For an activation that is not supported, and heads that do not divide the features.
    """

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
                f"hidden_act must be one of {', '.join(ACTIVATIONS)}, got {self.hidden_act!r}; "
                "choose another model"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads must divide the {self.hidden_size} features, got "
                f"{self.num_attention_heads}; get config.json again"
            )

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "TextConfig":
        """From config.json; its other fields change nothing in the text's features."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: raw[name] for name in names if name in raw})


class TextEmbeddings(nnx.Module):
    """The sum of an embedding of each token and one of its position."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        features = config.hidden_size
        self.token_embedding = Embedding(config.vocab_size, features, rngs)
        self.position_embedding = Embedding(config.max_position_embeddings, features, rngs)

    def __call__(self, tokens: Int[Array, "batch token"]) -> Tokens:
        # Texts are padded to one length, so that every position has its embedding.
        positions = jnp.arange(tokens.shape[1])
        return self.token_embedding(tokens) + self.position_embedding(positions)[None]


class CausalAttention(nnx.Module):
    """Multi-head attention of every token to itself and to those before it."""

    def __init__(self, features: int, heads: int, rngs: nnx.Rngs):
        self.q_proj = Linear(features, features, rngs)
        self.k_proj = Linear(features, features, rngs)
        self.v_proj = Linear(features, features, rngs)
        self.out_proj = Linear(features, features, rngs)
        self.heads = heads

    def __call__(self, x: Tokens) -> Tokens:
        q = self._split_heads(self.q_proj(x))
        k = self._split_heads(self.k_proj(x))
        v = self._split_heads(self.v_proj(x))
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(attended.reshape(x.shape))

    def _split_heads(self, x: Tokens) -> Float[Array, "batch token head _feature"]:
        return x.reshape(*x.shape[:2], self.heads, -1)


class MLP(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.fc1 = Linear(config.hidden_size, config.intermediate_size, rngs)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size, rngs)
        self.activation = config.hidden_act

    def __call__(self, x: Tokens) -> Tokens:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class EncoderLayer(nnx.Module):
    """Pre-norm residual blocks: attention, then the MLP."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        features = config.hidden_size
        self.layer_norm1 = LayerNorm(features, config.layer_norm_eps)
        self.self_attn = CausalAttention(features, config.num_attention_heads, rngs)
        self.layer_norm2 = LayerNorm(features, config.layer_norm_eps)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Layers(nnx.Module):
    """The layers in sequence."""

    # The weights' files call them encoder.layers.N.

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [EncoderLayer(config, rngs) for _ in range(config.num_hidden_layers)]
        )


class TextEncoder(nnx.Module):
    """Tokens to the features that the U-Net attends to: the last layer's output, normed.

    Maps int [batch, token] to float [batch, token, feature].
    """

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        self.config = config
        self.embeddings = TextEmbeddings(config, rngs)
        self.encoder = Layers(config, rngs)
        self.final_layer_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, tokens: Int[Array, "batch token"]) -> Float[Array, "batch token _feature"]:
        # The features of every token are used, not CLIP's pooled feature of the last one.
        x = self.embeddings(tokens)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)
