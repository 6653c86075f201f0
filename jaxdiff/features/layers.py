"""Inference-only layers of pretrained networks, on NHWC arrays.

Convolutions with folded batch norms, pooling and resizing.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.ops.convolution import convolve

Images = Float[Array, "batch _height _width _channel"]
Params = dict[str, Array]


def conv(
    params: Params, name: str, x: Images, *, stride: int = 1, padding: str | int = "SAME"
) -> Images:
    """Apply the convolution `name`.

    Parameters
    ----------
    params
        Holds `name`.kernel (HWIO; depthwise where its I is 1) and `name`.bias.
    name
        Name of the convolution.
    x
        Images.
    stride
        In both directions.
    padding
        SAME (TensorFlow's), VALID, or pixels on every side.
    """
    kernel = params[f"{name}.kernel"]
    bias = params[f"{name}.bias"][None, None, None]
    if isinstance(padding, int):
        return convolve(x, kernel, stride, (padding, padding)) + bias
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )
    return y + bias


def max_pool(x: Images, size: int, stride: int, padding: str = "VALID") -> Images:
    """The largest value in each window."""
    window = (1, size, size, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, stride, stride, 1), padding)


def average_pool(x: Images, size: int) -> Images:
    """The mean of each window at stride 1, over the pixels that exist (padding is not counted)."""
    window = (1, size, size, 1)
    strides = (1, 1, 1, 1)
    ones = jnp.ones((1, *x.shape[1:3], 1))
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, "SAME")
    # the number of existing pixels differs at the border
    count = jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, strides, "SAME")
    return total / count


def resize(x: Images, size: int, *, half_pixel: bool) -> Images:
    """Resize bilinearly without anti-aliasing.

    half_pixel False is TensorFlow 1's grid, which FID's Inception was fed with.
    """
    row_matrix = _interpolation_matrix(x.shape[1], size, half_pixel)
    column_matrix = _interpolation_matrix(x.shape[2], size, half_pixel)
    # at the default precision accelerators round the pixels to bfloat16
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,bhwc,jw->bijc", row_matrix, x, column_matrix, precision=exact)


def _interpolation_matrix(
    length: int, size: int, half_pixel: bool
) -> Float[np.ndarray, "size length"]:
    """Weights of the two pixels between which each new one lies."""
    position = np.arange(size) * (length / size)
    if half_pixel:
        # The centers of pixels, at i + 1/2, correspond; what lies before the first has its value.
        position = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, None)
    low = np.minimum(position.astype(int), length - 1)
    high = np.minimum(low + 1, length - 1)
    fraction = position - low
    matrix = np.zeros((size, length), np.float32)
    # add.at, since low and high are one pixel at the border
    np.add.at(matrix, (np.arange(size), low), 1 - fraction)
    np.add.at(matrix, (np.arange(size), high), fraction)
    return matrix


def fold_batch_norm(
    state: Mapping[str, np.ndarray], conv_name: str, norm_name: str, eps: float
) -> Params:
    """A PyTorch convolution and the batch norm after it as one kernel (HWIO) and one bias.

    Raises
    ------
    KeyError
        Where one of their arrays is missing.
    """
    weight = state[f"{conv_name}.weight"].astype(np.float64)
    variance = state[f"{norm_name}.running_var"].astype(np.float64)
    scale = state[f"{norm_name}.weight"] / np.sqrt(variance + eps)
    # From PyTorch's OIHW to HWIO.
    kernel = (weight * scale[:, None, None, None]).transpose(2, 3, 1, 0)
    bias = state[f"{norm_name}.bias"] - state[f"{norm_name}.running_mean"] * scale
    # folded in float64, so that the product's rounding is the only one
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}


def fold_batch_norms(
    state: Mapping[str, np.ndarray], pairs: Mapping[str, tuple[str, str]], eps: float
) -> Params:
    """`fold_batch_norm` of every (convolution, batch norm), under NAME.kernel and NAME.bias."""
    params = {}
    for name, (conv_name, norm_name) in pairs.items():
        folded = fold_batch_norm(state, conv_name, norm_name, eps)
        params[f"{name}.kernel"] = folded["kernel"]
        params[f"{name}.bias"] = folded["bias"]
    return params
