"""The U-Net: diffusers' UNet2DModel in Flax NNX, entered and left at any level; and UNet2DConditionModel, where its
configuration is a ConditionalConfig.

Levels: a = 0 is the noisy image before conv_in; a = 1..n is the output of the a-th down block, its
down-sampling included; level n enters the mid-block and level n + 1 is the mid-block's output.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Key, Num

from jaxdiff.blocks import Context, DownBlock, MidBlock, UpBlock
from jaxdiff.denoiser import register_model
from jaxdiff.layers import (
    Conv,
    Embedding,
    FourierFeatures,
    GroupNorm,
    Images,
    Keys,
    TimeEmbedding,
    fold,
    timestep_features,
)
from jaxdiff.unet_config import TABLE_A, ConditionalConfig, UNetConfig

__all__ = ["TABLE_A", "Bypassed", "Hidden", "UNet", "UNetConfig", "bypass", "check_fraction"]
Inputs = Float[ArrayLike, "batch _height _width _channel"]
Steps = Num[ArrayLike, " batch"]
Labels = Num[ArrayLike, "batch ..."] | None
Texts = Float[ArrayLike, "batch _token _feature"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hidden:
    """The state of a forward pass at a level: all that the rest of the network needs.

    z: the activation [batch, height, width, channel]; skips: the encoder's outputs kept for the decoder, in the
    order they were made; emb: the time embedding [batch, time_channel]; t: the step; keys: dropout's, None outside
    training; context: the text [batch, token, feature], None where there is none. `dataclasses.replace(hidden, z=..., skips=other.skips)` holds or replaces any of them.
    """

    z: Images
    skips: tuple[Images, ...]
    emb: Float[Array, "batch time_channel"]
    level: int = dataclasses.field(metadata={"static": True})
    t: Num[Array, " batch"]
    keys: Keys = None
    context: Context = None


@register_model("unet", UNetConfig)
class UNet(nnx.Module):
    """eps, v or x0 as a function of the noisy image and the integer step (Ho et al. 2020; Table A of the paper).

    `remat = True` keeps the input of each block alone for the backward pass, which computes the rest again.
    Raises ValueError where the groups or the heads do not divide a level's channels.
    """

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.config, self.remat = config, False
        self.conv_in = Conv(config.in_channels, widths[0], rngs)
        self.time_proj = _projection(config, rngs)
        features = widths[0] * (2 if config.time_embedding_type == "fourier" else 1)
        self.time_embedding = TimeEmbedding(features, config.time_channels, rngs)
        self.class_embedding = _class_embedding(config, features, rngs)
        levels = range(1, config.depth + 1)
        self.down_blocks = nnx.List(
            [DownBlock(widths[max(a - 2, 0)], a, config, rngs) for a in levels]
        )
        self.mid_block = MidBlock(config, rngs) if config.mid_block else None
        self.up_blocks = nnx.List([UpBlock(a, config, rngs) for a in reversed(levels)])
        self.conv_norm_out = GroupNorm(widths[0], config.norm_num_groups, config.norm_eps)
        self.conv_out = Conv(widths[0], config.out_channels, rngs)

    def __call__(
        self, xt: Inputs, t: Steps, labels: Labels = None, keys: Keys = None, context: Texts = None
    ) -> Images:
        """xt float [batch, height, width, channel], t int [batch] in 0..T-1 -> float, out_channels channels.

        labels [batch] where the U-Net has classes, context [batch, token, feature] where it is conditional; keys, one
        typed key a sample, turn dropout on. Raises ValueError where labels or context are missing, or given to a U-Net
        that takes none.
        """
        return self.decode(self.encode(xt, t, 0, labels, keys, context))

    def encode(
        self,
        xt: Inputs,
        t: Steps,
        level: int,
        labels: Labels = None,
        keys: Keys = None,
        context: Texts = None,
    ) -> Hidden:
        """The state at `level` 0..n+1. Raises ValueError for another level."""
        n = self.config.depth
        if not 0 <= level <= n + 1:
            raise ValueError(
                f"level {level} does not exist; this U-Net has levels 0 (pixels) to {n + 1} (mid-block output)"
            )
        if (context is not None) != isinstance(self.config, ConditionalConfig):
            raise ValueError(
                "this U-Net takes no context"
                if context is not None
                else "this U-Net needs a context: text"
            )
        xt, t = jnp.asarray(xt), jnp.asarray(t)
        text = None if context is None else jnp.asarray(context)
        hidden = Hidden(xt, (), self._embed(t, labels, xt.dtype), 0, t, keys, text)
        for _ in range(level):
            hidden = self.advance(hidden)
        return hidden

    def advance(self, hidden: Hidden) -> Hidden:
        """The next level: a down block, and from level n the mid-block. Raises ValueError at level n + 1."""
        return self._down(hidden) if hidden.level < self.config.depth else self.bottleneck(hidden)

    def bottleneck(self, hidden: Hidden) -> Hidden:
        """Level n to level n + 1: the mid-block (nothing, where the U-Net has none). Raises ValueError for another level."""
        n = self.config.depth
        if hidden.level != n:
            raise ValueError(f"the mid-block takes level {n}, not level {hidden.level}")
        keys = fold(hidden.keys, n + 1)
        z = hidden.z
        if self.mid_block is not None:
            z = self._through(self.mid_block, z, hidden.emb, keys, hidden.context)
        return dataclasses.replace(hidden, z=z, level=n + 1)

    def decode(self, hidden: Hidden) -> Images:
        """The network's output from any level: the down blocks that remain, the mid-block, the up blocks."""
        n, per_block = self.config.depth, self.config.layers_per_block + 1
        while hidden.level <= n:
            hidden = self.advance(hidden)
        z, skips = hidden.z, hidden.skips
        for i, block in enumerate(self.up_blocks):
            keys = fold(hidden.keys, n + 2 + i)
            z = self._through(block, z, skips[-per_block:], hidden.emb, keys, hidden.context)
            skips = skips[:-per_block]
        z = self.conv_out(nnx.silu(self.conv_norm_out(z)))
        if (
            self.config.time_embedding_type == "fourier"
        ):  # t is then the noise's standard deviation: z is a score
            z = z / hidden.t.astype(z.dtype)[:, None, None, None]
        return z

    def _down(self, hidden: Hidden) -> Hidden:
        z, skips, level = hidden.z, hidden.skips, hidden.level
        if level == 0:
            z = self.conv_in(2.0 * z - 1.0 if self.config.center_input_sample else z)
            skips = (z,)
        keys = fold(hidden.keys, level + 1)
        outputs = self._through(self.down_blocks[level], z, hidden.emb, keys, hidden.context)
        return dataclasses.replace(hidden, z=outputs[-1], skips=skips + outputs, level=level + 1)

    def _through(self, block: nnx.Module, *inputs: Any) -> Any:
        return nnx.remat(type(block).__call__)(block, *inputs) if self.remat else block(*inputs)

    def _features(self, t: Num[Array, " batch"]) -> Float[Array, "batch _feature"]:
        c = self.config
        if self.time_proj is not None:
            return self.time_proj(t)
        return timestep_features(t, c.block_out_channels[0], c.flip_sin_to_cos, c.freq_shift)

    def _embed(
        self, t: Num[Array, " batch"], labels: Labels, dtype: jnp.dtype
    ) -> Float[Array, "batch time_channel"]:
        c = self.config
        emb = self.time_embedding(self._features(t).astype(dtype))
        if (labels is not None) != c.has_classes:
            raise ValueError(
                "this U-Net has classes: give labels, one a sample"
                if c.has_classes
                else "this U-Net takes no labels"
            )
        if labels is None:
            return emb
        given = jnp.asarray(labels)
        if c.class_embed_type == "timestep":
            given = self._features(given).astype(dtype)
        return emb + (
            given if self.class_embedding is None else self.class_embedding(given)
        ).astype(dtype)


