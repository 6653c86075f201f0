"""Down, mid and up blocks of a U-Net.

They are those of diffusers' UNet2DModel and, where a block is given a context (the text that a
conditional U-Net attends to), of its UNet2DConditionModel.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxdiff.layers import Attention, Downsample, Emb, Keys, ResnetBlock, Upsample, fold_in
from jaxdiff.ops.arrays import Images
from jaxdiff.transformer import SpatialTransformer, Tokens
from jaxdiff.unet_config import ConditionalConfig, UNetConfig

Context = Tokens | None


class DownBlock(nnx.Module):
    """ResNet blocks, each followed by attention where the level has it, then down-sampling.

    The last level is not down-sampled.
    """

    def __init__(self, in_channels: int, level: int, config: UNetConfig, rngs: nnx.Rngs):
        channels = config.block_out_channels[level - 1]
        # The first ResNet block changes the channels, the others keep them.
        inputs = [in_channels] + [channels] * (config.layers_per_block - 1)
        self.resnets = nnx.List([_build_resnet(c, channels, config, rngs) for c in inputs])
        num_attentions = len(inputs) if level in config.attention else 0
        self.attentions = nnx.List(_build_attentions(channels, num_attentions, config, rngs))
        self.downsamplers: nnx.List[nnx.Module] = nnx.List()
        if level < config.depth and level in config.down_resnet:
            self.downsamplers.append(
                _build_resnet(channels, channels, config, rngs, resample="down")
            )
        elif level < config.depth:
            self.downsamplers.append(Downsample(channels, rngs, config.downsample_padding))

    def __call__(
        self, z: Images, emb: Emb, keys: Keys = None, context: Context = None
    ) -> tuple[Images, ...]:
        """Every intermediate output, in order; the last is the block's output."""
        outputs = []
        for i, resnet in enumerate(self.resnets):
            z = resnet(z, emb, fold_in(keys, i))
            if self.attentions:
                z = _attend(self.attentions[i], z, context)
            outputs.append(z)
        for downsample in self.downsamplers:
            z = _resample(downsample, z, emb, fold_in(keys, len(self.resnets)))
            outputs.append(z)
        return tuple(outputs)


class MidBlock(nnx.Module):
    """ResNet block, attention (where the U-Net's mid-block has it), ResNet block."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        channels = config.block_out_channels[-1]
        scale = config.mid_block_scale_factor
        first = _build_resnet(channels, channels, config, rngs, output_scale=scale)
        second = _build_resnet(channels, channels, config, rngs, output_scale=scale)
        self.resnets = nnx.List([first, second])
        self.attentions: nnx.List[nnx.Module] = nnx.List()
        if isinstance(config, ConditionalConfig):
            self.attentions.extend(_build_attentions(channels, 1, config, rngs))
        elif config.add_attention:
            attention = Attention(
                channels,
                rngs,
                head_dim=config.attention_head_dim,
                groups=_mid_attention_groups(config),
                eps=config.norm_eps,
                output_scale=scale,
            )
            self.attentions.append(attention)

    def __call__(self, z: Images, emb: Emb, keys: Keys = None, context: Context = None) -> Images:
        z = self.resnets[0](z, emb, fold_in(keys, 0))
        for attention in self.attentions:
            z = _attend(attention, z, context)
        return self.resnets[1](z, emb, fold_in(keys, 1))


class UpBlock(nnx.Module):
    """One ResNet block more than the level's down block, each with a skip, then up-sampling.

    Level 1 is not up-sampled.
    """

    def __init__(self, level: int, config: UNetConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        channels = widths[level - 1]
        outer = widths[max(level - 2, 0)]  # of the level above, nearer to the image
        inner = widths[min(level, config.depth - 1)]  # of the level below, or of the mid-block
        # Skips are those of the level's down block, last first; the last up ResNet block gets what
        # entered that level, of the outer level's channels.
        skips = [channels] * config.layers_per_block + [outer]
        inputs = [inner] + [channels] * config.layers_per_block
        self.resnets: nnx.List[ResnetBlock] = nnx.List()
        for input_channels, skip_channels in zip(inputs, skips, strict=True):
            resnet = _build_resnet(input_channels + skip_channels, channels, config, rngs)
            self.resnets.append(resnet)
        levels = config.attention if config.up_attention is None else config.up_attention
        num_attentions = len(inputs) if level in levels else 0
        self.attentions = nnx.List(_build_attentions(channels, num_attentions, config, rngs))
        self.upsamplers: nnx.List[nnx.Module] = nnx.List()
        if level > 1 and level in config.up_resnet:
            self.upsamplers.append(_build_resnet(channels, channels, config, rngs, resample="up"))
        elif level > 1:
            self.upsamplers.append(Upsample(channels, rngs))

    def __call__(
        self,
        z: Images,
        skips: tuple[Images, ...],
        emb: Emb,
        keys: Keys = None,
        context: Context = None,
    ) -> Images:
        """`skips` are those of the level's down block, in its order; the last is used first."""
        for i, resnet in enumerate(self.resnets):
            z = jnp.concatenate([z, skips[-1 - i]], axis=-1)
            z = resnet(z, emb, fold_in(keys, i))
            if self.attentions:
                z = _attend(self.attentions[i], z, context)
        for upsample in self.upsamplers:
            z = _resample(upsample, z, emb, fold_in(keys, len(self.resnets)))
        return z


def _build_resnet(
    in_channels: int, out_channels: int, config: UNetConfig, rngs: nnx.Rngs, **options: Any
) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        rngs,
        time_channels=config.time_channels,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        act_fn=config.act_fn,
        dropout=config.dropout,
        scale_shift=config.resnet_time_scale_shift == "scale_shift",
        **options,
    )


def _build_attentions(
    channels: int, count: int, config: UNetConfig, rngs: nnx.Rngs
) -> list[nnx.Module]:
    return [_build_attention(channels, config, rngs) for _ in range(count)]


def _build_attention(channels: int, config: UNetConfig, rngs: nnx.Rngs) -> nnx.Module:
    groups = config.norm_num_groups
    if isinstance(config, ConditionalConfig):
        return SpatialTransformer(
            channels,
            rngs,
            context_features=config.context_features,
            heads=config.heads,
            groups=groups,
        )
    return Attention(
        channels, rngs, head_dim=config.attention_head_dim, groups=groups, eps=config.norm_eps
    )


def _mid_attention_groups(config: UNetConfig) -> int | None:
    """Groups of the norm of the mid-block's attention; None where it has none."""
    # diffusers leaves the norm out where the time embedding scales and shifts.
    if config.attn_norm_num_groups is not None:
        return config.attn_norm_num_groups
    return config.norm_num_groups if config.resnet_time_scale_shift == "default" else None


def _attend(attention: nnx.Module, z: Images, context: Context) -> Images:
    return attention(z) if context is None else attention(z, context)


def _resample(module: nnx.Module, z: Images, emb: Emb, keys: Keys) -> Images:
    """Through a convolution that resamples, or a ResNet block that does, which sees the time."""
    return module(z, emb, keys) if isinstance(module, ResnetBlock) else module(z)
