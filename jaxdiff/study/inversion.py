"""Bias and variance by inverting held-out images (Eqs. 4 and 5 of the paper): one seed's model encodes, the others decode."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdiff import files, models, results
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.datasets.registry import Split
from jaxdiff.features import classifier
from jaxdiff.measures import bias_variance, flips
from jaxdiff.progress import Progress
from jaxdiff.results import CellResult
from jaxdiff.sampling import Sampler
from jaxdiff.study import measure
from jaxdiff.study.pairwise import in_a_row, over_seeds

ITERATIONS = 5  # of the fixed point in each step of the inversion
IMAGES = "inverted.npz"  # under shared/: the held-out images of a study and their labels


class Group(NamedTuple):
    """Models that differ in the seed alone, and the model of another seed that encodes for all groups of its mix."""

    name: str
    encoder: CellResult
    decoders: list[CellResult]


def groups(cells: Sequence[CellResult]) -> list[Group]:
    """Every group with at least two models beside the encoder's seed: the highest seed of the shallowest model."""
    found = []
    for group in over_seeds(cells):
        own = group[0].info
        rivals = [
            c
            for c in cells
            if all(getattr(c.info, key) == getattr(own, key) for key in ("proportions", "n", "majority"))
        ]
        first = min(rivals, key=lambda c: (c.info.depth, c.info.parameters)).info.model
        encoder = max((c for c in rivals if c.info.model == first), key=lambda c: c.info.seed)
        decoders = [c for c in group if c.info.seed != encoder.info.seed]
        if len(decoders) > 1:
            found.append(
                Group(f"{group[0].name.rpartition('-')[0]}-{own.majority}", encoder, decoders)
            )
    return found


def keep_images(path: epath.Path, split: Split, classes: Sequence[int], count: int) -> None:
    """Write the first held-out images of either class, as many of both as there are, `count` in all."""
    places = [np.flatnonzero(split.labels == label)[: count // 2] for label in classes]
    chosen = np.concatenate([place[: min(map(len, places))] for place in places])
    results.write_npz(path, images=split.images[chosen], labels=split.labels[chosen])


def write(group: Group, workdir: epath.Path, path: epath.Path, progress: Progress) -> None:
    """The group's entries: of its decoders, and the zero, the encoder's own image of what it encoded itself."""
    shared, own = workdir / "shared", group.encoder.info
    held_out = results.read_npz(shared / IMAGES)
    judge = measure.classifiers(shared)["convolutional"]
    settings = group.encoder.config["sample"] | {"method": "ddim", "eta": 0.0, "clip": False}

    def drawer_of(cell: CellResult) -> Sampler:
        return Sampler(models.load(workdir / "cells" / cell.name), settings, progress)

    def classify(images: np.ndarray) -> np.ndarray:
        called = flips.roles(
            classifier.classify(judge, to_uint8(images))[0], own.majority, own.minority
        )
        return np.where(called == flips.ROLES.index("neither"), -1, called)

    encoder = drawer_of(group.encoder)
    noise, again, _ = encoder.round_trip(to_float(held_out["images"]), ITERATIONS)
    true = np.where(held_out["labels"] == own.minority, 1, 0)
    drawer, classes = drawer_of(group.decoders[0]), []
    for cell in group.decoders:
        drawer.use(models.load(workdir / "cells" / cell.name).unet)
        classes.append(classify(drawer.decode(noise, cell.info.seed)))
    length = float(np.mean(np.square(noise)))
    where = in_a_row(group.decoders[0]) | {
        "form": "inverted",
        "encoder": group.encoder.name,
        "|x_T|^2/d": length,
    }
    rows: list[dict[str, Any]] = [
        where | row for row in bias_variance.by_class(np.stack(classes), true)
    ]
    same = classify(again)
    known = same >= 0
    rows.append(where | {"name": "bias of the encoder itself", "true": "all", "value": float(
        (same - true)[known].mean()) if known.any() else None, "low": None, "high": None, "n": int(known.sum()), "models": 1,
        "interval": "none", "neither": int((~known).sum())})  # fmt: skip
    files.write_json(path, {"bias_variance": rows})
