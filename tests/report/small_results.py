"""Small results with made-up numbers, in memory and as the files that a study writes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, results
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellInfo, CellResult

SIZE = 8
NO_IMAGES = np.zeros((0, SIZE, SIZE, 1), np.uint8)
SPREAD = 0.02  # from a value to either end of its interval
RUN = {"seconds": 1.5, "devices": 1, "device": "cpu"}
DATA = {"source": "digits", "size": SIZE, "classes": [6, 9], "proportions": [[0.8, 0.2]]}
STUDY = {
    "name": "small",
    "data": DATA,
    "models": {"2": "2", "3": "3"},
    "diffusion": {"prediction": "v"},
    "sample": {"method": "ddim", "steps": 5, "clip": True},
}


def estimate(name: str, value: float | None, n: int = 50, **labels: Any) -> Estimate:
    """A value with an interval of +- SPREAD."""
    if value is None:
        return Estimate.undefined(name, n, **labels)
    ends = (value - SPREAD, value + SPREAD)
    return Estimate(value, *ends, n, "made up", name=name, labels=labels)


@dataclasses.dataclass(frozen=True)
class SmallMeasure:
    """A section of result.json and its description."""

    name: str
    estimates: Sequence[Estimate]
    topic: str = "quality"
    table: str = ""
    figure: Mapping[str, Any] | None = None
    title: str = ""
    caption: str = ""

    def to_json(self) -> dict[str, Any]:
        """The content of measures/NAME.json."""
        return {
            "name": self.name,
            "title": self.title or f"Title of {self.name}",
            "caption": self.caption or f"Caption of {self.name}.",
            "topic": self.topic,
            "table": self.table or self.name,
            "figure": self.figure,
            "estimates": [entry.to_json() for entry in self.estimates],
        }


SHARE = SmallMeasure(
    "share",
    [
        estimate("share", 0.15, share_form="forced_choice"),
        estimate("forced_choice", 0.15),
        estimate("gated", 0.13),
        estimate("bounds", 0.16, confidence=0.75, ambiguous=5),
    ],
    topic="shares",
    table="shares",
    figure={
        "estimate": "share",
        "label": "minority among samples, %",
        "scale": 100.0,
        "reference": "trained",
    },
)
QUALITY = SmallMeasure(
    "quality",
    [estimate("gate", 0.9), estimate("other_class", 0.08), estimate("no_class", 0.02)],
)
NEIGHBORS = SmallMeasure(
    "neighbors",
    [
        estimate(name, 0.1, images=images, space="pixels", k=1)
        for name in ("kth", "mean")
        for images in ("samples", "held_out")
    ],
    topic="memorization",
)
LPIPS = SmallMeasure(
    "lpips",
    [estimate("all_pairs", 0.2), estimate("training_data", 0.25)],
    topic="diversity",
    figure={
        "estimate": "all_pairs",
        "label": "LPIPS",
        "scale": 100.0,
        "reference": "training_data",
    },
)
MEMORIZATION = SmallMeasure(
    "memorization",
    [
        estimate("memorized", 0.05, images="samples"),
        estimate("memorized", 0.01, images="unseen"),
        estimate("nearer_to_training", 0.55),
    ],
    topic="memorization",
)
AMPLIFICATION = SmallMeasure("amplification", [estimate("odds_ratio", 1.5)], topic="shares")
CHECKPOINTS = SmallMeasure(
    "checkpoints",
    [
        estimate("odds_ratio", 1.2, step=10),
        estimate("memorized", 0.02, step=10),
        estimate("eps_gap", 0.003, step=10),
        estimate("eps_gap", 0.03, step=20),
    ],
    topic="memorization",
)
EFFECTIVE_K = SmallMeasure(
    "effective_k",
    [
        estimate("k_eff", 3.0, queries="unseen", memory="train", t=100),
        estimate("k_eff", None, queries="unseen", memory="train", t=200, why="too noisy"),
        estimate("r2", 0.8, queries="unseen", memory="train", t=100, denoiser="soft_knn"),
        estimate("r2", 0.6, queries="unseen", memory="unseen", t=100, denoiser="soft_knn"),
        estimate("r2", 0.5, queries="unseen", t=100, denoiser="gaussian"),
    ],
    topic="mechanism",
)
PREDICTED = SmallMeasure(
    "predicted_share",
    [
        estimate("predicted", 0.13, queries="unseen", why="", levels="1 of 6", note="no test"),
        estimate("predicted", None, queries="own path", why="rho is undefined"),
    ],
    topic="mechanism",
    table="predicted",
)
LOSS_BY_CLASS = SmallMeasure(
    "loss_by_class",
    [estimate("lost", value, role=role) for role, value in (("majority", 0.1), ("minority", 0.2))],
)
ALL_MEASURES = (
    SHARE,
    LOSS_BY_CLASS,
    QUALITY,
    NEIGHBORS,
    LPIPS,
    MEMORIZATION,
    AMPLIFICATION,
    CHECKPOINTS,
    EFFECTIVE_K,
    PREDICTED,
)
PROBE_ROWS = [
    {
        "weights": "trained",
        "t": 300,
        "level": 0,
        "reading": "denoiser",
        "name": name,
        "values": [0.8, 0.9],
        "errors": [0.0, 0.0],
    }
    for name in ("spectral_norm", "trace", "asymmetry")
]


def make_info(model: str, seed: int = 0, trained: float = 0.2) -> CellInfo:
    """A cell of 300 images whose depth is its model's name."""
    return CellInfo(
        name=f"{model}-s{seed}",
        model=model,
        depth=int(model),
        proportions=(1 - trained, trained),
        n=300,
        seed=seed,
        majority=6,
        minority=9,
        parameters=1,
        prediction="v",
        bottleneck=SIZE // 2,
        time_blind=(1,),
    )


