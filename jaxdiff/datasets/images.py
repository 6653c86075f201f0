"""Conversion of images between uint8 and the range [-1, 1] of the networks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt8

from jaxdiff.datasets.image_io import pad_or_resize

__all__ = ["pad_or_resize", "tile_images", "to_float", "to_uint8"]


def to_uint8(images: Float[ArrayLike, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """From [-1, 1] to 0..255, rounded; values outside are clipped."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def to_float(images: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """From 0..255 to float32 in [-1, 1], under jit too."""
    return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0


def tile_images(images: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "H W c"]:
    """All images in one, as near to a square as they fit, with a black pixel between them."""
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)  # rounded up
    padded = np.pad(images, ((0, rows * columns - count), (0, 1), (0, 1), (0, 0)))
    tiles = padded.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    return tiles.reshape(rows * (height + 1), columns * (width + 1), channels)
