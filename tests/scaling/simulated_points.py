"""Scaling studies whose law is known."""

import os

import numpy as np

from jaxdiff.scaling.points import LossPoint

# Of the law's coverage; JAXDIFF_SIMULATIONS=100 takes minutes.
STUDIES = int(os.environ.get("JAXDIFF_SIMULATIONS", "25"))
FEWEST_COVERED = 93 if STUDIES == 100 else int(0.88 * STUDIES)
IRREDUCIBLE, ALPHA, BETA = 0.5, 0.35, 0.4
SIZE_TERM, DATA_TERM = 0.5, 0.6  # at the smallest size, of depth 0, and at the shortest run
DEPTH_RATIO = 0.9  # of A from one depth to the next
SMALLEST_FLOPS, FEWEST_IMAGES = 1e9, 1e5


def true_loss(flops, images, depth=0):
    size = SIZE_TERM * DEPTH_RATIO**depth * (flops / SMALLEST_FLOPS) ** -ALPHA
    return IRREDUCIBLE + size + DATA_TERM * (images / FEWEST_IMAGES) ** -BETA


def effective_images(images, unique_images, repeat_scale):
    """Muennighoff et al. (2023), Eq. 5, for images above unique_images."""
    epochs = images / unique_images - 1
    return unique_images * (1 + repeat_scale * (1 - np.exp(-epochs / repeat_scale)))


def simulate_points(
    noise=0.0, seed=0, depths=(0,), sizes=6, lengths=5, seeds=1, unique_images=1e9, repeat_scale=8.0
):
    rng = np.random.default_rng(seed)
    points = []
    for depth in depths:
        for flops in np.geomspace(SMALLEST_FLOPS, 64 * SMALLEST_FLOPS, sizes):
            for images in np.geomspace(FEWEST_IMAGES, 32 * FEWEST_IMAGES, lengths):
                repeated = effective_images(images, unique_images, repeat_scale)
                useful = repeated if images > unique_images else images
                for run in range(seeds):
                    loss = true_loss(flops, useful, depth) * np.exp(noise * rng.standard_normal())
                    points.append(LossPoint(loss, flops, images, unique_images, depth, run))
    return points
