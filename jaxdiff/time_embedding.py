"""Embeddings of the timestep, with the mathematics and the names of diffusers' UNet2DModel."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from jaxdiff.layers import Linear

FOURIER_SCALE = 16.0  # standard deviation of the frequencies of Song et al. 2021


def timestep_features(
    t: Num[Array, " batch"], channels: int, cos_first: bool = True, shift: float = 0.0
) -> Float[Array, "batch channel"]:
    """Sinusoidal features of the timestep.

    Parameters
    ----------
    t
        Timesteps [batch].
    channels
        Number of features; an odd number ends with a zero.
    cos_first
        [cos | sin], else [sin | cos].
    shift
        The frequencies fall from 1 to 1 / 10000 over ``channels // 2 - shift`` entries.
    """
    # The positional encoding of Vaswani et al. 2017, as Ho et al. 2020 use it for the timestep.
    half = channels // 2
    exponents = -math.log(10_000.0) * jnp.arange(half, dtype=jnp.float32) / (half - shift)
    frequencies = jnp.exp(exponents)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    waves = [jnp.cos(angles), jnp.sin(angles)]
    features = jnp.concatenate(waves if cos_first else waves[::-1], axis=-1)
    return jnp.pad(features, ((0, 0), (0, channels % 2)))


class FourierFeatures(nnx.Module):
    """[sin | cos] of 2 pi w log(t) for fixed Gaussian frequencies w (Song et al. 2021)."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        frequencies = jax.random.normal(rngs.params(), (features,), jnp.float32)
        self.weight = nnx.Param(FOURIER_SCALE * frequencies)

    def __call__(self, t: Num[Array, " batch"]) -> Float[Array, "batch _feature"]:
        # A parameter, so that it is saved, but not a trained one.
        frequencies = jax.lax.stop_gradient(self.weight[...])
        log_t = jnp.log(t.astype(jnp.float32))
        angles = log_t[:, None] * frequencies[None] * (2.0 * jnp.pi)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nnx.Module):
    """Two linear layers on the features of the timestep."""

    def __init__(self, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.linear_1 = Linear(in_channels, out_channels, rngs)
        self.linear_2 = Linear(out_channels, out_channels, rngs)

    def __call__(
        self, features: Float[Array, "batch _channel"]
    ) -> Float[Array, "batch time_channel"]:
        return self.linear_2(nnx.silu(self.linear_1(features)))
