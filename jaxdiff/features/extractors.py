"""Feature spaces by name: images in, one row of numbers an image out."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from jaxdiff import parallel
from jaxdiff.datasets.images import to_float
from jaxdiff.features import efficientnet, inception, perceptual
from jaxdiff.features import layers as frozen

SPACES = ("pixels", "vgg", "efficientnet", "inception")


@dataclasses.dataclass(frozen=True)
class Space:
    """`space(images)`: uint8 [n, height, width, 1 or 3] -> float32 [n, dimension]."""

    name: str
    params: frozen.Params
    features: Callable[[frozen.Params, Array], Array]
    batch: int = 64

    def __call__(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        mesh, rows = parallel.data_mesh(self.batch), []
        params = jax.device_put(self.params, parallel.replicated(mesh))
        for first in range(0, len(images), self.batch):
            part = images[first : first + self.batch]
            padded = np.pad(part, ((0, self.batch - len(part)), (0, 0), (0, 0), (0, 0)))
            rows.append(np.asarray(_run(self.features, mesh, params, padded))[: len(part)])
        return np.concatenate(rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(
    features: Callable, mesh: jax.sharding.Mesh, params: frozen.Params, images: Array
) -> Array:
    def local(params: frozen.Params, images: Array) -> Array:
        return features(params, jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images)

    specs = (parallel.REPLICATED, parallel.DATA)
    return jax.shard_map(
        local, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False
    )(params, images)


def space(name: str, inception_weights: epath.PathLike | None = None) -> Space:
    """The feature space `name`. Raises ValueError for an unknown one, or where its weights are not at hand.

    pixels: the values in 0..1, so that a Euclidean distance over the root of the dimension is the RMS difference a
    pixel. vgg: VGG16's relu5_3 averaged over the image (512). efficientnet: EfficientNet-lite0 (1,280). inception:
    FID's Inception-v3 (2,048), from the weights file that the user has.
    """
    if name == "pixels":
        return Space(name, {}, _pixels)
    if name == "vgg":
        return Space(name, perceptual.load("vgg"), _vgg)
    if name == "efficientnet":
        return Space(name, efficientnet.load(), efficientnet.features)
    if name == "inception":
        if not inception_weights:
            raise ValueError(
                "the feature space inception needs FID's weights file: pytorch-fid's or torch-fidelity's .pth"
            )
        return Space(name, inception.load(inception_weights), inception.features)
    raise ValueError(f"feature space {name!r} is not known; choose one of {', '.join(SPACES)}")


def _pixels(params: frozen.Params, images: Array) -> Array:
    return images.reshape(len(images), -1).astype(jnp.float32) / 255.0


def _vgg(params: frozen.Params, images: Array) -> Array:
    x = to_float(images)
    if x.shape[1] < 32:
        x = frozen.resize(x, 32, half_pixel=True)
    return perceptual.vgg16(params, perceptual.scale(x))[-1].mean(axis=(1, 2))
