"""Comparisons between finished models on the noise that they share: flips and similarity."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.measures import bias_variance, flips
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.progress import Progress, no_progress
from jaxdiff.results import CellResult, Result, SetResult
from jaxdiff.settings import MeasureSettings
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, run_stage
from jaxdiff.study import inversion

NUM_SIMILAR = 64  # noises whose images are compared by LPIPS
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Pair(NamedTuple):
    """Two models on the same noise; kind: what differs between them."""

    kind: str
    a: Result
    b: Result


def cell_pairs(cells: Sequence[CellResult]) -> list[Pair]:
    """The pairs that a study compares, among cells of one mixture and number of images.

    "depth": the shallowest model and each deeper one, of one seed. "seed": a seed and the next
    one with the same majority, of one model.
    """
    pairs = []
    for group in _group_by_data(cells):
        for cell in group:
            base = next(c for c in group if c.info.seed == cell.info.seed)
            if base is not cell:
                pairs.append(Pair("depth", base, cell))
            later = [
                c for c in group if c.info.model == cell.info.model and c.info.seed > cell.info.seed
            ]
            if later:
                pairs.append(Pair("seed", cell, later[0]))
    return pairs


def set_pairs(sets: Sequence[SetResult]) -> list[Pair]:
    """The first set and each other one."""
    return [Pair("set", sets[0], other) for other in sets[1:]]


def _data_key(cell: CellResult) -> tuple:
    return (*cell.info.proportions, cell.info.n, cell.info.majority)


def _rank(cell: CellResult) -> tuple:
    return (cell.info.depth, cell.info.parameters, cell.info.seed)


def _group_by_data(cells: Sequence[CellResult]) -> Iterator[list[CellResult]]:
    """Cells of the same training mixture, shallow ones first."""
    ordered = sorted(cells, key=lambda cell: (_data_key(cell), _rank(cell)))
    for _, group in itertools.groupby(ordered, key=_data_key):
        yield list(group)


def are_disjoint(pair: Pair) -> bool:
    """Whether two seeds were trained on different parts of the data, which share no image.

    Where such models draw the same image from the same noise, they have learned the distribution,
    and no image by heart (Kadkhodaie et al. 2024).
    """
    if not isinstance(pair.a, CellResult) or not isinstance(pair.b, CellResult):
        return False
    turn_a, part_a = divmod(pair.a.info.seed, pair.a.config["data"]["parts"])
    turn_b, part_b = divmod(pair.b.info.seed, pair.b.config["data"]["parts"])
    return turn_a == turn_b and part_a != part_b


def compare_pair(pair: Pair, distance: Distance | None) -> dict[str, list[dict[str, Any]]]:
    """Flips, where images have classes, and similarity, of one pair."""
    labels = {"kind": pair.kind, "a": pair.a.name, "b": pair.b.name}
    content: dict[str, list[dict[str, Any]]] = {"flips": [], "similarity": []}
    if _has_classes(pair.a):
        roles_a = _roles(pair.a)
        roles_b = _roles(pair.b)
        content["flips"].append(labels | flips.count_flips(roles_a, roles_b).to_json())
    is_similar_kind = pair.kind != "seed" or are_disjoint(pair)
    if distance is not None and is_similar_kind:
        images_a = pair.a.common[:NUM_SIMILAR]
        images_b = pair.b.common[:NUM_SIMILAR]
        estimates = flips.similarity(images_a, images_b, distance)
        content["similarity"] = [labels | estimate.to_json() for estimate in estimates]
    return content


def _has_classes(result: Result) -> bool:
    return result.info.majority is not None and result.info.majority != result.info.minority


def _roles(result: Result) -> np.ndarray:
    """Role of each common sample: majority, minority or neither."""
    majority = result.info.majority
    minority = result.info.minority
    assert majority is not None
    assert minority is not None
    return flips.role_indices(result.common_labels, majority, minority)


def bias_variance_on_noise(cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Bias and variance over seeds on the noise that they share."""
    rows = []
    comparable = [cell for cell in cells if len(cell.common) and _has_classes(cell)]
    for group in inversion.group_over_seeds(comparable):
        roles = np.stack([_roles(cell) for cell in group])
        classes = np.where(roles == flips.ROLES.index("neither"), -1, roles)
        trained = group[0].info.proportions[1]
        labels = inversion.describe_group(group[0]) | {
            "form": "noise",
            "encoder": "",
            "|x_T|^2/d": None,
            "true": "all",
        }
        estimates = bias_variance.bias_variance_from_noise(classes, trained)
        rows += [labels | estimate.to_json() for estimate in estimates]
    return rows


def write_comparisons(
    path: epath.Path,
    pairs: Sequence[Pair],
    settings: MeasureSettings,
    bias_variance_rows: Sequence[Mapping[str, Any]],
    progress: Progress = no_progress,
) -> None:
    """Write comparisons.json: flips, similarity, and bias and variance."""
    distance = None
    if settings.lpips != "none":
        distance = LPIPS.load(settings.lpips, settings.weights_dir or None).distance
    content: dict[str, list[Any]] = {"flips": [], "similarity": []}
    for i, pair in enumerate(pairs):
        compared = compare_pair(pair, distance)
        for section, rows in compared.items():
            content[section] += rows
        progress("compare", i + 1, len(pairs), f"{pair.a.name} and {pair.b.name}")
    files.write_json(path, content | {"bias_variance": list(bias_variance_rows)})


def run_comparisons(
    cells: Sequence[CellResult],
    workdir: epath.Path,
    settings: MeasureSettings,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> None:
    """Compare the finished cells of a study; shared/comparisons.json."""
    shared = workdir / "shared"
    inverted = inversion.run_inversions(cells, workdir, progress, redo)
    has_common = any(len(cell.common) for cell in cells)
    names = ["result.json", "classes.npz", *(["common.npz"] if has_common else [])]
    inputs = {
        "cells": {
            cell.name: files.checksums(workdir / "cells" / cell.name, names) for cell in cells
        },
        "lpips": settings.lpips,
        "inverted": [files.sha256(path) for path in inverted],
        "code": code_digest(flips.count_flips, bias_variance.two_way_mean, LPIPS),
    }

    def make() -> None:
        rows = bias_variance_on_noise(cells)
        for path in inverted:
            rows += files.read_json(path)["bias_variance"]
        comparable = [cell for cell in cells if len(cell.common)]
        pairs = cell_pairs(comparable)
        write_comparisons(shared / "comparisons.json", pairs, settings, rows, progress)

    run_stage(shared, "comparisons", inputs, ("comparisons.json",), make, redo=redo)


def compare_sets(
    sets: Sequence[SetResult],
    workdir: epath.Path,
    settings: MeasureSettings,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> None:
    """Compare sets of images of the same noise; shared/comparisons.json."""
    shared = workdir / "shared"
    inputs = {
        "sets": {
            result.name: files.checksums(workdir / "sets" / result.name, ["result.json"])
            for result in sets
        },
        "lpips": settings.lpips,
        "code": code_digest(flips.count_flips, LPIPS),
    }
    make = functools.partial(
        write_comparisons,
        shared / "comparisons.json",
        set_pairs(sets),
        settings,
        [],
        progress,
    )
    run_stage(shared, "comparisons", inputs, ("comparisons.json",), make, redo=redo)
