"""The measures on images of any origin: sets of samples against a reference, laid out as a study's cells are.

So the report draws them as it draws a study; what needs training (losses, verdicts) is left out there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxdiff import files, results
from jaxdiff.datasets import registry as sources
from jaxdiff.features import extractors as spaces
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.progress import Progress
from jaxdiff.study import measure, memorization, stages
from jaxdiff.study.provenance import environment

Images = UInt8[np.ndarray, "_n _h _w _c"]


@dataclasses.dataclass(frozen=True)
class Reference:
    """What samples are held against. labelled: a dataset's pools, from which classifiers of `classes` are trained."""

    name: str
    images: Images
    held_out: Images | None = None
    labelled: dict[str, sources.Split] | None = None
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Options:
    """lpips: vgg, alex or none; classes: majority and minority, by their places in the dataset's; trained: the minority's share in the training data."""

    lpips: str = "vgg"
    spaces: tuple[str, ...] = ("pixels", "vgg")
    k: tuple[int, ...] = (1, 2, 5, 10)
    inception: str = ""
    weights_dir: str = ""
    classes: tuple[int, int] | None = None
    trained: float = 0.5
    same_noise: bool = False  # the i-th image of every set comes from the same noise
    classifier_steps: int = 2000


def dataset_reference(dataset: sources.Dataset, cache: epath.Path, progress: Progress) -> Reference:
    """The generator's pool as the reference, the other pools for held-out rows and classifiers."""
    splits = sources.load_splits(dataset, cache, np.sort(dataset.pools["generator"]), progress)
    return Reference(
        dataset.name, splits["train"].images, splits["held_out"].images, splits, dataset.classes
    )


def evaluate(
    sets: Mapping[str, Images],
    reference: Reference,
    options: Options,
    workdir: epath.Path,
    progress: Progress,
) -> None:
    """Measure every set and write study.json, cells/NAME/ and shared/ for the report.

    Raises ValueError where the images' shapes differ, k is larger than the reference, or the workdir holds another study.
    """
    _check(sets, reference, options)
    memory = _remember(
        reference, options, progress
    )  # before anything is written: bad options end here
    stages.claim(workdir / "study.json", _study(reference, options, sets))
    if options.classes and reference.labelled is not None:
        splits, data = (
            reference.labelled,
            {"source": reference.name, "shape": list(reference.images.shape[1:])},
        )
        settings = {"steps": options.classifier_steps}
        shared = workdir / "shared"
        known = len(reference.classes)
        stages.shared_classifiers(
            settings, data, options.classes, known, shared, lambda: splits, progress
        )
    for i, (name, images) in enumerate(sets.items()):
        progress("evaluate", i, len(sets), name)
        _one(name, i, images, reference, memory, options, workdir)
    progress("evaluate", len(sets), len(sets), "")
    finished = results.read_cells(workdir) if options.same_noise else []
    plain = {"lpips": options.lpips, "weights_dir": options.weights_dir}
    stages.run_comparisons(finished, workdir, plain, progress)


def _check(sets: Mapping[str, Images], reference: Reference, options: Options) -> None:
    more = {"the held-out images": reference.held_out} if reference.held_out is not None else {}
    for name, images in {**sets, **more}.items():
        if images.shape[1:] != reference.images.shape[1:]:
            shapes = [" x ".join(map(str, x.shape[1:])) for x in (images, reference.images)]
            hint = (
                "give --size"
                if images.shape[-1] == reference.images.shape[-1]
                else "convert one of them"
            )
            raise ValueError(
                f"{name} are of {shapes[0]} and {reference.name} of {shapes[1]} (grey is 1, RGB 3); {hint}"
            )
    if options.classes and max(options.classes) >= len(reference.classes):
        raise ValueError(
            f"the class {max(options.classes)} was asked for; those of {reference.name} are "
            + (
                ", ".join(f"{i} ({name})" for i, name in enumerate(reference.classes))
                or "not known"
            )
        )
    if max(options.k) > len(reference.images):
        raise ValueError(
            f"k is {max(options.k)} and {reference.name} holds only {len(reference.images)} images"
        )
    sizes = {name: len(images) for name, images in sets.items()}
    if options.same_noise and len(set(sizes.values())) > 1:
        raise ValueError(
            f"sets of the same noise have one image a noise each, but their sizes are {sizes}"
        )


def _study(reference: Reference, options: Options, sets: Mapping[str, Images]) -> dict[str, Any]:
    height, width = reference.images.shape[1:3]
    data = {"source": reference.name, "size": [height, width], "classes": list(options.classes or ()),
            "n": len(reference.images), "sets": list(sets)}  # fmt: skip
    return {
        "name": f"{', '.join(sets)} against {reference.name}",
        "data": data,
        "measures": _plain(options),
    }


