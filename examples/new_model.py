"""A model family of one's own: a small diffusion transformer (DiT) in a study.

A study's config file names this module and adds a row to its models:

    config.plugins = ("examples.new_model",)
    config.models = {"2": "2", "dit": {"type": "dit", "width": 64, "heads": 4, "blocks": 4}}

`python -m experiments.sweep --config FILE` then trains, samples and measures the transformer
beside the U-Nets. In Python:

    network = DiT(DiTConfig(in_channels=1, image_size=16), rngs=nnx.Rngs(0))
    output = network(xt, t)

References
----------
Peebles and Xie 2023, Scalable diffusion models with transformers.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiff.denoiser import register_model
from jaxdiff.ops.attention import dot_product_attention
from jaxdiff.time_embedding import TimeEmbedding, timestep_features

TIME_FEATURES = 256


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """The shape of a DiT.

    Parameters
    ----------
    in_channels
        Channels of the images.
    image_size
        Pixels on a side of the images, a multiple of patch_size.
    patch_size
        Pixels on a side of a patch, which is a token.
    width
        Features of a token, a multiple of heads.
    heads
        Heads of every attention.
    blocks
        Number of transformer blocks.
    """

    in_channels: int = 3
    image_size: int = 32
    patch_size: int = 4
    width: int = 64
    heads: int = 4
    blocks: int = 4

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size {self.patch_size}, "
                f"got {self.image_size}; choose another patch_size"
            )
        if self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads {self.heads}, got {self.width}; "
                "choose another number of heads"
            )


def zero_linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer that starts at zero."""
    return nnx.Linear(in_features, out_features, kernel_init=nnx.initializers.zeros, rngs=rngs)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Layer norm, scaled and shifted by functions of the timestep (adaLN)."""
    return jax.nn.standardize(x, axis=-1, epsilon=1e-6) * (1.0 + scale) + shift


class DiTBlock(nnx.Module):
    """Attention and a feed-forward, modulated by the timestep; it starts as the identity."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.project = nnx.Linear(width, width, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, rngs=rngs)
        # adaLN-zero: the gates are zero at first.
        self.modulation = zero_linear(width, 6 * width, rngs)

    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        modulation = jnp.split(self.modulation(nnx.silu(emb))[:, None], 6, axis=-1)
        shift, scale, gate = modulation[:3]
        x = x + gate * self.attend(modulate(x, shift, scale))
        shift, scale, gate = modulation[3:]
        hidden = self.expand(modulate(x, shift, scale))
        return x + gate * self.contract(nnx.gelu(hidden))

    def attend(self, x: jax.Array) -> jax.Array:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        mixed = dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.project(mixed.reshape(batch, tokens, width))


@register_model("dit", DiTConfig)
class DiT(nnx.Module):
    """A transformer over the patches of an image."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.input_shape = (config.image_size, config.image_size, config.in_channels)
        self.num_classes = None  # it takes no labels
        self.grid = config.image_size // config.patch_size
        width = config.width
        patch_features = config.patch_size**2 * config.in_channels
        self.embed = nnx.Linear(patch_features, width, rngs=rngs)
        # Learned positions, where the paper has fixed waves: fewer lines.
        positions = jax.random.normal(rngs.params(), (1, self.grid**2, width))
        self.positions = nnx.Param(0.02 * positions)
        self.time_embedding = TimeEmbedding(TIME_FEATURES, width, rngs)
        blocks = [DiTBlock(width, config.heads, rngs) for _ in range(config.blocks)]
        self.blocks = nnx.List(blocks)
        self.modulation = zero_linear(width, 2 * width, rngs)
        self.head = zero_linear(width, patch_features, rngs)

    def __call__(
        self,
        xt: jax.Array,
        t: jax.Array,
        labels: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """xt [batch, height, width, channel] and t [batch] to an array of xt's shape."""
        emb = self.time_embedding(timestep_features(t, TIME_FEATURES))
        x = self.embed(self.patchify(xt)) + self.positions[...]
        for block in self.blocks:
            x = block(x, emb)
        shift, scale = jnp.split(self.modulation(nnx.silu(emb))[:, None], 2, axis=-1)
        return self.unpatchify(self.head(modulate(x, shift, scale)))

    def patchify(self, images: jax.Array) -> jax.Array:
        """Images to tokens [batch, token, feature]."""
        grid = self.grid
        size = self.config.patch_size
        rows = images.reshape(-1, grid, size, grid, size, self.config.in_channels)
        patches = rows.swapaxes(2, 3)
        return patches.reshape(len(images), grid**2, -1)

    def unpatchify(self, tokens: jax.Array) -> jax.Array:
        """Tokens to images, the inverse of `patchify`."""
        grid = self.grid
        size = self.config.patch_size
        patches = tokens.reshape(-1, grid, grid, size, size, self.config.in_channels)
        rows = patches.swapaxes(2, 3)
        return rows.reshape(-1, *self.input_shape)
