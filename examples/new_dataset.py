"""A dataset of one's own: discs and squares of random size and position.

In a study: config.plugins = ("examples.new_dataset",) and config.data.source = "shapes".
"""

import functools

import numpy as np

from jaxdiff.datasets.base import Annotations, DatasetRequest, Source, register_dataset

N = 4000


@register_dataset("shapes", channels=1, size=32)
def open_shapes(request: DatasetRequest) -> Source:
    identity = {"shapes": 1, "size": request.size, "channels": request.channels}
    annotations = Annotations(labels=np.arange(N) % 2, classes=("disc", "square"))
    decode = functools.partial(draw, request.size, request.channels)
    return Source(f"{N:,} discs and squares", identity, N, lambda: annotations, decode)


def draw(size: int, channels: int, index: int) -> np.ndarray:
    radius, row, column = np.random.default_rng(index).uniform([0.15, 0.3, 0.3], [0.3, 0.7, 0.7])
    y, x = np.abs(np.mgrid[:size, :size] - size * np.array([row, column])[:, None, None])
    distance = np.maximum(x, y) if index % 2 else np.hypot(x, y)
    image = np.clip(size * radius - distance + 0.5, 0.0, 1.0)  # soft edges
    return np.repeat(np.round(255 * image).astype(np.uint8)[..., None], channels, axis=-1)
