"""A dataset of one's own: discs and squares of random size and position.

In a study: config.plugins = ("examples.new_dataset",), config.data.source = "shapes" and
config.data.classes = (0, 1).
"""

import functools

import numpy as np

from jaxdiff.datasets.base import Annotations, DatasetRequest, Source, register_dataset


@register_dataset("shapes", channels=1, size=32)
def open_shapes(request: DatasetRequest) -> Source:
    labels = np.arange(4000) % 2
    annotations = Annotations(labels, classes=("disc", "square"))
    # all that the pixels depend on: change the version where you change `draw`
    identity = {"version": 1, "size": request.size, "channels": request.channels}
    decode = functools.partial(draw, request.size, request.channels)
    return Source("discs and squares", identity, len(labels), lambda: annotations, decode)


def draw(size: int, channels: int, index: int) -> np.ndarray:
    rng = np.random.default_rng(index)
    center = rng.uniform(0.3 * size, 0.7 * size, (2, 1, 1))
    y, x = np.abs(np.mgrid[:size, :size] - center)
    distance = np.maximum(x, y) if index % 2 else np.hypot(x, y)
    image = distance <= rng.uniform(0.15 * size, 0.3 * size)
    return np.repeat(255 * image[..., None].astype(np.uint8), channels, axis=-1)
