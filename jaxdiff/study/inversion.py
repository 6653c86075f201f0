"""Bias and variance by inverting held-out images (Eqs. 4 and 5 of the paper).

One seed's model encodes the images to noise, and the models of the other seeds decode it.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int, UInt8

from jaxdiff import files, models, results
from jaxdiff.cells.classifiers import FILES as CLASSIFIER_FILES
from jaxdiff.cells.classifiers import Classifiers
from jaxdiff.datasets.dataset import Split
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.estimates import Estimate
from jaxdiff.measures import bias_variance, flips
from jaxdiff.progress import Progress, no_progress
from jaxdiff.results import CellResult, data_key, mixture_key
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler, sampling_code_digest
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, run_stage

ITERATIONS = 5  # of the fixed point in each step of the inversion
IMAGES = "inverted.npz"  # under shared/: a study's held-out images and their labels


class Group(NamedTuple):
    """Models that differ in the seed alone, and the model that encodes for them.

    The encoder is of another seed, the same one for all groups of one mixture.
    """

    name: str
    encoder: CellResult
    decoders: list[CellResult]


def group_over_seeds(cells: Sequence[CellResult]) -> list[list[CellResult]]:
    """Cells that differ in the seed alone and have the same majority, two and more of them."""

    def key(cell: CellResult) -> tuple:
        return (cell.info.model, *mixture_key(cell))

    groups = [list(group) for _, group in itertools.groupby(sorted(cells, key=key), key=key)]
    return [sorted(group, key=lambda c: c.info.seed) for group in groups if len(group) > 1]


def describe_group(cell: CellResult) -> dict[str, Any]:
    """What the cells of a group over seeds have in common."""
    shares, _ = data_key(cell)
    proportions = "-".join(f"{100 * share:g}" for share in shares)
    return {
        "model": cell.info.model,
        "proportions": proportions,
        "N": cell.info.n,
        "minority": cell.info.minority,
    }


def find_groups(cells: Sequence[CellResult]) -> list[Group]:
    """Every group with at least two models beside the encoder's seed.

    The encoder is the highest seed of the shallowest model.
    """
    groups = []
    for members in group_over_seeds(cells):
        first = members[0]
        same_data = [cell for cell in cells if mixture_key(cell) == mixture_key(first)]
        shallowest = min(same_data, key=lambda cell: (cell.info.depth, cell.info.parameters))
        encoders = [cell for cell in same_data if cell.info.model == shallowest.info.model]
        encoder = max(encoders, key=lambda cell: cell.info.seed)
        # Not of the encoder's seed: one model's round trip only returns the image.
        decoders = [cell for cell in members if cell.info.seed != encoder.info.seed]
        if len(decoders) > 1:
            name = f"{first.name.rpartition('-')[0]}-{first.info.majority}"
            groups.append(Group(name, encoder, decoders))
    return groups


def write_images(path: epath.Path, split: Split, classes: Sequence[int], count: int) -> None:
    """Write the first held-out images of either class, as many of both, `count` in all."""
    by_class = [np.flatnonzero(split.labels == label)[: count // 2] for label in classes]
    smallest = min(len(indices) for indices in by_class)
    indices = np.concatenate([members[:smallest] for members in by_class])
    results.write_npz(path, images=split.images[indices], labels=split.labels[indices])


def run_inversions(
    cells: Sequence[CellResult],
    workdir: epath.Path,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> list[epath.Path]:
    """Bias and variance of every group, where the study keeps images for it; the files."""
    shared = workdir / "shared"
    if not (shared / IMAGES).exists():
        return []
    paths = []
    for group in find_groups(cells):
        members = (group.encoder, *group.decoders)
        inputs: dict[str, Any] = {
            cell.name: files.checksums(workdir / "cells" / cell.name, ["result.json"])
            for cell in members
        }
        inputs["images"] = files.sha256(shared / IMAGES)
        inputs["classifiers"] = files.checksums(shared, CLASSIFIER_FILES)
        inputs["code"] = code_digest(write_group)  # with what it imports
        inputs["sampling"] = sampling_code_digest(SamplerSpec("ddim"))
        output = f"inverted/{group.name}.json"
        make = functools.partial(write_group, group, workdir, shared / output, progress)
        run_stage(shared, f"inverted-{group.name}", inputs, (output,), make, redo=redo)
        paths.append(shared / output)
    return paths


def write_group(group: Group, workdir: epath.Path, path: epath.Path, progress: Progress) -> None:
    """Write a group's estimates: of its decoders, and the zero.

    The zero is the encoder's own image of what it encoded itself.
    """
    shared = workdir / "shared"
    classifiers = Classifiers(shared)
    held_out = results.read_npz(shared / IMAGES)
    info = group.encoder.info
    minority = info.minority

    def classify(images: UInt8[np.ndarray, "n h w c"]) -> Int[np.ndarray, " n"]:
        """1 for the minority, 0 for the majority, -1 for neither."""
        roles = flips.role_indices(classifiers.classify(images), info.majority, minority)
        return np.where(roles == flips.ROLES.index("neither"), -1, roles)

    encoder = _make_sampler(group.encoder, workdir, progress)
    x_T, decoded, _ = encoder.invert(to_float(held_out["images"]), ITERATIONS)
    true = np.where(held_out["labels"] == minority, 1, 0)
    sampler = _make_sampler(group.decoders[0], workdir, progress)
    classes = []
    for cell in group.decoders:
        sampler.set_params(models.load(workdir / "cells" / cell.name).unet)
        # At eta = 0 no noise is drawn, whatever the seed.
        classes.append(classify(to_uint8(sampler.decode(x_T, cell.info.seed))))
    labels = describe_group(group.decoders[0]) | {
        "form": "inverted",
        "encoder": group.encoder.name,
        "|x_T|^2/d": float(np.mean(np.square(x_T))),
    }
    estimates = bias_variance.bias_variance_by_class(np.stack(classes), true)
    estimates.append(_encoder_bias(classify(to_uint8(decoded)), true))
    rows = [labels | estimate.to_json() for estimate in estimates]
    files.write_json(path, {"bias_variance": rows})


def _make_sampler(cell: CellResult, workdir: epath.Path, progress: Progress) -> Sampler:
    """DDIM without noise or clipping, as the inversion takes it."""
    settings = {**cell.config["sample"], "method": "ddim", "eta": 0.0, "clip": False}
    return Sampler(
        models.load(workdir / "cells" / cell.name),
        SamplerSpec.from_settings(settings),
        batch=cell.config["sample"]["batch"],
        progress=progress,
    )


def _encoder_bias(classes: Int[np.ndarray, " n"], true: Int[np.ndarray, " n"]) -> Estimate:
    in_classes = classes >= 0
    value = float((classes - true)[in_classes].mean()) if in_classes.any() else None
    return Estimate(
        value,
        n=int(in_classes.sum()),
        name="bias of the encoder itself",
        labels={"true": "all", "models": 1, "neither": int((~in_classes).sum())},
    )
