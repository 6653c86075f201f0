"""Measuring a cell: its classifiers, its shares, its diversity, its neighbors; each from files to a file."""

import math
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files, results
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import Splits
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.datasets.mixtures import mixture
from jaxdiff.datasets.registry import Split
from jaxdiff.estimates import Estimate, mean_t
from jaxdiff.features import classifier
from jaxdiff.features import extractors as spaces
from jaxdiff.measures import shares
from jaxdiff.measures.lpips import LPIPS, Pairwise
from jaxdiff.measures.neighbors import nearest
from jaxdiff.progress import Progress
from jaxdiff.sampling import Sampler, mean_eps_slope
from jaxdiff.unet import Params, parameter_count

KEPT, SHOWN = (
    64,
    3,
)  # samples whose nearest training images are kept as images, and how many of each
DENOISED_FROM = (
    0.3  # of all noise levels: where held-out images are noised to before the cell denoises them
)


def train_classifiers(
    settings: dict[str, Any],
    classes: tuple[int, int],
    known: int,
    folder: epath.Path,
    splits: Splits,
) -> dict[str, Any]:
    """Two architectures, trained alike; their confusion matrices on images they never saw, and the gate's own test.

    known: the dataset's classes; classes: the study's two of them. (Where there are no others, nothing is said of them.)
    """
    seen, test, held_out = (
        splits()[name] for name in ("classifier", "classifier_test", "held_out")
    )
    found: dict[str, Any] = {"matrix": {}}
    for name in classifier.ARCHITECTURES:
        params = classifier.train(seen.images, seen.labels, steps=settings["steps"], num_classes=known,
                                  architecture=name)  # fmt: skip
        called = classifier.classify(params, test.images)[0]
        found["matrix"][name] = shares.confusion_matrix(test.labels, called, known + 1).tolist()
        results.write_npz(folder / f"{name}.npz", **{k: np.asarray(v) for k, v in params.items()})
        if name == "convolutional":
            called, mine = (
                classifier.classify(params, held_out.images)[0],
                np.isin(held_out.labels, classes),
            )
            found["gate"] = {"held_out": float(np.isin(called[mine], classes).mean()),
                             "other_classes": None if mine.all() else float(np.isin(called[~mine], classes).mean())}  # fmt: skip
    files.write_json(folder / "confusion.json", found)
    return found


def classifiers(shared: epath.Path) -> dict[str, Params]:
    """The study's classifiers by architecture."""
    return {
        name: {
            key: jnp.asarray(value)
            for key, value in results.read_npz(shared / f"{name}.npz").items()
        }
        for name in classifier.ARCHITECTURES
    }


def classify(folder: epath.Path, shared: epath.Path) -> None:
    """classes.npz: label and probability of every sample, the other architecture's label, and those of the common bank."""
    judges, arrays = classifiers(shared), {}
    samples = results.read_npz(folder / "samples.npz")["arr_0"]
    arrays["label"], arrays["probability"] = classifier.classify(judges["convolutional"], samples)
    arrays["second"] = classifier.classify(judges["perceptron"], samples)[0]
    if (folder / "common.npz").exists():
        common = results.read_npz(folder / "common.npz")["arr_0"]
        arrays["common"] = classifier.classify(judges["convolutional"], common)[0]
    results.write_npz(folder / "classes.npz", **arrays)


def held_out_like(cell: Cell, split: Split) -> Int[np.ndarray, " n"]:
    """Indices of held-out images in the cell's own class mix, to whole images and at least one a class."""
    return mixture(split.labels, in_mix(cell, split))


def in_mix(cell: Cell, *splits: Split) -> dict[int, int]:
    """How many images of either class the largest set in the cell's mix has that every split can give."""
    sizes = [
        [int((split.labels == c).sum()) for c in (cell.majority, cell.minority)] for split in splits
    ]
    majority, minority = (min(pair) for pair in zip(*sizes, strict=True))
    wanted = round(majority * cell.proportions[1] / cell.proportions[0])
    return {cell.majority: majority, cell.minority: min(max(wanted, 1), minority)}


def read_shares(
    folder: epath.Path,
    shared: epath.Path,
    roles: tuple[int, int],
    denoised: np.ndarray | None,
    trained: float,
) -> dict[str, list]:
    """The gate, every reading of the minority's share, and its amplification, from classes.npz and confusion.json."""
    classes = results.read_npz(folder / "classes.npz")
    reading = shares.Reading(classes["label"], classes["probability"], classes["second"])
    confusion = np.array(files.read_json(shared / "confusion.json")["matrix"]["convolutional"])
    share = shares.minority_share(reading, *roles, confusion, denoised, trained)
    return {"quality": shares.quality(reading, roles), "share": share,
            "amplification": shares.amplification(share[0], trained) if share else []}  # fmt: skip


def measure_shares(
    cell: Cell, folder: epath.Path, shared: epath.Path, splits: Splits, drawer: Sampler
) -> None:
    """measures/shares.json: the gate and every reading of the minority's share; the slope of the mean of eps."""
    held_out, roles = splits()["held_out"], (cell.majority, cell.minority)
    mine = np.isin(held_out.labels, roles)
    x0 = to_float(held_out.images[mine])
    again = classifier.classify(
        classifiers(shared)["convolutional"],
        to_uint8(drawer.denoise(x0, round(DENOISED_FROM * drawer.model.schedule.steps), cell.seed)),
    )[0]
    known = len(files.read_json(shared / "confusion.json")["matrix"]["convolutional"])
    denoised = shares.confusion_matrix(held_out.labels[mine], again, known)
    files.write_json(folder / "denoised.json", {"matrix": denoised.tolist()})
    found = read_shares(folder, shared, roles, denoised, cell.proportions[1])
    found["quality"].append(mean_eps_slope(drawer, x0, cell.seed))
    files.write_json(folder / "measures" / "shares.json", found)


