"""How near samples are to training images in each feature space (the paper's Table 3)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jaxdiff.estimates import Estimate
from jaxdiff.features.extractors import load_extractor
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.exact_knn import Neighbors, nearest
from jaxdiff.measures.registry import measure

# Samples whose nearest training images are stored as images, and how many for each of them.
STORED_SAMPLES = 64
STORED_NEIGHBORS = 3


def neighbor_estimates(
    values: Float[np.ndarray, "q k"],
    ks: Sequence[int],
    labels: Mapping[str, str],
    store_values: bool = False,
) -> list[Estimate]:
    """The two readings of the paper's Table 3, as means over images with t intervals.

    Parameters
    ----------
    values
        Distance or similarity of each image to its neighbors, best first.
    ks
        Numbers of neighbors, at most as many as `values` has.
    labels
        Labels of all estimates.
    store_values
        Whether the first neighbor's ``kth`` keeps the values of the single images.

    Returns
    -------
    estimates
        For each k ``kth``, the k-th neighbor's value, and ``mean``, the mean over the first k.
    """
    estimates = []
    for k in ks:
        kth_values = values[:, k - 1].tolist()
        kth = Estimate.mean(kth_values, "images", "kth", k=k)
        if k == 1 and store_values:
            kth = dataclasses.replace(kth, values=kth_values)
        means = values[:, :k].mean(axis=1).tolist()
        estimates += [kth, Estimate.mean(means, "images", "mean", k=k)]
    return [estimate.labeled(**labels) for estimate in estimates]


@measure(
    "neighbors",
    title="Nearest training images",
    caption=(
        "Distance (in pixels the RMS difference, on the scale [0, 1]) or cosine similarity to the "
        "k-th nearest training image (kth), and the mean over the first k (mean). Compare samples "
        "with held-out images, on which no model was trained: samples that are nearer at k = 1 are "
        "copies. At larger k they need not be, since smooth images are near to many."
    ),
    needs=("samples", "train"),
    optional=("held_out",),
    settings=("spaces", "inception", "k"),
    outputs=("neighbors.npz",),
    topic="memorization",
)
def neighbors(artifacts: Artifacts) -> list[Estimate]:
    """Table 3 in every feature space; neighbors.npz: each sample's neighbors in pixels."""
    settings = artifacts.settings
    sets = {"samples": artifacts.samples}
    if artifacts.held_out is not None:
        sets["held_out"] = artifacts.held_out
    estimates = []
    for i, space in enumerate(settings.spaces):
        extractor = load_extractor(space, settings.inception or None)
        memory = extractor(artifacts.train.images)
        is_pixels = space == "pixels"
        # As in the paper: cosine in feature spaces, Euclidean distance in pixels.
        metric = "euclidean" if is_pixels else "cosine"
        for name, images in sets.items():
            result = nearest(extractor(images), memory, max(settings.k), metric)
            if is_pixels:
                result = _to_rms(result, memory.shape[1])
            labels = {"images": name, "space": space, "metric": metric}
            is_stored = is_pixels and name == "samples"
            estimates += neighbor_estimates(result.values, settings.k, labels, is_stored)
            if is_stored:
                _write_neighbors(artifacts, result)
        artifacts.progress("neighbors", i + 1, len(settings.spaces), space)
    if "pixels" not in settings.spaces:
        # The report shows neighbors in pixels whatever the spaces of the table are.
        extractor = load_extractor("pixels")
        memory = extractor(artifacts.train.images)
        result = nearest(extractor(artifacts.samples), memory, max(settings.k))
        _write_neighbors(artifacts, _to_rms(result, memory.shape[1]))
    return estimates


def _to_rms(result: Neighbors, dimension: int) -> Neighbors:
    """Euclidean distances of pixels in [0, 1] as the RMS difference a pixel.

    It is the same for a gray image and for its copy in RGB, whose distances are sqrt(3) times as
    large.
    """
    return result._replace(values=result.values / np.sqrt(dimension))


def _write_neighbors(artifacts: Artifacts, result: Neighbors) -> None:
    """Write each sample's neighbors, and the nearest few of the first samples as images.

    ``rms_distance`` and ``index`` [sample, k], best first; ``images`` of the first samples.
    """
    nearest_indices = result.indices[:STORED_SAMPLES, :STORED_NEIGHBORS]
    artifacts.write_npz(
        "neighbors.npz",
        rms_distance=result.values.astype(np.float32),
        index=result.indices,
        images=artifacts.train.images[nearest_indices],
    )