def _projection(config: UNetConfig, rngs: nnx.Rngs) -> nnx.Module | None:
    """The features of the step that have weights; sinusoidal ones have none."""
    channels = config.block_out_channels[0]
    if config.time_embedding_type == "fourier":
        return FourierFeatures(channels, rngs)
    if config.num_train_timesteps and config.time_embedding_type == "learned":
        return Embedding(config.num_train_timesteps, channels, rngs)
    return None


def _class_embedding(config: UNetConfig, features: int, rngs: nnx.Rngs) -> nnx.Module | None:
    """What turns a label into an embedding; none where there are no classes, or labels are embeddings already."""
    if config.class_embed_type == "timestep":
        return TimeEmbedding(features, config.time_channels, rngs)
    if config.class_embed_type is None and config.num_class_embeds is not None:
        return Embedding(config.num_class_embeds, config.time_channels, rngs)
    return None


Form = Literal["blend", "channels", "elements"]


def bypass(
    bottleneck: Callable[[Hidden], Hidden],
    p: Float[ArrayLike, "*batch"],
    form: Form = "blend",
    key: Key[Array, ""] | None = None,
) -> Callable[[Hidden], Hidden]:
    """A bottleneck of which the fraction p (0..1; one, or one a sample) passes its input on: the paper's "bypassing of the mid-block".

    The paper does not say which fraction. "blend": (1 - p) output + p input. "channels", "elements": a share p of the
    channels, or of all elements, chosen once by `key` (nested: what is passed on at a small p is at a larger one), is
    the input, the rest the output. p may be traced. `unet.decode(bypass(unet.bottleneck, 0.5)(unet.encode(xt, t, n)))`.
    """

    def wrapped(hidden: Hidden) -> Hidden:
        after, z = bottleneck(hidden), hidden.z
        share = jnp.asarray(p, jnp.promote_types(z.dtype, jnp.float32)).reshape(
            (-1,) + (1,) * (z.ndim - 1)
        )
        if form == "blend":
            share = share.astype(z.dtype)
            return dataclasses.replace(after, z=(1.0 - share) * after.z + share * z)
        shape = z.shape[-1:] if form == "channels" else z.shape[1:]
        order = jax.random.permutation(jax.random.key(0) if key is None else key, math.prod(shape))
        order = order.reshape((1,) * (z.ndim - len(shape)) + shape)
        passed = order < jnp.round(share * math.prod(shape))
        return dataclasses.replace(after, z=jnp.where(passed, z, after.z))

    return wrapped


