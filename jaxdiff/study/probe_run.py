"""The probe from files to files: its points, its models one after the other, each level kept when it is done."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from jaxdiff import files, models, results
from jaxdiff.datasets.source import Progress
from jaxdiff.datasets.sources import Split
from jaxdiff.study import probe, stages
from jaxdiff.study.cells import Cell
from jaxdiff.study.data import Splits
from jaxdiff.study.memorization import unseen
from jaxdiff.study.probe import Options, Points, Row
from jaxdiff.unet import UNetConfig, parameter_count

Images = UInt8[np.ndarray, "_n _h _w _c"]
QUERIES, MEMORY = 64, 256  # images that ask the memory, and images in it, at most: their activations are held at once


def points_of_cell(cell: Cell, splits: Splits, count: int, memory: int = MEMORY) -> Points:
    """Images that the cell never saw, in its class mix, and its training images as the memory, the minority as class 1."""
    train = splits()["train"]
    chosen = _evenly(np.argsort(train.labels, kind="stable"), memory)
    fresh = unseen(cell, splits()["classifier_test"], max(count, QUERIES))
    labels = (train.labels[chosen] == cell.minority).astype(np.int64)
    return Points(_pixels(_mixed(fresh)), min(count, len(fresh)), _pixels(train.images[chosen]), labels)


def points_of_splits(splits: Mapping[str, Split], classes: Sequence[int], count: int, memory: int) -> Points:
    """Held-out images of a dataset and others of its training pool, of two classes or of all."""
    held, train = (
        _some(splits[name], classes, most) for name, most in (("held_out", max(count, QUERIES)), ("train", memory))
    )
    labels = (train.labels == classes[1]).astype(np.int64) if classes else None
    return Points(_pixels(_mixed(held.images)), min(count, len(held)), _pixels(train.images), labels)


def _mixed(images: Images) -> Images:
    """In another order, so that the first, which are probed, are of all classes."""
    return images[np.random.default_rng(0).permutation(len(images))]


def _some(split: Split, classes: Sequence[int], count: int) -> Split:
    kept = np.flatnonzero(np.isin(split.labels, classes)) if classes else np.arange(len(split))
    chosen = _evenly(kept[np.argsort(split.labels[kept], kind="stable")], count)
    return Split(split.source, split.indices[chosen], split.labels[chosen])


def points_of_images(images: Images, count: int, memory: int = MEMORY) -> Points:
    """Of one set of images, some that are probed and others as the memory; none where there are no two others."""
    order = np.arange(len(images))
    probed = _evenly(order, count)
    others = np.setdiff1d(order, probed)
    kept = _evenly(others, memory) if len(others) > 1 else others[:0]
    return Points(_pixels(images[probed]), len(probed), _pixels(images[kept]))


def _evenly(order: np.ndarray, count: int) -> np.ndarray:
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)] if len(order) else order


def about(config: UNetConfig, shape: tuple[int, int, int]) -> Row:
    """What the report says of a model."""
    return {"depth": config.depth, "parameters": parameter_count(config), "bottleneck": config.bottleneck(shape[0])}


def run(
    paths: Mapping[str, epath.Path], points: Points, options: Options, workdir: epath.Path, progress: Progress
) -> None:
    """probe.json: every reading of the models by name, and random weights beside each; what is done is kept.

    Raises ValueError where a path is no model, the images have another size than a model takes, or a level does not exist.
    """
    described = {name: models.describe(path) for name, path in paths.items()}
    shape = points.x0.shape[1:]
    for name, (config, schedule, _, settings) in described.items():
        size = settings["data"]["size"]
        mine = (*((size, size) if isinstance(size, int) else size or shape[:2]), config.in_channels)
        if tuple(mine) != shape:
            words = [" x ".join(map(str, s)) for s in (mine, shape)]
            raise ValueError(f"{name} takes images of {words[0]} and the points are of {words[1]} (grey is 1, RGB 3); give "
                             "--reference with images of that size, and models of one size in a call")  # fmt: skip
        probe.levels(config, options)
        probe.times(schedule, options)
        probe.maps(config, "eps", shape)
    ranks = probe.ranks([probe.dimensions(config, shape) for config, *_ in described.values()], options)
    found = {}
    for i, (name, path) in enumerate(paths.items()):
        rows = _one(
            name,
            path,
            described[name],
            points,
            ranks,
            options,
            workdir,
            functools.partial(_of, progress, i, len(paths)),
        )
        found[name] = about(described[name][0], shape) | {"rows": rows}
    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(options).items()}
    files.write_json(workdir / "probe.json", {"schema": 1, "settings": settings, "ranks": list(ranks),
                                              "points": points.count, "memory": len(points.memory), "models": found})  # fmt: skip


# In a study: at the pixels and of the memory at every level, which compile in seconds.
SMALL = Options(noise=(0.3,), readings=("hessian", "memory"))


def measure(cell: Cell, folder: epath.Path, splits: Splits, model: models.Model, progress: Progress) -> None:
    """probe.json: the curvature at a few points, which the report compares in pairs; measures/curvature.json: over the points."""
    points = points_of_cell(cell, splits, cell.settings["measures"]["probe"])
    rows = list(probe.probe(model, points, (), SMALL, progress))
    files.write_json(folder / "probe.json", {"rows": rows})
    files.write_json(folder / "measures" / "curvature.json", {"curvature": [results.of_points(row) for row in rows]})


def _of(progress: Progress, i: int, count: int, what: str, done: int, total: int, note: str) -> None:
    progress(what, i * total + done, count * total, note)


def _one(
    name: str, path: epath.Path, described: tuple, points: Points, ranks: tuple[int, ...], options: Options, workdir: epath.Path,
    progress: Progress,
) -> list[Row]:  # fmt: skip
    """All rows of one model: a stage a weights, noise level and level."""
    config, schedule = described[:2]
    model = functools.cache(lambda: models.load(path))
    about = {"model": stages.init_checksums(path), "points": _identity(points), "ranks": ranks, "options": dataclasses.asdict(
        dataclasses.replace(options, levels=(), noise=(), random=True))}  # fmt: skip
    work = [(w, t, a) for w in ("trained", "random")[: 1 + options.random] for t in probe.times(schedule, options)
            for a in probe.levels(config, options)]  # fmt: skip
    rows: list[Row] = []

    @functools.lru_cache(maxsize=1)
    def state(weights: str, t: int) -> probe.State:
        return probe.state(model(), probe.weights(model(), options)[weights], t, points, options)

    for i, (weights, t, level) in enumerate(work):
        progress("probe", i, len(work), f"{name}, {weights} weights, t = {t}, level {level}")
        part = f"{name}-{weights}-t{t}-level{level}"
        path_of = f"parts/{part}.json"
        make = lambda w=weights, t=t, a=level, p=path_of: files.write_json(  # noqa: E731
            workdir / p, {"rows": probe.at_level(state(w, t), points, a, ranks, options)})  # fmt: skip
        stages.stage(workdir, part, about | {"weights": weights, "t": t, "level": level}, (path_of,), make)
        rows += [
            {"weights": weights, "t": t, "level": level, **row} for row in files.read_json(workdir / path_of)["rows"]
        ]
    progress("probe", len(work), len(work), "")
    return rows


def _identity(points: Points) -> str:
    arrays = (
        points.x0,
        np.array(points.count),
        points.memory,
        np.array([] if points.labels is None else points.labels),
    )
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def _pixels(images: Images) -> Float[np.ndarray, "_n _h _w _c"]:
    """In [-1, 1]."""
    return images.astype(np.float32) / 127.5 - 1.0