def make_losses(depth: int, num_images: int = 40) -> dict[str, np.ndarray]:
    """losses.npz of two checkpoints: images differ much, and models by .01 a level of depth."""
    rng = np.random.default_rng(0)
    of_image = rng.gamma(2.0, 0.1, num_images)
    of_model = np.random.default_rng(depth).normal(-0.01 * depth, 0.01, (2, 8, num_images))
    unseen = (of_image + of_model).astype(np.float32)
    return {
        "train": unseen - np.float32(0.02),
        "unseen": unseen,
        "steps": np.array([10, 20]),
        "t": np.arange(8),
    }


def make_cell(info: CellInfo, **sections: Sequence[Estimate]) -> CellResult:
    """A cell in memory, without images."""
    labels = np.zeros(0, int)
    return CellResult(
        name=info.name,
        info=info,
        sections=sections,
        descriptions={},
        run=RUN,
        samples=NO_IMAGES,
        labels=labels,
        common=NO_IMAGES,
        common_labels=labels,
        nearest=NO_IMAGES[:, None],
    )


def make_shares(model: str, *shares: float | None) -> list[CellResult]:
    """A cell of this model for each share of the minority, with the seeds 0, 1, ..."""
    return [
        make_cell(make_info(model, seed), share=[estimate("share", share)])
        for seed, share in enumerate(shares)
    ]


def write_study(
    workdir: epath.PathLike,
    measures: Sequence[SmallMeasure] = ALL_MEASURES,
    *,
    models: Sequence[str] = ("2", "3"),
    is_complete: bool = True,
) -> epath.Path:
    """A study of one seed; an incomplete one has nothing but samples and the measures."""
    workdir = epath.Path(workdir)
    files.write_json(workdir / "study.json", STUDY)
    for model in models:
        info = make_info(model)
        folder = workdir / "cells" / info.name
        _write_images(folder, is_complete)
        result = {"schema": results.SCHEMA, "cell": dataclasses.asdict(info)}
        _write_measures(folder, result, measures)
        files.write_json(folder / "config.json", {"train": {"steps": 20}})
        lines = [f'{{"step": {s}, "loss": 0.5, "images_per_second": 9.0}}\n' for s in (10, 20)]
        files.write(folder / "metrics.jsonl", "".join(lines) if is_complete else "")
        if is_complete:
            files.write_json(folder / "probe.json", {"rows": PROBE_ROWS})
            results.write_npz(folder / "losses.npz", **make_losses(info.depth))
    if is_complete:
        _write_comparisons(workdir / "shared", *(make_info(model).name for model in models[:2]))
    return workdir


def write_sets(
    workdir: epath.PathLike,
    measures: Sequence[SmallMeasure] = (NEIGHBORS, LPIPS),
    *,
    names: Sequence[str] = ("theirs", "ours"),
    trained: float | None = None,
) -> epath.Path:
    """Sets of images, as experiments.evaluate leaves them."""
    workdir = epath.Path(workdir)
    data = {"source": "faces", "size": [SIZE, SIZE], "classes": [], "n": 30, "sets": list(names)}
    files.write_json(workdir / "study.json", {"name": "sets", "data": data, "measures": {}})
    for position, name in enumerate(names):
        folder = workdir / "sets" / name
        _write_images(folder, is_complete=False)
        info = results.SetInfo(name, position, "faces", 30, trained=trained)
        result = {"schema": results.SCHEMA, "set": dataclasses.asdict(info)}
        _write_measures(folder, result, measures)
    return workdir


def _write_measures(
    folder: epath.Path, result: Mapping[str, Any], measures: Sequence[SmallMeasure]
) -> None:
    sections = {measure.name: measure.to_json()["estimates"] for measure in measures}
    files.write_json(folder / "result.json", {**result, **sections})
    files.write_json(folder / "run.json", RUN)
    for measure in measures:
        files.write_json(folder / "measures" / f"{measure.name}.json", measure.to_json())


def _write_images(folder: epath.Path, is_complete: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 1)).astype(np.uint8)
    labels = np.array([6, 9, 6, 3])
    results.write_samples(folder / "samples.npz", images, np.arange(4))
    if is_complete:
        results.write_samples(folder / "common.npz", images, np.arange(4))
        results.write_npz(folder / "classes.npz", label=labels, common=labels)
        results.write_npz(folder / "neighbors.npz", images=images[:, None])


def _write_comparisons(shared: epath.Path, a: str, b: str) -> None:
    pair = {"kind": "model", "a": a, "b": b, "bank": "seed", "differs": "depth and width"}
    selections = [estimate("minority_in_a", 0.5, 4).to_json()]
    flips = {**pair, "n": 4, "b_count": 2, "c_count": 1, "p_value": 1.0, "selections": selections}
    similarity = [
        {**pair, **estimate("lpips", value).to_json(), "pairing": pairing}
        for pairing, value in (("paired", 0.1), ("shuffled", 0.3))
    ]
    bias = {"model": "2", "N": 300, **estimate("variance", 0.1).to_json()}
    comparisons = {"flips": [flips], "similarity": similarity, "bias_variance": [bias]}
    files.write_json(shared / "comparisons.json", comparisons)
    matrix = np.diag([1000, 1000, 0]).tolist()
    confusion = {"matrix": {"convolutional": matrix}, "gate": {"held_out": 0.98}}
    files.write_json(shared / "confusion.json", confusion)
