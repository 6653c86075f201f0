"""The autoencoder between images and latents, with the mathematics and the names of diffusers' AutoencoderKL
(Rombach et al. 2022)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from jaxdiff import rng as random
from jaxdiff.blocks import DownBlock, MidBlock
from jaxdiff.layers import Conv, GroupNorm, Images, Keys, ResnetBlock, Upsample
from jaxdiff.unet_config import UNetConfig


@dataclasses.dataclass(frozen=True)
class VAEConfig(UNetConfig):
    """The shape of an autoencoder: its blocks are a U-Net's without time and skips.

    Latents are `latent_channels`, an image's sides divided by `factor`, and multiplied by scaling_factor, which makes their
    variance about 1.
    """

    latent_channels: int = 4
    scaling_factor: float = 0.18215

    @property
    def time_channels(self) -> None:  # type: ignore[override]
        """There is no time."""

    @property
    def factor(self) -> int:
        """Pixels of an image to one of its latents, along each side."""
        return 2 ** (self.depth - 1)


class Encoder(nnx.Module):
    """An image to the mean and the log variance of its latents."""

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
            z = block(z, None)[-1]
        return self.conv_out(nnx.silu(self.conv_norm_out(self.mid_block(z, None))))


class UpBlock(nnx.Module):
    """ResNet blocks, then an up-sampling except at level 1."""

    def __init__(self, level: int, config: VAEConfig, rngs: nnx.Rngs):
        widths, count = config.block_out_channels, config.layers_per_block + 1
        inputs = [widths[min(level, config.depth - 1)]] + [widths[level - 1]] * (count - 1)
        norm: Any = {
            "groups": config.norm_num_groups,
            "eps": config.norm_eps,
            "time_channels": None,
        }
        self.resnets = nnx.List(
            [ResnetBlock(c, widths[level - 1], rngs, act_fn=config.act_fn, **norm) for c in inputs]
        )
        self.upsamplers = nnx.List([Upsample(widths[level - 1], rngs)] if level > 1 else [])

    def __call__(self, z: Images) -> Images:
        for resnet in self.resnets:
            z = resnet(z, None)
        for upsample in self.upsamplers:
            z = upsample(z)
        return z


class Decoder(nnx.Module):
    """Latents to an image."""

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
    """Images float [batch, height, width, 3] in [-1, 1] to latents, scaled as the U-Net takes them, and back."""

    def __init__(self, config: VAEConfig, rngs: nnx.Rngs):
        self.config, latents = config, config.latent_channels
        self.encoder, self.decoder = Encoder(config, rngs), Decoder(config, rngs)
        self.quant_conv = Conv(2 * latents, 2 * latents, rngs, size=1)
        self.post_quant_conv = Conv(latents, latents, rngs, size=1)

    def encode(self, images: Float[ArrayLike, "batch h w c"], keys: Keys = None) -> Images:
        """The means of the latents; or, with one typed key an image, one draw of each."""
        mean, log_variance = jnp.split(
            self.quant_conv(self.encoder(jnp.asarray(images))), 2, axis=-1
        )
        if keys is not None:
            noise = jax.vmap(lambda key: random.normal(key, mean.shape[1:], mean.dtype))(keys)
            mean = mean + jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0)) * noise
        return mean * self.config.scaling_factor

    def decode(self, latents: Float[ArrayLike, "batch h w c"]) -> Images:
        """The images, not clipped."""
        return self.decoder(self.post_quant_conv(jnp.asarray(latents) / self.config.scaling_factor))

    def __call__(self, latents: Float[Array, "batch h w c"]) -> Images:
        return self.decode(latents)
