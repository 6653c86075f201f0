"""Images as arrays: uint8 [n, height, width, channel], converted to a study's size and channels."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt8
from PIL import Image

Images8 = UInt8[np.ndarray, "n _height _width _channel"]


def to_uint8(images: Float[ArrayLike, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """From [-1, 1] to 0..255, rounded; what lies outside is clipped."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def to_float(images: UInt8[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """From 0..255 to float32 in [-1, 1], under jit too."""
    return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0


def to_size(images: Images8, size: int, channels: int) -> Images8:
    """Square images of `size` pixels with 1 (grey) or 3 (RGB) channels.

    Images that are at most an eighth smaller are padded with black, as MNIST's 28 px are to 32; others are resized
    with an anti-aliased bilinear filter.
    """
    height, width = images.shape[1:3]
    if images.shape[-1] != channels:
        grey = images.mean(axis=-1, keepdims=True).round().astype(np.uint8)
        images = grey if channels == 1 else np.repeat(grey, channels, axis=-1)
    if (height, width) == (size, size):
        return images
    if height == width and size * 7 // 8 <= height < size:
        low = (size - height) // 2
        return np.pad(
            images, ((0, 0), (low, size - height - low), (low, size - height - low), (0, 0))
        )
    resized = [
        np.asarray(
            Image.fromarray(image.squeeze(-1) if channels == 1 else image).resize(
                (size, size), Image.Resampling.BILINEAR
            )
        )
        for image in images
    ]
    return np.stack(resized).reshape(-1, size, size, channels)
