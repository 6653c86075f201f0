"""A cell's memorization and effective k, each from files to a file; the same measures of its earlier checkpoints."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxdiff import checkpoints, files, models, results
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import Splits
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.datasets.mixtures import mixture
from jaxdiff.datasets.registry import Split
from jaxdiff.features import classifier
from jaxdiff.features import extractors as spaces
from jaxdiff.landscape import retrieval
from jaxdiff.measures import distributions, memorization, shares
from jaxdiff.measures.effective_k import effective_k, noise_to_signal
from jaxdiff.progress import Progress
from jaxdiff.sampling import COMMON_SEED, Sampler
from jaxdiff.study import measure

Images = UInt8[np.ndarray, "_n _h _w _c"]
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # of all noise levels, at which the effective k is fitted
SAME_NOISE = (
    2**31 - 2
)  # the "seed" of the noise at which losses are compared, the same for all models and checkpoints


class Alike(NamedTuple):
    """Held-out images in a cell's class mix, and as many training images in the same mix."""

    train: Images
    held_out: Images


def alike(cell: Cell, splits: Splits) -> Alike:
    """The largest such pair of sets that both have."""
    train, held_out = splits()["train"], splits()["held_out"]
    counts = measure.in_mix(cell, train, held_out)
    return Alike(*(split.images[mixture(split.labels, counts)] for split in (train, held_out)))


def unseen(cell: Cell, split: Split, count: int) -> Images:
    """At most so many images in the cell's class mix; of a pool that neither the cell nor the control memory has."""
    majority, minority = (int((split.labels == c).sum()) for c in (cell.majority, cell.minority))
    few = min(max(1, round(count * cell.proportions[1])), minority)
    return split.images[
        mixture(split.labels, {cell.majority: min(count - few, majority), cell.minority: few})
    ]


def copying(
    samples: Images, train: Images, equal: Alike | None, others: Images | None
) -> list[dict[str, Any]]:
    """Every measure of copying, in pixels. others: a second set from the same model."""
    rows, memory = _rows(samples), _rows(train)
    sets = {"samples": rows} | ({} if equal is None else {"held_out": _rows(equal.held_out)})
    found = memorization.copying(sets, memory)
    if equal is not None:
        found.append(memorization.nearer_to_training(rows, _rows(equal.train), sets["held_out"]))
        if others is not None and len(others):
            kinds = memorization.kinds(rows, _rows(others), memory, sets["held_out"])
            scale = 255.0 * rows.shape[1] ** 0.5  # as Table 3: the RMS difference a pixel of [0, 1]
            found += [row | {"threshold": row["threshold"] / scale} for row in kinds]
    return found


def _rows(images: Images) -> UInt8[np.ndarray, "_n d"]:
    return images.reshape(len(images), -1)


def fidelity(
    samples: Images, references: dict[str, Images], chosen: Sequence[str], inception: str | None
) -> list[dict[str, Any]]:
    """PRDC, FID and KID against each set of references, in every feature space that is asked for (pixels if in none else)."""
    found = []
    for name in [name for name in chosen if name != "pixels"] or ["pixels"]:
        space = spaces.space(name, inception)
        fake = space(samples)
        for against, images in references.items():
            real = space(images)
            if min(len(real), len(fake)) > distributions.K:
                rows = [
                    *distributions.prdc(real, fake),
                    distributions.fid(real, fake),
                    distributions.kid(real, fake),
                ]
                found += [row | {"space": name, "against": against} for row in rows]
    return found


def measure_memorization(
    cell: Cell, folder: epath.Path, splits: Splits, progress: Progress
) -> None:
    """measures/memorization.json: copying, and distances to the training and to held-out images as distributions."""
    s, train, equal = cell.settings["measures"], splits()["train"].images, alike(cell, splits)
    samples = results.read_npz(folder / "samples.npz")["arr_0"]
    others = (
        results.read_npz(folder / "common.npz")["arr_0"]
        if (folder / "common.npz").exists()
        else None
    )
    progress("memorization", 0, 2, "")
    found = {"memorization": copying(samples, train, equal, others)}
    progress("memorization", 1, 2, "")
    found["fidelity"] = fidelity(samples, equal._asdict(), s["spaces"], s["inception"] or None)
    progress("memorization", 2, 2, "")
    files.write_json(folder / "measures" / "memorization.json", found)