def _plain(options: Options) -> dict[str, Any]:
    return {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in dataclasses.asdict(options).items()
    }


class _Memory(NamedTuple):
    """What the reference contributes to every set, computed once: its LPIPS and its features by space."""

    net: LPIPS | None
    lpips: list[dict[str, Any]]
    features: list[tuple[spaces.FeatureExtractor, np.ndarray]]


def _remember(reference: Reference, options: Options, progress: Progress) -> _Memory:
    net, own = None, []
    if options.lpips != "none":
        progress("reference", 0, 1, "lpips")
        net = LPIPS.load(options.lpips, options.weights_dir or None)
        own = [measure.entry("training_data", net.mean_pairwise(reference.images), space=net.space)]
    chosen = [spaces.load_extractor(name, options.inception or None) for name in options.spaces]
    features = [(space, space(reference.images)) for space in chosen]
    progress("reference", 1, 1, "")
    return _Memory(net, own, features)


def _one(
    name: str, place: int, images: Images, reference: Reference, memory: _Memory, options: Options, workdir: epath.Path
) -> None:  # fmt: skip
    folder, shared = workdir / "cells" / name, workdir / "shared"
    classes = options.classes if reference.labelled else None
    roles = (
        {"majority": classes[0], "minority": classes[1]}
        if classes
        else {"majority": -1, "minority": -1}
    )
    found: dict[str, Any] = {"schema": results.SCHEMA, "cell": {
        "name": name, "model": name, "depth": place, "proportions": [1 - options.trained, options.trained] if classes else [],
        "n": len(reference.images), "seed": 0, "parameters": 0, **roles,
    }}  # fmt: skip
    results.write_samples(folder / "samples.npz", images, np.arange(len(images)))
    if options.same_noise:
        results.write_samples(folder / "common.npz", images, np.arange(len(images)))
    labels = np.full(len(images), -1)
    if classes:
        measure.classify(folder, shared)
        labels = results.read_npz(folder / "classes.npz")["label"]
        found |= measure.read_shares(folder, shared, classes, None, options.trained)
    else:
        results.write_npz(
            folder / "classes.npz",
            label=labels,
            **({"common": labels} if options.same_noise else {}),
        )
    found |= _unlabelled(images, labels, reference, memory, options, folder)
    files.write_json(folder / "config.json", {"evaluated": _plain(options)})
    files.write(folder / "metrics.jsonl", "")
    files.write_json(folder / "run.json", environment() | {"seconds": 0.0})
    files.write_json(folder / "result.json", found)


def _unlabelled(
    images: Images,
    labels: np.ndarray,
    reference: Reference,
    memory: _Memory,
    options: Options,
    folder: epath.Path,
) -> dict[str, Any]:
    """LPIPS, neighbors and memorization: what needs no labels (those that are there split LPIPS by class)."""
    found: dict[str, Any] = {"neighbors": []}
    if memory.net is not None:
        mix = (
            dict(zip(options.classes, (1 - options.trained, options.trained), strict=True))
            if options.classes
            else {}
        )
        found["lpips"] = (
            measure.diversity(memory.net.pairwise(images, labels), mix, memory.net.space)
            + memory.lpips
        )
    sets = {"samples": images} | (
        {"held_out": reference.held_out} if reference.held_out is not None else {}
    )
    for chosen, features in memory.features:
        rows, values = measure.neighbor_rows(sets, features, chosen, options.k)
        found["neighbors"] += rows
        if chosen.name == "pixels":
            measure.write_nearest(folder, *values["samples"], reference.images)
    equal = _alike(reference)
    found["memorization"] = memorization.copying(images, reference.images, equal, None)
    against = {"reference": reference.images} if equal is None else equal._asdict()
    found["fidelity"] = memorization.fidelity(
        images, against, options.spaces, options.inception or None
    )
    return found


def _alike(reference: Reference) -> memorization.Alike | None:
    """As many images of the reference as there are held-out ones, drawn at random: nothing is known of their classes."""
    if reference.held_out is None:
        return None
    count, rng = min(len(reference.held_out), len(reference.images)), np.random.default_rng(0)
    drawn = (rng.permutation(len(x))[:count] for x in (reference.images, reference.held_out))
    return memorization.Alike(
        *(x[np.sort(i)] for x, i in zip((reference.images, reference.held_out), drawn, strict=True))
    )
