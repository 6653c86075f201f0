"""The U-Net: diffusers' UNet2DModel in Flax NNX, entered and left at any level, and the paper's Table A.

Levels: a = 0 is the noisy image before conv_in; a = 1..n is the output of the a-th down block, its
down-sampling included; level n enters the mid-block and level n + 1 is the mid-block's output.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.layers import (
    Attention,
    Conv,
    Downsample,
    GroupNorm,
    Images,
    ResnetBlock,
    TimeEmbedding,
    Upsample,
    timestep_features,
)

Params = dict[str, Array]
M = TypeVar("M", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net. Everything a depth study varies is here.

    block_out_channels: channels of each level, from the image inward; their number is the depth n.
    attention: the levels (1..n) whose down blocks have attention after each ResNet block; up blocks mirror them.
    norm_num_groups: groups of every group norm; must divide every entry of block_out_channels.
    """

    block_out_channels: tuple[int, ...]
    attention: tuple[int, ...] = ()
    layers_per_block: int = 2
    norm_num_groups: int = 32
    attention_head_dim: int = 8
    in_channels: int = 3
    out_channels: int = 3
    norm_eps: float = 1e-5

    @property
    def depth(self) -> int:
        return len(self.block_out_channels)

    def widened(self, multiplier: float) -> "UNetConfig":
        """The same U-Net with `multiplier` times the channels and the groups, so that channels a group stay.

        Raises ValueError where a level's channels or the groups would not be whole numbers.
        """
        scaled = [multiplier * c for c in (*self.block_out_channels, self.norm_num_groups)]
        if min(scaled) < 1 or any(c != int(c) for c in scaled):
            raise ValueError(
                f"width {multiplier:g} gives channels and groups {[f'{c:g}' for c in scaled]} "
                f"from {[*self.block_out_channels, self.norm_num_groups]}; choose a multiplier that keeps them whole"
            )
        channels = tuple(int(c) for c in scaled[:-1])
        return dataclasses.replace(self, block_out_channels=channels, norm_num_groups=int(scaled[-1]))

    def check_image_size(self, size: int) -> None:
        """Raise ValueError unless an image of size x size pixels can be halved n - 1 times."""
        factor = 2 ** (self.depth - 1)
        if size < factor or size % factor:
            near = max(factor, factor * round(size / factor))
            raise ValueError(
                f"an image of {size} px cannot be halved {self.depth - 1} times, as depth {self.depth} does; "
                f"use a multiple of {factor} (say {near}) or a shallower model"
            )


# Table A of the paper. The row "4" is printed with up blocks (Up, Up, AttnUp, Up), which do not give its printed
# count; 3,859,203 needs (Up, AttnUp, Up, Up), the mirror of its encoder, and that is what stands here.
TABLE_A: dict[str, UNetConfig] = {
    # name                     channels of the levels              attention      parameters
    "2":       UNetConfig((32, 64),                           attention=(2,)),  # 1,002,883
    "2-large": UNetConfig((128, 256),                         attention=(2,)),  # 15,930,883
    "3":       UNetConfig((32, 64, 128),                      attention=(2,)),  # 3,692,867
    "4":       UNetConfig((32, 32, 64, 128),                  attention=(3,)),  # 3,859,203
    "5":       UNetConfig((32, 64, 128, 128, 256),            attention=(4,)),  # 16,887,619
    "6":       UNetConfig((32, 64, 128, 128, 256, 256),       attention=(5,)),  # 27,290,691
}  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hidden:
    """The state of a forward pass at a level: all that the rest of the network needs.

    z: the activation [batch, height, width, channel]; skips: the encoder's outputs kept for the decoder, in the
    order they were made; emb: the time embedding [batch, time_channel].
    """

    z: Images
    skips: tuple[Images, ...]
    emb: Float[Array, "batch time_channel"]
    level: int = dataclasses.field(metadata={"static": True})


class DownBlock(nnx.Module):
    """ResNet blocks, each followed by attention where the level has it, then a down-sampling except at the last level."""

    def __init__(self, in_channels: int, level: int, config: UNetConfig, rngs: nnx.Rngs):
        channels, time_channels = config.block_out_channels[level - 1], 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        inputs = [in_channels] + [channels] * (config.layers_per_block - 1)
        self.resnets = nnx.List([ResnetBlock(c, channels, time_channels, groups, eps, rngs) for c in inputs])
        attend = inputs if level in config.attention else []
        self.attentions = nnx.List([Attention(channels, config.attention_head_dim, groups, eps, rngs) for _ in attend])
        self.downsamplers = nnx.List([Downsample(channels, rngs)] if level < config.depth else [])

    def __call__(self, z: Images, emb: Float[Array, "batch time_channel"]) -> tuple[Images, ...]:
        """Every intermediate output, in order; the last is the block's own."""
        outputs = []
        for i, resnet in enumerate(self.resnets):
            z = resnet(z, emb)
            if self.attentions:
                z = self.attentions[i](z)
            outputs.append(z)
        for downsample in self.downsamplers:
            z = downsample(z)
            outputs.append(z)
        return tuple(outputs)


