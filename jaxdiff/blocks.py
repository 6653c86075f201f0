"""The three kinds of block of a U-Net: down, mid and up, as diffusers' UNet2DModel and UNet2DConditionModel have them.

`context` is the text that a conditional U-Net's attention is given; None in all others.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxdiff.layers import Attention, Downsample, Emb, Images, Keys, ResnetBlock, Upsample, fold
from jaxdiff.transformer import SpatialTransformer, Tokens
from jaxdiff.unet_config import ConditionalConfig, UNetConfig

Context = Tokens | None


def _resnet(
    in_channels: int, out_channels: int, config: UNetConfig, rngs: nnx.Rngs, **more: Any
) -> ResnetBlock:
    return ResnetBlock(
        in_channels, out_channels, config.time_channels, config.norm_num_groups, config.norm_eps, rngs,
        act_fn=config.act_fn, dropout=config.dropout, scale_shift=config.resnet_time_scale_shift == "scale_shift", **more,
    )  # fmt: skip


def _attentions(channels: int, count: int, config: UNetConfig, rngs: nnx.Rngs) -> list[nnx.Module]:
    groups, eps = config.norm_num_groups, config.norm_eps
    if isinstance(config, ConditionalConfig):
        shape = channels, config.context_features, config.heads, groups
        return [SpatialTransformer(*shape, rngs) for _ in range(count)]
    return [Attention(channels, config.attention_head_dim, groups, eps, rngs) for _ in range(count)]


def _attended(attention: nnx.Module, z: Images, context: Context) -> Images:
    return attention(z) if context is None else attention(z, context)


class DownBlock(nnx.Module):
    """ResNet blocks, each followed by attention where the level has it, then a down-sampling except at the last level."""

    def __init__(self, in_channels: int, level: int, config: UNetConfig, rngs: nnx.Rngs):
        channels = config.block_out_channels[level - 1]
        inputs = [in_channels] + [channels] * (config.layers_per_block - 1)
        self.resnets = nnx.List([_resnet(c, channels, config, rngs) for c in inputs])
        attend = len(inputs) if level in config.attention else 0
        self.attentions = nnx.List(_attentions(channels, attend, config, rngs))
        halve: list[nnx.Module] = []
        if level < config.depth and level in config.down_resnet:
            halve = [_resnet(channels, channels, config, rngs, resample="down")]
        elif level < config.depth:
            halve = [Downsample(channels, rngs, config.downsample_padding)]
        self.downsamplers = nnx.List(halve)

    def __call__(
        self, z: Images, emb: Emb, keys: Keys = None, context: Context = None
    ) -> tuple[Images, ...]:
        """Every intermediate output, in order; the last is the block's own."""
        outputs = []
        for i, resnet in enumerate(self.resnets):
            z = resnet(z, emb, fold(keys, i))
            if self.attentions:
                z = _attended(self.attentions[i], z, context)
            outputs.append(z)
        for downsample in self.downsamplers:
            z = _resampled(downsample, z, emb, fold(keys, len(self.resnets)))
            outputs.append(z)
        return tuple(outputs)


class MidBlock(nnx.Module):
    """ResNet block, attention (where the U-Net's mid-block has it), ResNet block."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        channels, scale = config.block_out_channels[-1], config.mid_block_scale_factor
        self.resnets = nnx.List(
            [_resnet(channels, channels, config, rngs, output_scale=scale) for _ in range(2)]
        )
        groups = config.attn_norm_num_groups
        if groups is None and config.resnet_time_scale_shift == "default":
            groups = config.norm_num_groups
        head_dim, eps = config.attention_head_dim, config.norm_eps
        attend: list[nnx.Module] = []
        if isinstance(config, ConditionalConfig):
            attend = _attentions(channels, 1, config, rngs)
        elif config.add_attention:
            attend = [Attention(channels, head_dim, groups, eps, rngs, output_scale=scale)]
        self.attentions = nnx.List(attend)

    def __call__(self, z: Images, emb: Emb, keys: Keys = None, context: Context = None) -> Images:
        z = self.resnets[0](z, emb, fold(keys, 0))
        for attention in self.attentions:
            z = _attended(attention, z, context)
        return self.resnets[1](z, emb, fold(keys, 1))


class UpBlock(nnx.Module):
    """One ResNet block more than the level's down block, each taking a skip; up-sampling except at level 1."""

    def __init__(self, level: int, config: UNetConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        channels, outer = widths[level - 1], widths[max(level - 2, 0)]
        inner = widths[min(level, config.depth - 1)]
        skips = [channels] * config.layers_per_block + [outer]
        inputs = [inner] + [channels] * config.layers_per_block
        self.resnets = nnx.List(
            [_resnet(c + s, channels, config, rngs) for c, s in zip(inputs, skips, strict=True)]
        )
        levels = config.attention if config.up_attention is None else config.up_attention
        self.attentions = nnx.List(
            _attentions(channels, len(inputs) if level in levels else 0, config, rngs)
        )
        double: list[nnx.Module] = []
        if level > 1 and level in config.up_resnet:
            double = [_resnet(channels, channels, config, rngs, resample="up")]
        elif level > 1:
            double = [Upsample(channels, rngs)]
        self.upsamplers = nnx.List(double)

    def __call__(
        self,
        z: Images,
        skips: tuple[Images, ...],
        emb: Emb,
        keys: Keys = None,
        context: Context = None,
    ) -> Images:
        """`skips` are this block's own, in the order the encoder made them; they are taken from the end."""
        for i, resnet in enumerate(self.resnets):
            z = resnet(jnp.concatenate([z, skips[-1 - i]], axis=-1), emb, fold(keys, i))
            if self.attentions:
                z = _attended(self.attentions[i], z, context)
        for upsample in self.upsamplers:
            z = _resampled(upsample, z, emb, fold(keys, len(self.resnets)))
        return z


def _resampled(module: nnx.Module, z: Images, emb: Emb, keys: Keys) -> Images:
    """Through a convolution that resamples, or through a ResNet block that does, which sees the time."""
    return module(z, emb, keys) if isinstance(module, ResnetBlock) else module(z)
