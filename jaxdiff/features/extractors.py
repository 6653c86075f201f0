"""Feature extractors by name: images in, one row of features an image out."""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, UInt8

from jaxdiff import files, parallel
from jaxdiff.batching import batched_map
from jaxdiff.datasets.images import to_float
from jaxdiff.features import efficientnet, inception, perceptual
from jaxdiff.features.layers import Images, Params, resize
from jaxdiff.precision import matmul_precision

EXTRACTORS = ("pixels", "vgg", "efficientnet", "inception")
KEPT = 8  # sets of images whose features are kept: two measures ask for them, cell after cell
MAX_KEPT_BYTES = 2**26  # of a set's features
MIN_VGG_SIZE = 32  # pixels on a side; smaller images are enlarged


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """``extractor(images)``: uint8 [n, height, width, 1 or 3] -> float32 [n, dimension].

    The features of the last sets of images are kept: they are not to be written to.

    Parameters
    ----------
    name
        One of EXTRACTORS; what tables call the feature space.
    params
        Parameters of the network.
    features
        From the parameters and uint8 RGB images [batch, height, width, 3] to the features.
    batch
        Images of a call of the compiled network.
    """

    name: str
    params: Params
    features: Callable[[Params, Array], Array]
    batch: int = 64
    _kept: OrderedDict[Any, np.ndarray] = dataclasses.field(
        default_factory=OrderedDict, init=False, repr=False
    )

    def __call__(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        key = (matmul_precision(), files.array_digest(images))
        # Taken out and put in again, so that the least recently used set stands first.
        features = self._kept.pop(key, None)
        if features is None:
            features = self._extract(images)
            features.flags.writeable = False
        if features.nbytes <= MAX_KEPT_BYTES:
            self._kept[key] = features
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return features

    def _extract(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        mesh = parallel.data_mesh(self.batch)
        # arguments of the compiled program: closed over, they would be copied into it
        params = jax.device_put(self.params, parallel.replicated(mesh))
        extract = functools.partial(_extract, self.features, mesh, params)
        return batched_map(extract, images, batch=self.batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _extract(features: Callable, mesh: jax.sharding.Mesh, params: Params, images: Array) -> Array:
    # every network is fed RGB
    def local(params: Params, images: Array) -> Array:
        return features(params, jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images)

    specs = (parallel.REPLICATED, parallel.DATA)
    return parallel.shard_map(local, mesh, specs)(params, images)


@functools.cache
def load_extractor(name: str, inception_weights: epath.PathLike | None = None) -> FeatureExtractor:
    """Load a feature extractor, once in a process.

    Parameters
    ----------
    name
        pixels: the values in 0..1, so that a Euclidean distance over the root of the dimension is
        the RMS difference a pixel. vgg: VGG16's relu5_3 averaged over the image (512).
        efficientnet: EfficientNet-lite0 (1,280). inception: FID's Inception-v3 (2,048).
    inception_weights
        The weights file that the user has, for inception.

    Raises
    ------
    ValueError
        For an unknown name, or where the weights are missing.
    """
    if name == "pixels":
        return FeatureExtractor(name, {}, _pixels)
    if name == "vgg":
        return FeatureExtractor(name, perceptual.load("vgg"), _vgg)
    if name == "efficientnet":
        return FeatureExtractor(name, efficientnet.load(), efficientnet.features)
    if name == "inception":
        if not inception_weights:
            raise ValueError(
                "the feature space inception needs FID's weights file: "
                "pytorch-fid's or torch-fidelity's .pth"
            )
        return FeatureExtractor(name, inception.load(inception_weights), inception.features)
    raise ValueError(f"feature space {name!r} is not known; choose one of {', '.join(EXTRACTORS)}")


def _pixels(params: Params, images: UInt8[Array, "batch h w 3"]) -> Float[Array, "batch d"]:
    return images.reshape(len(images), -1).astype(jnp.float32) / 255.0


def _vgg(params: Params, images: UInt8[Array, "batch h w 3"]) -> Float[Array, "batch 512"]:
    x: Images = to_float(images)
    # LPIPS takes 16 px, but relu5_3 would then be a single pixel
    if x.shape[1] < MIN_VGG_SIZE:
        x = resize(x, MIN_VGG_SIZE, half_pixel=True)
    return perceptual.vgg16(params, perceptual.scale(x))[-1].mean(axis=(1, 2))
