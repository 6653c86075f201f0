"""Conversion of images between uint8 and the range [-1, 1] of the networks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt8

from jaxdiff.datasets.image_io import pad_or_resize

__all__ = ["pad_or_resize", "to_float", "to_uint8"]


def to_uint8(images: Float[ArrayLike, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """From [-1, 1] to 0..255, rounded; values outside are clipped."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def to_float(images: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """From 0..255 to float32 in [-1, 1], under jit too."""
    return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0
