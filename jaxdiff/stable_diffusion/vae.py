"""The autoencoder between images and latents (Rombach et al. 2022).

The mathematics and the names are those of diffusers' AutoencoderKL.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Key

from jaxdiff import rng
from jaxdiff.blocks import DownBlock, MidBlock
from jaxdiff.layers import Conv, GroupNorm, Images, Keys, ResnetBlock, Upsample
from jaxdiff.unet_config import UNetConfig


@dataclasses.dataclass(frozen=True)
class VAEConfig(UNetConfig):
    """The shape of an autoencoder: its blocks are a U-Net's without time and skips.

    Parameters
    ----------
    latent_channels
        Channels of the latents.
    scaling_factor
        Latents are multiplied by it, which makes their variance about 1.
    """

    latent_channels: int = 4
    scaling_factor: float = 0.18215

    @property
    def time_channels(self) -> None:  # type: ignore[override]
        """None: the blocks have no time embedding."""

    @property
    def factor(self) -> int:
        """Ratio of an image's side to its latents'."""
        return 2 ** (self.depth - 1)


class Encoder(nnx.Module):
    """Images to the mean and the log variance of their latents."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.conv_in = Conv(config.in_channels, widths[0], rngs)
        levels = range(1, config.depth + 1)
        self.down_blocks = nnx.List(
            [DownBlock(widths[max(a - 2, 0)], a, config, rngs) for a in levels]
        )
        self.mid_block = MidBlock(config, rngs)
        self.conv_norm_out = GroupNorm(widths[-1], config.norm_num_groups, config.norm_eps)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, rngs)

    def __call__(self, x: Images) -> Images:
        z = self.conv_in(x)
        for block in self.down_blocks:
            # A block returns its skips too, of which the last is its output.
            z = block(z, None)[-1]
        z = self.mid_block(z, None)
        return self.conv_out(nnx.silu(self.conv_norm_out(z)))


class UpBlock(nnx.Module):
    """ResNet blocks, then an up-sampling except at level 1."""

    def __init__(self, level: int, config: VAEConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        channels = widths[level - 1]
        # The first block takes the level below, or the mid-block at the innermost level.
        in_channels = [widths[min(level, config.depth - 1)]]
        in_channels += [channels] * config.layers_per_block
        self.resnets = nnx.List([_build_resnet(c, channels, config, rngs) for c in in_channels])
        self.upsamplers = nnx.List([Upsample(channels, rngs)] if level > 1 else [])

    def __call__(self, z: Images) -> Images:
        for resnet in self.resnets:
            z = resnet(z, None)
        for upsample in self.upsamplers:
            z = upsample(z)
        return z


def _build_resnet(
    in_channels: int, out_channels: int, config: VAEConfig, rngs: nnx.Rngs
) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        rngs,
        time_channels=None,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        act_fn=config.act_fn,
    )


class Decoder(nnx.Module):
    """Latents to images."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs):
        widths = config.block_out_channels
        self.conv_in = Conv(config.latent_channels, widths[-1], rngs)
        self.mid_block = MidBlock(config, rngs)
        self.up_blocks = nnx.List([UpBlock(a, config, rngs) for a in range(config.depth, 0, -1)])
        self.conv_norm_out = GroupNorm(widths[0], config.norm_num_groups, config.norm_eps)
        self.conv_out = Conv(widths[0], config.out_channels, rngs)

    def __call__(self, z: Images) -> Images:
        z = self.mid_block(self.conv_in(z), None)
        for block in self.up_blocks:
            z = block(z)
        return self.conv_out(nnx.silu(self.conv_norm_out(z)))


class VAE(nnx.Module):
    """Images float [batch, height, width, 3] in [-1, 1] to latents, and back.

    Latents are scaled as the U-Net takes them.
    """

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs):
        latents = config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)
        self.quant_conv = Conv(2 * latents, 2 * latents, rngs, size=1)
        self.post_quant_conv = Conv(latents, latents, rngs, size=1)

    def encode(self, images: Float[ArrayLike, "batch h w c"], keys: Keys = None) -> Images:
        """The means of the latents; or, with one typed key an image, one draw of each."""
        moments = self.quant_conv(self.encoder(jnp.asarray(images)))
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if keys is None:
            return mean * self.config.scaling_factor

        def draw(key: Key[Array, ""]) -> Array:
            return rng.normal(key, mean.shape[1:], mean.dtype)

        # The bounds are AutoencoderKL's.
        std = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
        return (mean + std * jax.vmap(draw)(keys)) * self.config.scaling_factor

    def decode(self, latents: Float[ArrayLike, "batch h w c"]) -> Images:
        """The images, not clipped."""
        unscaled = jnp.asarray(latents) / self.config.scaling_factor
        return self.decoder(self.post_quant_conv(unscaled))

    def __call__(self, latents: Float[Array, "batch h w c"]) -> Images:
        # The direction that `as_function` takes: pipelines decode, and never encode.
        return self.decode(latents)
