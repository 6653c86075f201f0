"""Trained networks that only look: convolutions with folded batch norms, pooling and resizing, on NHWC arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.ops.convolution import convolve

Images = Float[Array, "batch _height _width _channel"]
Params = dict[str, Array]
Window = tuple[int, int]


def conv(
    params: Params, name: str, x: Images, *, stride: int = 1, padding: str | int = "SAME"
) -> Images:
    """A convolution with the kernel `name`.kernel (HWIO) and the bias `name`.bias; depthwise where its I is 1.

    padding: SAME (TensorFlow's), VALID, or pixels on every side.
    """
    kernel, bias = params[f"{name}.kernel"], params[f"{name}.bias"][None, None, None]
    if isinstance(padding, int):
        return convolve(x, kernel, stride, (padding, padding)) + bias
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )  # fmt: skip
    return y + bias


def max_pool(x: Images, size: int, stride: int, padding: str = "VALID") -> Images:
    """The largest value in each window."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), padding
    )


def average_pool(x: Images, size: int) -> Images:
    """The mean of each window at stride 1, over the pixels that exist (padding is not counted)."""
    window = (1, size, size, 1)
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    count = jax.lax.reduce_window(
        jnp.ones((1, *x.shape[1:3], 1)), 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME"
    )
    return total / count


def resize(x: Images, size: int, *, half_pixel: bool) -> Images:
    """Bilinear, without anti-aliasing. half_pixel False is TensorFlow 1's grid, which FID's Inception was fed with."""

    def weights(length: int) -> np.ndarray:
        place = np.arange(size) * (length / size)
        if half_pixel:
            place = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, None)
        low = np.minimum(place.astype(int), length - 1)
        part = place - low
        matrix = np.zeros((size, length), np.float32)
        np.add.at(matrix, (np.arange(size), low), 1 - part)
        np.add.at(matrix, (np.arange(size), np.minimum(low + 1, length - 1)), part)
        return matrix

    rows, columns = weights(x.shape[1]), weights(x.shape[2])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision=exact)


def from_torch(state: dict[str, np.ndarray], conv_name: str, norm_name: str, eps: float) -> Params:
    """A convolution and the batch norm after it as one kernel (HWIO) and one bias. Raises KeyError where one is missing."""
    weight = state[f"{conv_name}.weight"].astype(np.float64)
    scale = state[f"{norm_name}.weight"] / np.sqrt(
        state[f"{norm_name}.running_var"].astype(np.float64) + eps
    )
    kernel = (weight * scale[:, None, None, None]).transpose(2, 3, 1, 0)
    bias = state[f"{norm_name}.bias"] - state[f"{norm_name}.running_mean"] * scale
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
