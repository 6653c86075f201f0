"""Mean LPIPS over all pairs of images by VGG16 with random weights: a worker."""

import json
import sys

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.sizes import Task
from benchmarks.jax_device import describe_device
from benchmarks.turns import Answer, serve
from jaxdiff.features import perceptual
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.precision import MEASURED

TASK = Task(**json.loads(sys.argv[1]))
PIXELS = 32
BATCH = 8 if TASK.tiny else 512


def build_lpips() -> LPIPS:
    """LPIPS whose weights are random: the time does not depend on them."""
    rng = np.random.default_rng(0)
    params: dict[str, jax.Array] = {}
    channels = 3
    layer = 0
    for stage, widths in enumerate(perceptual.VGG_STAGES):
        for width in widths:
            kernel = rng.standard_normal((3, 3, channels, width), np.float32)
            params[f"Conv_{layer}.kernel"] = jnp.asarray(kernel * (9 * channels) ** -0.5)
            params[f"Conv_{layer}.bias"] = jnp.zeros(width)
            channels = width
            layer += 1
        params[f"head_{stage}"] = jnp.asarray(rng.random(channels, np.float32))
    return LPIPS("vgg", params)


def main() -> None:
    if not TASK.tf32:
        jax.config.update("jax_default_matmul_precision", MEASURED)
    lpips = build_lpips()
    shape = (TASK.sizes.images, PIXELS, PIXELS, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)

    def run(count: int) -> None:
        for _ in range(count):
            lpips.mean_pairwise(images, BATCH)

    def prepare() -> Answer:
        lpips.mean_pairwise(images[: 2 * BATCH], BATCH)
        return {}

    serve(run, len(images), 0.0, describe_device, prepare)


if __name__ == "__main__":
    main()