def measure_checkpoints(
    cell: Cell,
    folder: epath.Path,
    shared: epath.Path,
    splits: Splits,
    drawer: Sampler,
    progress: Progress,
) -> None:
    """measures/checkpoints.json: at every checkpoint that is kept, the eps loss of training and of held-out images at the
    same noise; at those before the last also the memorized fraction and the amplification of a few samples."""
    s, equal, memory = cell.settings, alike(cell, splits), _rows(splits()["train"].images)
    kept, rows = checkpoints.steps(folder / "checkpoints"), []
    judge, roles = measure.classifiers(shared)["convolutional"], (cell.majority, cell.minority)
    for i, step in enumerate(kept):  # the last one is the drawer's own again
        progress("checkpoints", i, len(kept), "")
        drawer.set_params(models.load(folder, step).unet)
        losses = [memorization.eps_losses(lambda xt, t: drawer.predict(xt, t)[1], drawer.model.schedule, to_float(x),
                                          SAME_NOISE) for x in equal]  # fmt: skip
        here = memorization.loss_gap(*losses)
        if step != kept[-1] and s["measures"]["checkpoints"]:
            samples = to_uint8(drawer.sample(np.arange(s["measures"]["checkpoints"]), COMMON_SEED))
            here += _early(samples, memory, judge, roles, cell.proportions[1])
        rows += [row | {"step": step} for row in here]
    progress("checkpoints", len(kept), len(kept), "")
    files.write_json(folder / "measures" / "checkpoints.json", {"checkpoints": rows})


def _early(
    samples: Images, memory: np.ndarray, judge: dict, roles: tuple[int, int], trained: float
) -> list[dict]:
    """What the central figure needs of a checkpoint's few samples."""
    called = classifier.classify(judge, samples)[0]
    either = [int((called == role).sum()) for role in roles]
    found = [memorization.copying({"samples": _rows(samples)}, memory)[0]]
    found.append(shares.proportion("gate", sum(either), len(called)))
    if sum(either):
        share = shares.proportion("classified", either[1], sum(either))
        found += [share, *shares.amplification(share, trained)]
    return found


def measure_effective_k(
    cell: Cell, folder: epath.Path, splits: Splits, drawer: Sampler, progress: Progress
) -> None:  # fmt: skip
    """measures/effective_k.json: at several noise levels, of noised images that no one has seen and of the cell's own
    samples on their path, the soft k-NN denoiser that the cell is most like."""
    queries = cell.settings["measures"]["queries"]
    train, equal = splits()["train"].images, alike(cell, splits)
    memory, *controls = (
        2.0 * images.astype(np.float32) / 255.0 - 1.0 for images in (train, *equal)
    )
    named = dict(zip(("as many of train", "held_out"), controls, strict=True))
    schedule = drawer.model.schedule
    levels = [round(level * schedule.steps) for level in LEVELS]
    x0 = to_float(unseen(cell, splits()["classifier_test"], queries))
    states = {"unseen": {t: np.asarray(memorization.noised(schedule, x0, t, SAME_NOISE)[0]) for t in levels},
              "own path": drawer.trajectory(np.arange(queries), cell.seed, levels)}  # fmt: skip
    rows, done = [], 0
    for name, at in states.items():
        for t, xt in at.items():
            progress("effective k", done, 2 * len(levels), f"{name}, t = {t}")
            x0_hat = drawer.predict(xt, np.full(len(xt), t))[0]
            found = effective_k(xt, x0_hat, memory, named, *noise_to_signal(schedule, t))
            rows += [row | {"queries": name, "t": int(t)} for row in found]
            done += 1
    progress("effective k", 2 * len(levels), 2 * len(levels), "")
    files.write_json(folder / "measures" / "effective_k.json", {"effective_k": rows})


def measure_predicted(cell: Cell, folder: epath.Path, splits: Splits) -> None:
    """measures/predicted.json: the minority's share that the fitted rho predicts: among samples of the smoothed sampler, whose
    denoiser is the soft k-NN one that the cell is most like, from its own training images.

    rho is interpolated in its logarithm between the noise levels where it is defined, and held beyond them."""
    (_, schedule, _, _), train, rows = models.describe(folder), splits()["train"], []
    fitted = files.read_json(folder / "measures" / "effective_k.json")["effective_k"]
    points = jnp.asarray(_rows(train.images).astype(np.float32) / 127.5 - 1.0)
    minority, s = (train.labels == cell.minority).astype(np.int64), cell.settings["sample"]
    for name in dict.fromkeys(row["queries"] for row in fitted):
        known = sorted((row["t"], row["value"]) for row in fitted
                       if row["queries"] == name and row["name"] == "rho" and row["value"] is not None)  # fmt: skip
        about = {"queries": name, "defined at t": " ".join(str(t) for t, _ in known)}
        if not known:
            nothing = {"value": None, "low": None, "high": None, "n": 0, "interval": "none"}
            rows.append(
                {
                    "name": "predicted",
                    **nothing,
                    **about,
                    "why": "rho is undefined at every noise level",
                }
            )
            continue
        times, values = np.array(known).T
        rho = np.exp(np.interp(np.arange(schedule.steps), times, np.log(values))).astype(np.float32)
        key = jax.random.key(cell.seed)
        _, weights = retrieval.smoothed_sampler(points, schedule, rho, key, s["num"], s["steps"])
        soft = retrieval.soft_labels(weights, minority, 2)[:, 1]
        rows.append(
            shares.proportion("predicted", int((soft > 0.5).sum()), len(soft)) | about | {"why": ""}
        )
    files.write_json(folder / "measures" / "predicted.json", {"predicted_share": rows})
