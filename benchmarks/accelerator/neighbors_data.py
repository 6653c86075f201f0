"""The vectors of the search for nearest neighbors, the same for both sides; no JAX."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.accelerator.sizes import Task

K = 10


class Vectors(NamedTuple):
    """Queries and references, float32 [n, dimension]."""

    queries: np.ndarray
    references: np.ndarray


def draw_vectors(task: Task) -> Vectors:
    """Vectors of independent normal numbers."""
    rng = np.random.default_rng(0)
    sizes = task.sizes
    queries = rng.standard_normal((sizes.queries, sizes.dimension), np.float32)
    return Vectors(queries, rng.standard_normal((sizes.references, sizes.dimension), np.float32))


def save_indices(task: Task, name: str, indices: np.ndarray) -> None:
    """Keep what a side found, for `share_equal`."""
    np.save(Path(task.folder) / f"neighbors_{name}.npy", indices)


def share_equal(folder: str, name: str, reference: str) -> float | None:
    """Share of the neighbors that two sides agree in; None where one of them is missing."""
    paths = [Path(folder) / f"neighbors_{side}.npy" for side in (name, reference)]
    if not all(path.exists() for path in paths):
        return None
    indices, expected = map(np.load, paths)
    return float(np.mean(indices == expected))
