"""A U-Net with a part of its mid-block bypassed: the paper's bypassing of the mid-block."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Key, Num

from jaxdiff.layers import Keys
from jaxdiff.ops.arrays import Images
from jaxdiff.unet import Hidden, ImagesLike, Labels, NoiseSteps, Texts, UNet
from jaxdiff.unet_config import UNetConfig

Form = Literal["blend", "channels", "elements"]


def bypass(
    bottleneck: Callable[[Hidden], Hidden],
    p: Float[ArrayLike, "*batch"],
    form: Form = "blend",
    key: Key[Array, ""] | None = None,
) -> Callable[[Hidden], Hidden]:
    """A bottleneck that passes the fraction p of its input on.

    ``unet.decode(bypass(unet.bottleneck, 0.5)(unet.encode(xt, t, n)))``

    Parameters
    ----------
    bottleneck
        `UNet.bottleneck`, level n to level n + 1.
    p
        The bypassed fraction, 0 to 1; a single one or one a sample. It may be traced.
    form
        What a fraction is, which the paper does not say. "blend": (1 - p) output + p input.
        "channels", "elements": a share p of the channels, or of all elements, is the input, and
        the rest is the output.
    key
        Selects the channels or elements. The selection is nested: what is passed on at a small p
        is also passed on at a larger p.
    """

    def bypassed_bottleneck(hidden: Hidden) -> Hidden:
        after = bottleneck(hidden)
        z = hidden.z
        # float32 at least, for the count of passed elements; bfloat16 has whole numbers to 256.
        dtype = jnp.promote_types(z.dtype, jnp.float32)
        fraction = jnp.asarray(p, dtype).reshape((-1,) + (1,) * (z.ndim - 1))
        if form == "blend":
            fraction = fraction.astype(z.dtype)
            return dataclasses.replace(after, z=(1.0 - fraction) * after.z + fraction * z)
        shape = z.shape[-1:] if form == "channels" else z.shape[1:]
        mask = _select(fraction, shape, z.ndim, key)
        return dataclasses.replace(after, z=jnp.where(mask, z, after.z))

    return bypassed_bottleneck


def _select(
    fraction: Array, shape: tuple[int, ...], ndim: int, key: Key[Array, ""] | None
) -> Array:
    """A mask of `ndim` axes that has a fraction of the elements of its last axes, `shape`."""
    size = math.prod(shape)
    # Ranks below the count are passed on, which nests the selections of all p under one key.
    # Without a key the selection is the same one at all timesteps.
    ranks = jax.random.permutation(jax.random.key(0) if key is None else key, size)
    ranks = ranks.reshape((1,) * (ndim - len(shape)) + shape)
    return ranks < jnp.round(fraction * size)


def check_fraction(fraction: float | int) -> None:
    """Raise ValueError unless a bypassed fraction is from 0 to 1."""
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"a fraction of {fraction} was to be bypassed; it goes from 0 to 1")


class BypassedUNet(nnx.Module):
    """A U-Net with its mid-block bypassed in a window of the denoising steps.

    It is called as the U-Net is. The fraction is a parameter, so that one compiled program serves
    all fractions.

    Parameters
    ----------
    unet
        A U-Net with a mid-block.
    fraction
        The bypassed fraction, 0 to 1.
    steps
        Number of timesteps T of the schedule.
    form
        What a fraction is (see `bypass`).
    window
        Part of the chain in which the mid-block is bypassed, from 0 (noise, t = T - 1) to 1
        (t = 0).
    ramp
        Part of the chain, inside the window, over which the fraction rises at the beginning and
        falls at the end.

    Raises
    ------
    ValueError
        For a fraction or window out of range, and where the U-Net has no mid-block.
    """

    def __init__(
        self,
        unet: UNet,
        fraction: float | int,
        steps: int,
        *,
        form: Form = "blend",
        window: tuple[float | int, float | int] = (0.0, 1.0),
        ramp: float | int = 0.0,
    ):
        check_fraction(fraction)
        start, end = window
        if not 0.0 <= start < end <= 1.0 or not 0.0 <= ramp <= (end - start) / 2:
            raise ValueError(
                f"the window is {window}, its ramp {ramp}; a part of 0 to 1 and a ramp of 0 to "
                "half of it are expected"
            )
        if getattr(unet, "mid_block", None) is None:
            raise ValueError(
                "this network has no mid-block that could be bypassed (a U-Net's config then has "
                "mid_block_type null)"
            )
        self.unet = unet
        self.fraction = nnx.Param(jnp.float32(fraction))
        self.steps = steps
        self.form = form
        self.window = window
        self.ramp = ramp

    @property
    def config(self) -> UNetConfig:
        """The U-Net's config."""
        return self.unet.config

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that the U-Net was made for."""
        return self.unet.input_shape

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the U-Net's labels."""
        return self.unet.num_classes

    def fraction_at(self, t: Num[Array, " batch"]) -> Float[Array, " batch"]:
        """The fraction that is bypassed at each timestep."""
        start, end = self.window
        # Position in the chain, from 0 at t = T - 1 to 1 at t = 0.
        position = 1.0 - t.astype(jnp.float32) / (self.steps - 1)
        # A trapezoid: the distance to the window's nearer end over the ramp, at most 1.
        inside = jnp.minimum(position - start, end - position)
        ramp = inside / self.ramp if self.ramp else jnp.where(inside >= 0, 1.0, 0.0)
        return self.fraction[...] * jnp.clip(ramp, 0.0, 1.0)

    def __call__(
        self,
        xt: ImagesLike,
        t: NoiseSteps,
        labels: Labels = None,
        keys: Keys = None,
        context: Texts = None,
    ) -> Images:
        """The U-Net's output, with the mid-block bypassed (see `UNet.__call__`)."""
        t = jnp.asarray(t)
        hidden = self.unet.encode(xt, t, self.unet.config.depth, labels, keys, context)
        bottleneck = bypass(self.unet.bottleneck, self.fraction_at(t), self.form)
        return self.unet.decode(bottleneck(hidden))