def entry(name: str, estimate: Estimate, **more: Any) -> dict[str, Any]:
    """An estimate with a standard error as result.json holds it: the normal 95 % interval, none where there is no error."""
    assert estimate.value is not None
    half = 1.96 * (estimate.standard_error or 0.0)
    ends = (estimate.value - half, estimate.value + half) if math.isfinite(half) else (None, None)
    return {"name": name, "value": estimate.value, "low": ends[0], "high": ends[1], "n": estimate.n,
            "interval": "jackknife 95 %", **more}  # fmt: skip


def diversity(sums: Pairwise, mix: dict[int, float], space: str) -> list[dict[str, Any]]:
    """Mean LPIPS over all pairs, within and between the classes, and at the training mix; what is undefined is left out."""
    known = [c for c in mix if c in sums.labels]
    found: dict[str, Estimate | None] = {
        "all_pairs": sums.overall(),
        "at_training_mix": sums.at_mix(mix),
    }
    found |= {f"within_{c}": sums.within(c) for c in known}
    if len(known) == 2:
        found["between"] = sums.between(*known)
    return [entry(name, value, space=space) for name, value in found.items() if value is not None]


def measure_lpips(cell: Cell, folder: epath.Path, splits: Splits, progress: Progress) -> None:
    """measures/lpips.json: the samples' diversity by LPIPS, and the training images' as the reference."""
    s = cell.settings["measures"]
    net, train = LPIPS.load(s["lpips"], s["weights_dir"] or None), splits()["train"]
    samples = results.read_npz(folder / "samples.npz")["arr_0"]
    called = results.read_npz(folder / "classes.npz")["label"]
    mix, space = dict(zip((cell.majority, cell.minority), cell.proportions, strict=True)), net.space
    progress("lpips", 0, 2, "")
    ours = diversity(net.pairwise(samples, called), mix, space)
    progress("lpips", 1, 2, "")
    real = net.pairwise(train.images).overall()
    progress("lpips", 2, 2, "")
    files.write_json(
        folder / "measures" / "lpips.json",
        {"lpips": [*ours, entry("training_data", real, space=space)]},
    )


def neighbor_rows(
    images: dict[str, np.ndarray], memory: np.ndarray, space: spaces.FeatureExtractor, ks: tuple[int, ...]
) -> tuple[list[dict[str, Any]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Table 3's entries for each set of images against the references' features; and each set's values and indices.

    In pixels the Euclidean distance, as RMS a pixel of [0, 1]; in a feature space the cosine similarity. `kth` is the
    k-th neighbor's, `mean` the mean over the first k.
    """
    metric = "euclidean" if space.name == "pixels" else "cosine"
    rows, found = [], {}
    for name, part in images.items():
        values, indices = nearest(space(part), memory, max(ks), metric)
        found[name] = (values, indices)
        values = values / np.sqrt(memory.shape[1]) if space.name == "pixels" else values
        for k in ks:
            for form, one in (("kth", values[:, k - 1]), ("mean", values[:, :k].mean(axis=1))):
                mean, low, high = mean_t(one.tolist()) or (
                    float(one[0]),
                    float(one[0]),
                    float(one[0]),
                )
                rows.append({"name": form, "k": k, "images": name, "space": space.name, "metric": metric, "value": mean,
                             "low": low, "high": high, "n": len(one), "interval": "t 95 % over images"})  # fmt: skip
    return rows, found


def write_nearest(
    folder: epath.Path, values: np.ndarray, indices: np.ndarray, references: np.ndarray
) -> None:
    """neighbors.npz: each sample's neighbors as values and indices, and the nearest few as images."""
    shown = references[indices[:KEPT, :SHOWN]]
    results.write_npz(folder / "neighbors.npz", value=values, index=indices, images=shown)


def measure_neighbors(cell: Cell, folder: epath.Path, splits: Splits, progress: Progress) -> None:
    """measures/neighbors.json: Table 3; neighbors.npz: each sample's nearest training images in pixels and their distance."""
    s, train, held_out = cell.settings["measures"], splits()["train"].images, splits()["held_out"]
    samples = results.read_npz(folder / "samples.npz")["arr_0"]
    sets = {"samples": samples, "held_out": held_out.images[held_out_like(cell, held_out)]}
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(s["spaces"]):
        progress("neighbors", i, len(s["spaces"]), name)
        space = spaces.load_extractor(name, s["inception"] or None)
        more, found = neighbor_rows(sets, space(train), space, tuple(s["k"]))
        rows += more
        if name == "pixels":
            write_nearest(folder, *found["samples"], train)
    progress("neighbors", len(s["spaces"]), len(s["spaces"]), "")
    files.write_json(folder / "measures" / "neighbors.json", {"neighbors": rows})


def result(cell: Cell, folder: epath.Path, made: Iterable[str], about: str) -> None:
    """result.json: every number of the cell, from the measures' files."""
    own = {
        "name": cell.name, "model": cell.model, "depth": cell.unet.depth, "proportions": list(cell.proportions),
        "data": about, "n": cell.n, "seed": cell.seed, "majority": cell.majority, "minority": cell.minority,
        "parameters": parameter_count(cell.unet), "prediction": cell.settings["diffusion"]["prediction"],
        "bottleneck": cell.unet.bottleneck(cell.settings["data"]["size"]), "time_blind": list(cell.unet.time_blind),
    }  # fmt: skip
    found: dict[str, Any] = {"schema": results.SCHEMA, "cell": own}
    for name in made:
        found |= files.read_json(folder / "measures" / f"{name}.json")
    files.write_json(folder / "result.json", found)