class MidBlock(nnx.Module):
    """ResNet block, attention, ResNet block."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        channels, time_channels = config.block_out_channels[-1], 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nnx.List([ResnetBlock(channels, channels, time_channels, groups, eps, rngs) for _ in range(2)])
        self.attentions = nnx.List([Attention(channels, config.attention_head_dim, groups, eps, rngs)])

    def __call__(self, z: Images, emb: Float[Array, "batch time_channel"]) -> Images:
        return self.resnets[1](self.attentions[0](self.resnets[0](z, emb)), emb)


class UpBlock(nnx.Module):
    """One ResNet block more than the level's down block, each taking a skip; up-sampling except at level 1."""

    def __init__(self, level: int, config: UNetConfig, rngs: nnx.Rngs):
        widths, time_channels = config.block_out_channels, 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        channels, outer = widths[level - 1], widths[max(level - 2, 0)]
        inner = widths[min(level, config.depth - 1)]
        skips = [channels] * config.layers_per_block + [outer]
        inputs = [inner] + [channels] * config.layers_per_block
        self.resnets = nnx.List(
            [ResnetBlock(c + s, channels, time_channels, groups, eps, rngs) for c, s in zip(inputs, skips, strict=True)]
        )
        attend = inputs if level in config.attention else []
        self.attentions = nnx.List([Attention(channels, config.attention_head_dim, groups, eps, rngs) for _ in attend])
        self.upsamplers = nnx.List([Upsample(channels, rngs)] if level > 1 else [])

    def __call__(self, z: Images, skips: tuple[Images, ...], emb: Float[Array, "batch time_channel"]) -> Images:
        """`skips` are this block's own, in the order the encoder made them; they are taken from the end."""
        for i, resnet in enumerate(self.resnets):
            z = resnet(jnp.concatenate([z, skips[-1 - i]], axis=-1), emb)
            if self.attentions:
                z = self.attentions[i](z)
        for upsample in self.upsamplers:
            z = upsample(z)
        return z


class UNet(nnx.Module):
    """eps, v or x0 as a function of the noisy image and the integer step (Ho et al. 2020; Table A of the paper).

    Raises ValueError where the groups or the heads do not divide a level's channels.
    """

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.config = config
        self.conv_in = Conv(config.in_channels, widths[0], rngs)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0], rngs)
        levels = range(1, config.depth + 1)
        self.down_blocks = nnx.List([DownBlock(widths[max(a - 2, 0)], a, config, rngs) for a in levels])
        self.mid_block = MidBlock(config, rngs)
        self.up_blocks = nnx.List([UpBlock(a, config, rngs) for a in reversed(levels)])
        self.conv_norm_out = GroupNorm(widths[0], config.norm_num_groups, config.norm_eps)
        self.conv_out = Conv(widths[0], config.out_channels, rngs)

    def encode(self, xt: Images, t: Int[Array, " batch"], level: int) -> Hidden:
        """The state at `level` 0..n+1. Raises ValueError for another level."""
        n = self.config.depth
        if not 0 <= level <= n + 1:
            raise ValueError(
                f"level {level} does not exist; this U-Net has levels 0 (pixels) to {n + 1} (mid-block output)"
            )
        features = timestep_features(t, self.config.block_out_channels[0])
        hidden = Hidden(xt, (), self.time_embedding(features.astype(xt.dtype)), 0)
        for _ in range(min(level, n)):
            hidden = self._down(hidden)
        return self.bottleneck(hidden) if level == n + 1 else hidden

    def bottleneck(self, hidden: Hidden) -> Hidden:
        """Level n to level n + 1: the mid-block. Raises ValueError for another level."""
        if hidden.level != self.config.depth:
            raise ValueError(f"the mid-block takes level {self.config.depth}, not level {hidden.level}")
        return dataclasses.replace(hidden, z=self.mid_block(hidden.z, hidden.emb), level=hidden.level + 1)

    def decode(self, hidden: Hidden) -> Images:
        """The network's output from any level: the down blocks that remain, the mid-block, the up blocks."""
        while hidden.level < self.config.depth:
            hidden = self._down(hidden)
        if hidden.level == self.config.depth:
            hidden = self.bottleneck(hidden)
        z, skips, per_block = hidden.z, hidden.skips, self.config.layers_per_block + 1
        for block in self.up_blocks:
            z = block(z, skips[-per_block:], hidden.emb)
            skips = skips[:-per_block]
        return self.conv_out(nnx.silu(self.conv_norm_out(z)))

    def _down(self, hidden: Hidden) -> Hidden:
        z, skips = hidden.z, hidden.skips
        if hidden.level == 0:
            z = self.conv_in(z)
            skips = (z,)
        outputs = self.down_blocks[hidden.level](z, hidden.emb)
        return Hidden(outputs[-1], skips + outputs, hidden.emb, hidden.level + 1)

    def __call__(self, xt: Images, t: Int[Array, " batch"]) -> Images:
        """xt float [batch, height, width, channel], t int [batch] in 0..T-1 -> float, out_channels channels."""
        return self.decode(self.encode(xt, t, level=0))


def parameters(tree: PyTree) -> dict[str, Any]:
    """The arrays of a module (or of its nnx.State; shapes where it is abstract) as a flat dict keyed by diffusers' parameter names."""
    flat = nnx.to_flat_state(nnx.state(tree, nnx.Param) if isinstance(tree, nnx.Module) else tree)
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in flat}


def bind(module: M, params: Params) -> M:
    """The module (it may be abstract) with these parameters. Raises KeyError where one is missing."""
    graphdef, state = nnx.split(module, nnx.Param)
    flat = [(path, nnx.Param(params[".".join(map(str, path))])) for path, _ in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def functional(module: nnx.Module) -> Callable[..., Array]:
    """`apply(params, *inputs)`, a pure function of the flat dict of parameters; `module` may be abstract."""
    return lambda params, *inputs: bind(module, params)(*inputs)


def abstract(config: UNetConfig) -> UNet:
    """The U-Net without its arrays: shapes only, nothing allocated."""
    return nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))


def parameter_count(config: UNetConfig) -> int:
    """The number of trained parameters."""
    return sum(int(p.size) for p in parameters(abstract(config)).values())
