"""The images that the probe takes, of a cell, of a dataset or as they are brought; and a study's own small probe."""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from jaxdiff import files, models, results
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import Splits
from jaxdiff.datasets.registry import Split
from jaxdiff.probe import readings as probe
from jaxdiff.probe.readings import Options, Points
from jaxdiff.progress import Progress
from jaxdiff.study.memorization import unseen

Images = UInt8[np.ndarray, "_n _h _w _c"]
QUERIES, MEMORY = (
    64,
    256,
)  # images that ask the memory, and images in it, at most: their activations are held at once
# In a study: at the pixels, which compiles in seconds; above 256 dimensions by a few products.
SMALL = Options(levels=(0,), noise=(0.3,), readings=("hessian",), steps=16, probes=16, dense=256)


def of_cell(cell: Cell, splits: Splits, count: int, memory: int = MEMORY) -> Points:
    """Images that the cell never saw, in its class mix, and its training images as the memory, the minority as class 1."""
    train = splits()["train"]
    chosen = _evenly(np.argsort(train.labels, kind="stable"), memory)
    fresh = unseen(cell, splits()["classifier_test"], max(count, QUERIES))
    labels = (train.labels[chosen] == cell.minority).astype(np.int64)
    return Points(
        _pixels(_mixed(fresh)), min(count, len(fresh)), _pixels(train.images[chosen]), labels
    )


def of_splits(
    splits: Mapping[str, Split], classes: Sequence[int], count: int, memory: int
) -> Points:
    """Held-out images of a dataset and others of its training pool, of two classes or of all."""
    held, train = (
        _some(splits[name], classes, most)
        for name, most in (("held_out", max(count, QUERIES)), ("train", memory))
    )
    labels = (train.labels == classes[1]).astype(np.int64) if classes else None
    return Points(
        _pixels(_mixed(held.images)), min(count, len(held)), _pixels(train.images), labels
    )


def of_images(images: Images, count: int, memory: int = MEMORY) -> Points:
    """Of one set of images, some that are probed and others as the memory; none where there are no two others."""
    order = np.arange(len(images))
    probed = _evenly(order, count)
    others = np.setdiff1d(order, probed)
    kept = _evenly(others, memory) if len(others) > 1 else others[:0]
    return Points(_pixels(images[probed]), len(probed), _pixels(images[kept]))


def measure(
    cell: Cell, folder: epath.Path, splits: Splits, model: models.Model, progress: Progress
) -> None:
    """probe.json: the curvature at a few points, which the report compares in pairs; measures/curvature.json: over the points."""
    points = of_cell(cell, splits, cell.settings["measures"]["probe"])
    state, rows = probe.states(model, points, SMALL), []
    todo = probe.work(cell.unet, model.schedule, SMALL)
    for i, (weights, t, level) in enumerate(todo):
        progress("curvature", i, len(todo), f"{weights} weights, level {level}")
        here = probe.at_level(state(weights, t), points, level, (), SMALL)
        rows += [{"weights": weights, "t": t, "level": level, **row} for row in here]
    progress("curvature", len(todo), len(todo), "")
    files.write_json(folder / "probe.json", {"rows": rows})
    files.write_json(
        folder / "measures" / "curvature.json",
        {"curvature": [results.of_points(row) for row in rows]},
    )


def _some(split: Split, classes: Sequence[int], count: int) -> Split:
    kept = np.flatnonzero(np.isin(split.labels, classes)) if classes else np.arange(len(split))
    chosen = _evenly(kept[np.argsort(split.labels[kept], kind="stable")], count)
    return Split(split.source, split.indices[chosen], split.labels[chosen])


def _evenly(order: np.ndarray, count: int) -> np.ndarray:
    return (
        order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]
        if len(order)
        else order
    )


def _mixed(images: Images) -> Images:
    """In an order of no class, since the first are probed."""
    return images[np.random.default_rng(0).permutation(len(images))]


def _pixels(images: Images) -> Float[np.ndarray, "_n _h _w _c"]:
    """In [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0
