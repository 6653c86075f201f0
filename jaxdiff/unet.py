"""The U-Net: diffusers' UNet2DModel in Flax NNX, which can be entered and left at any level.

With a ConditionalConfig it is diffusers' UNet2DConditionModel.

Levels: 0 is the noisy image before conv_in; a = 1..n is the output of the a-th down block, its
down-sampling included; level n enters the mid-block, and level n + 1 is the mid-block's output.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Num

from jaxdiff.blocks import Context, DownBlock, MidBlock, UpBlock
from jaxdiff.denoiser import register_model
from jaxdiff.layers import Conv, Embedding, GroupNorm, Keys, fold_in
from jaxdiff.ops.arrays import Images
from jaxdiff.time_embedding import FourierFeatures, TimeEmbedding, timestep_features
from jaxdiff.unet_config import TABLE_A, ConditionalConfig, UNetConfig

__all__ = ["TABLE_A", "Hidden", "UNet", "UNetConfig"]

# What callers may pass: NumPy arrays too.
ImagesLike = Float[ArrayLike, "batch _height _width _channel"]
NoiseSteps = Num[ArrayLike, " batch"]
Labels = Num[ArrayLike, "batch ..."] | None
Texts = Float[ArrayLike, "batch _token _feature"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hidden:
    """The state of a forward pass at a level: all that the rest of the network needs.

    `dataclasses.replace(hidden, z=...)` changes the activation and keeps the skips, or the reverse.

    Parameters
    ----------
    z
        The activation [batch, height, width, channel].
    skips
        The encoder's outputs that the decoder needs, in the encoder's order.
    emb
        The time embedding [batch, time_channel].
    level
        The level of z, 0 to n + 1.
    t
        The timesteps [batch].
    keys
        Dropout's keys [batch]; None outside training.
    context
        The text [batch, token, feature]; None where there is none.
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
    """eps, v or x0 as a function of the noisy image and the timestep.

    ``remat = True`` keeps only the input of each block for the backward pass, which computes the
    rest again.

    Parameters
    ----------
    config
        Its shape.
    rngs
        Source of the initial parameters.

    Raises
    ------
    ValueError
        Where the groups or the heads do not divide a level's channels.

    References
    ----------
    Ho et al. 2020, Denoising diffusion probabilistic models; Table A of the paper.
    """

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.config = config
        self.remat = False
        self.conv_in = Conv(config.in_channels, widths[0], rngs)
        self.time_proj = _build_time_projection(config, rngs)
        # Fourier features are a sine and a cosine of each frequency.
        features = 2 * widths[0] if config.time_embedding_type == "fourier" else widths[0]
        self.time_embedding = TimeEmbedding(features, config.time_channels, rngs)
        self.class_embedding = _build_class_embedding(config, features, rngs)
        self.down_blocks: nnx.List[DownBlock] = nnx.List()
        for level in range(1, config.depth + 1):
            # conv_in gives level 1's channels already.
            in_channels = widths[max(level - 2, 0)]
            self.down_blocks.append(DownBlock(in_channels, level, config, rngs))
        self.mid_block = MidBlock(config, rngs) if config.mid_block else None
        self.up_blocks: nnx.List[UpBlock] = nnx.List()
        for level in range(config.depth, 0, -1):
            self.up_blocks.append(UpBlock(level, config, rngs))
        self.conv_norm_out = GroupNorm(widths[0], config.norm_num_groups, config.norm_eps)
        self.conv_out = Conv(widths[0], config.out_channels, rngs)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that it was made for.

        Raises
        ------
        ValueError
            Where config.sample_size is not set.
        """
        size = self.config.sample_size
        if size is None:
            raise ValueError(
                "config.sample_size must be the image size in pixels where a U-Net is asked for "
                "its input_shape, got None; set it with dataclasses.replace"
            )
        height, width = (size, size) if isinstance(size, int) else size
        return height, width, self.config.in_channels

    @property
    def num_classes(self) -> int | None:
        """Number of classes of its labels; None where it has none or takes embeddings."""
        return self.config.num_class_embeds

    def __call__(
        self,
        xt: ImagesLike,
        t: NoiseSteps,
        labels: Labels = None,
        keys: Keys = None,
        context: Texts = None,
    ) -> Images:
        """The network's output.

        Parameters
        ----------
        xt
            Noisy images, float [batch, height, width, in_channels].
        t
            Timesteps, int [batch], from 0 to T - 1.
        labels
            Class labels [batch], where the U-Net has classes.
        keys
            One typed key a sample, which turn dropout on.
        context
            The text [batch, token, feature], where the U-Net is conditional.

        Returns
        -------
        Array
            Float [batch, height, width, out_channels].

        Raises
        ------
        ValueError
            Where labels or context are missing, or given to a U-Net that takes none.
        """
        return self.decode(self.encode(xt, t, 0, labels, keys, context))

    def encode(
        self,
        xt: ImagesLike,
        t: NoiseSteps,
        level: int,
        labels: Labels = None,
        keys: Keys = None,
        context: Texts = None,
    ) -> Hidden:
        """The state at a level from 0 to n + 1; ValueError for another level."""
        last = self.config.depth + 1
        if not 0 <= level <= last:
            raise ValueError(
                f"level {level} does not exist; this U-Net has levels 0 (pixels) to {last} "
                "(mid-block output)"
            )
        self._check_context(context)
        xt = jnp.asarray(xt)
        t = jnp.asarray(t)
        text = None if context is None else jnp.asarray(context)
        emb = self._embed(t, labels, xt.dtype)
        hidden = Hidden(xt, (), emb, level=0, t=t, keys=keys, context=text)
        for _ in range(level):
            hidden = self.advance(hidden)
        return hidden

    def advance(self, hidden: Hidden) -> Hidden:
        """The state at the next level; ValueError at level n + 1.

        A down block leads to levels 1 to n, the mid-block to level n + 1.
        """
        if hidden.level < self.config.depth:
            return self._run_down_block(hidden)
        return self.bottleneck(hidden)

    def bottleneck(self, hidden: Hidden) -> Hidden:
        """Level n to level n + 1: the mid-block; ValueError for another level.

        Where the U-Net has no mid-block, the activation stays as it is.
        """
        last = self.config.depth  # the last level before the mid-block
        if hidden.level != last:
            raise ValueError(f"the mid-block takes level {last}, not level {hidden.level}")
        keys = fold_in(hidden.keys, last + 1)
        z = hidden.z
        if self.mid_block is not None:
            z = self._run_block(self.mid_block, z, hidden.emb, keys, hidden.context)
        return dataclasses.replace(hidden, z=z, level=last + 1)

    def decode(self, hidden: Hidden) -> Images:
        """The network's output from any level.

        It runs the down blocks that remain, the mid-block and the up blocks.
        """
        depth = self.config.depth
        while hidden.level <= depth:
            hidden = self.advance(hidden)
        z = hidden.z
        skips = hidden.skips
        # A level's are what entered it, then the outputs of its ResNet blocks.
        skips_per_block = self.config.layers_per_block + 1
        for i, block in enumerate(self.up_blocks):
            # Dropout's keys are numbered by block: down 1..n, mid n + 1, up from n + 2.
            keys = fold_in(hidden.keys, depth + 2 + i)
            block_skips = skips[-skips_per_block:]
            z = self._run_block(block, z, block_skips, hidden.emb, keys, hidden.context)
            skips = skips[:-skips_per_block]
        # With one channel a group at level 1 this norm keeps the mean of eps from the output
        # (docs/method.md, Mean-blind output).
        z = self.conv_out(nnx.silu(self.conv_norm_out(z)))
        if self.config.time_embedding_type == "fourier":
            # t is then the noise's standard deviation, and the output a score.
            z = z / hidden.t.astype(z.dtype)[:, None, None, None]
        return z

    def _run_down_block(self, hidden: Hidden) -> Hidden:
        z = hidden.z
        skips = hidden.skips
        level = hidden.level
        if level == 0:
            z = self.conv_in(2.0 * z - 1.0 if self.config.center_input_sample else z)
            skips = (z,)
        keys = fold_in(hidden.keys, level + 1)
        block = self.down_blocks[level]
        outputs = self._run_block(block, z, hidden.emb, keys, hidden.context)
        return dataclasses.replace(hidden, z=outputs[-1], skips=skips + outputs, level=level + 1)

    def _run_block(self, block: nnx.Module, *inputs: Any) -> Any:
        if self.remat:
            # The block is an argument: nnx.remat must see its parameters.
            return nnx.remat(type(block).__call__)(block, *inputs)
        return block(*inputs)

    def _check_context(self, context: Texts) -> None:
        takes_context = isinstance(self.config, ConditionalConfig)
        if context is None and takes_context:
            raise ValueError("this U-Net needs a context: give the text's features")
        if context is not None and not takes_context:
            raise ValueError("this U-Net takes no context; leave it out")

    def _time_features(self, t: Num[Array, " batch"]) -> Float[Array, "batch _feature"]:
        if self.time_proj is not None:
            return self.time_proj(t)
        config = self.config
        channels = config.block_out_channels[0]
        return timestep_features(t, channels, config.flip_sin_to_cos, config.freq_shift)

    def _embed(
        self, t: Num[Array, " batch"], labels: Labels, dtype: jnp.dtype
    ) -> Float[Array, "batch time_channel"]:
        """The embedding of the timestep, with that of the labels added."""
        emb = self.time_embedding(self._time_features(t).astype(dtype))
        has_classes = self.config.has_classes
        if labels is None and has_classes:
            raise ValueError("this U-Net has classes: give labels, one a sample")
        if labels is not None and not has_classes:
            raise ValueError("this U-Net takes no labels; leave them out")
        if labels is None:
            return emb
        # Without a class embedding (class_embed_type identity), labels are embeddings already.
        class_emb = jnp.asarray(labels)
        if self.config.class_embed_type == "timestep":
            class_emb = self._time_features(class_emb).astype(dtype)
        if self.class_embedding is not None:
            class_emb = self.class_embedding(class_emb)
        return emb + class_emb.astype(dtype)


def _build_time_projection(config: UNetConfig, rngs: nnx.Rngs) -> nnx.Module | None:
    """The features of the timestep that have weights; sinusoidal ones have none."""
    channels = config.block_out_channels[0]
    if config.time_embedding_type == "fourier":
        return FourierFeatures(channels, rngs)
    if config.num_train_timesteps and config.time_embedding_type == "learned":
        return Embedding(config.num_train_timesteps, channels, rngs)
    return None


def _build_class_embedding(config: UNetConfig, features: int, rngs: nnx.Rngs) -> nnx.Module | None:
    """What embeds a label; None where there are no classes or labels are embeddings already."""
    if config.class_embed_type == "timestep":
        return TimeEmbedding(features, config.time_channels, rngs)
    if config.class_embed_type is None and config.num_class_embeds is not None:
        return Embedding(config.num_class_embeds, config.time_channels, rngs)
    return None
