"""Comparisons between finished models on the noise that they share: flips and similarity.

All models of a seed draw their samples from that seed's own noise bank, so they are compared on
all of them. Models of different seeds share the common bank alone, which is smaller.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int, UInt8

from jaxdiff import files
from jaxdiff.measures import bias_variance, flips
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.progress import Progress, no_progress
from jaxdiff.results import CellResult, Result, SetResult, mixture_key
from jaxdiff.settings import MeasureSettings
from jaxdiff.source_code import code_digest
from jaxdiff.stage import NO_REDO, Redo, run_stage
from jaxdiff.study import inversion
from jaxdiff.study.differences import describe_difference

NUM_SIMILAR = 256  # noises whose images are compared by LPIPS, at most
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Bank = Literal["seed", "common"]  # of a seed, for all its models; or of all seeds


class Draws(NamedTuple):
    """What a model draws from a noise bank: images and their classes."""

    images: UInt8[np.ndarray, "_n height width channel"]
    labels: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, result: Result, bank: Bank) -> "Draws":
        """The samples of a result from one bank."""
        if bank == "seed":
            return cls(result.samples, result.labels)
        return cls(result.common, result.common_labels)


class Pair(NamedTuple):
    """Two models on the same noise.

    Parameters
    ----------
    kind
        What they are: two models of one seed, one model of two seeds, or two sets of images.
    a, b
        Their results.
    """

    kind: Literal["model", "seed", "set"]
    a: Result
    b: Result

    @property
    def bank(self) -> Bank:
        """The noise that both draw from: that of their seed, or the one of all seeds."""
        return "seed" if self.kind == "model" else "common"

    @property
    def labels(self) -> dict[str, Any]:
        """What tells the rows of this pair from those of others."""
        labels = {"kind": self.kind, "a": self.a.name, "b": self.b.name, "bank": self.bank}
        if isinstance(self.a, CellResult) and isinstance(self.b, CellResult):
            differs = "seed" if self.kind == "seed" else describe_difference(self.a, self.b)
            labels["differs"] = differs
        return labels

    @property
    def draws(self) -> tuple[Draws, Draws]:
        """What either model draws from the noises that both have drawn from."""
        draws = [Draws.of(result, self.bank) for result in (self.a, self.b)]
        # Of a published cell there are fewer images than classes.
        images = min(len(draw.images) for draw in draws)
        labels = min(len(draw.labels) for draw in draws)
        first, second = (Draws(draw.images[:images], draw.labels[:labels]) for draw in draws)
        return first, second


def cell_pairs(cells: Sequence[CellResult]) -> list[Pair]:
    """The pairs that a study compares, among cells of one mixture and number of images.

    "model": the shallowest model and each other one, of one seed. "seed": a seed and the next one
    with the same majority, of one model, where both have drawn from the common bank.
    """
    pairs = []
    for group in _group_by_data(cells):
        for cell in group:
            # Shallow models come first in the group: this is the shallowest of the seed.
            base = next(c for c in group if c.info.seed == cell.info.seed)
            if base is not cell:
                pairs.append(Pair("model", base, cell))
            later = [
                c for c in group if c.info.model == cell.info.model and c.info.seed > cell.info.seed
            ]
            if later and len(cell.common) and len(later[0].common):
                pairs.append(Pair("seed", cell, later[0]))
    return pairs


def set_pairs(sets: Sequence[SetResult]) -> list[Pair]:
    """The first set and each other one."""
    return [Pair("set", sets[0], other) for other in sets[1:]]


def _rank(cell: CellResult) -> tuple:
    return (cell.info.depth, cell.info.parameters, cell.info.seed)


def _group_by_data(cells: Sequence[CellResult]) -> Iterator[list[CellResult]]:
    """Cells of the same training mixture, shallow ones first."""
    ordered = sorted(cells, key=lambda cell: (mixture_key(cell), _rank(cell)))
    for _, group in itertools.groupby(ordered, key=mixture_key):
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
    a, b = pair.draws
    content: dict[str, list[dict[str, Any]]] = {"flips": [], "similarity": []}
    if _has_classes(pair.a):
        counts = flips.count_flips(_roles(pair.a, a.labels), _roles(pair.b, b.labels))
        content["flips"].append(pair.labels | counts.to_json())
    is_similar_kind = pair.kind != "seed" or are_disjoint(pair)
    if distance is not None and is_similar_kind:
        estimates = flips.similarity(a.images[:NUM_SIMILAR], b.images[:NUM_SIMILAR], distance)
        content["similarity"] = [pair.labels | estimate.to_json() for estimate in estimates]
    return content


def _has_classes(result: Result) -> bool:
    return result.info.majority is not None and result.info.majority != result.info.minority


def _roles(result: Result, labels: Int[np.ndarray, " n"]) -> flips.RoleIndices:
    """Role of each label: majority, minority or neither."""
    majority = result.info.majority
    minority = result.info.minority
    assert majority is not None
    assert minority is not None
    return flips.role_indices(labels, majority, minority)


def bias_variance_on_noise(cells: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Bias and variance over seeds on the noise that they share."""
    rows = []
    comparable = [cell for cell in cells if len(cell.common) and _has_classes(cell)]
    for group in inversion.group_over_seeds(comparable):
        roles = np.stack([_roles(cell, cell.common_labels) for cell in group])
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
    # Besides its module and the measures in it.
    code = (cell_pairs, describe_difference, inversion.group_over_seeds, LPIPS)
    has_common = any(len(cell.common) for cell in cells)
    names = ["result.json", "classes.npz", "samples.npz", *(["common.npz"] if has_common else [])]
    inputs = {
        "cells": {
            cell.name: files.checksums(workdir / "cells" / cell.name, names) for cell in cells
        },
        "lpips": settings.lpips,
        "inverted": [files.sha256(path) for path in inverted],
        "code": code_digest(*code),
    }

    def make() -> None:
        rows = bias_variance_on_noise(cells)
        for path in inverted:
            rows += files.read_json(path)["bias_variance"]
        pairs = cell_pairs(cells)
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
    names = ["result.json", "classes.npz", "common.npz"]
    inputs = {
        "sets": {
            result.name: files.checksums(workdir / "sets" / result.name, names) for result in sets
        },
        "lpips": settings.lpips,
        "code": code_digest(set_pairs, flips.count_flips, LPIPS),
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