def check_fraction(fraction: float | int) -> None:
    """Raise ValueError unless it is from 0 to 1."""
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"a fraction of {fraction} was to be bypassed; it goes from 0 to 1")


class Bypassed(nnx.Module):
    """A U-Net of which a fraction of the mid-block is bypassed in a window of the denoising steps; it is called as the U-Net is.

    fraction 0..1 is a parameter, so that one compiled program serves all. window: the part of the chain, from 0 (noise,
    t = T - 1) to 1 (t = 0), in which it is bypassed; ramp: over so much of the chain, inside the window, the fraction rises
    at its beginning and falls at its end. Raises ValueError for a fraction or a window that is none, and where the U-Net
    has no mid-block.
    """

    def __init__(
        self, unet: UNet, fraction: float | int, steps: int, *, form: Form = "blend",
        window: tuple[float | int, float | int] = (0.0, 1.0), ramp: float | int = 0.0,
    ):  # fmt: skip
        check_fraction(fraction)
        if (
            not 0.0 <= window[0] < window[1] <= 1.0
            or not 0.0 <= ramp <= (window[1] - window[0]) / 2
        ):
            raise ValueError(
                f"the window is {window}, its ramp {ramp}; a part of 0 to 1 and a ramp of 0 to half of it are expected"
            )
        if unet.mid_block is None:
            raise ValueError(
                "this U-Net has no mid-block (mid_block_type null), so that none can be bypassed"
            )
        self.unet, self.fraction = unet, nnx.Param(jnp.float32(fraction))
        self.steps, self.form, self.window, self.ramp = steps, form, window, ramp

    @property
    def config(self) -> UNetConfig:
        return self.unet.config

    def share(self, t: Num[Array, " batch"]) -> Float[Array, " batch"]:
        """The fraction that is bypassed at t."""
        done = 1.0 - t.astype(jnp.float32) / (self.steps - 1)
        inside = jnp.minimum(done - self.window[0], self.window[1] - done)
        return self.fraction[...] * jnp.clip(
            inside / self.ramp if self.ramp else jnp.where(inside >= 0, 1.0, 0.0), 0.0, 1.0
        )

    def __call__(
        self, xt: Inputs, t: Steps, labels: Labels = None, keys: Keys = None, context: Texts = None
    ) -> Images:
        t = jnp.asarray(t)
        hidden = self.unet.encode(xt, t, self.unet.config.depth, labels, keys, context)
        return self.unet.decode(bypass(self.unet.bottleneck, self.share(t), self.form)(hidden))
