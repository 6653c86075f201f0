"""Trained cells with the mid-block bypassed by a fraction, from files to files: what it does to their samples.

The same noises at every fraction. What 0 is compared with is the cell itself, nothing bypassed: one point for all forms.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxdiff import files, models, results
from jaxdiff.cells import cell as cells
from jaxdiff.cells import data
from jaxdiff.datasets.images import to_uint8
from jaxdiff.estimates import mean_t
from jaxdiff.features import classifier
from jaxdiff.features import extractors as spaces
from jaxdiff.measures import distributions, memorization, shares
from jaxdiff.measures.effective_k import effective_k, noise_to_signal
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.progress import Progress
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.study import measure, stages
from jaxdiff.study.memorization import alike
from jaxdiff.unet import Bypassed, abstract, parameter_count

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """What a cell's samples are measured by: the cell, its dataset's identity and its splits, the study's classifiers."""

    cell: cells.Cell
    folder: epath.Path
    identity: Row
    splits: data.Splits
    settings: Row

    @property
    def shared(self) -> epath.Path:
        return self.folder.resolve().parent.parent / "shared"

    @functools.cached_property
    def references(self) -> tuple[spaces.Space, dict[str, np.ndarray]]:
        """The feature space of KID, and its features of as many training and held-out images."""
        m = self.cell.settings["measures"]
        space = spaces.space(
            next((name for name in m["spaces"] if name != "pixels"), "pixels"),
            m["inception"] or None,
        )
        return space, {
            name: space(images) for name, images in alike(self.cell, self.splits)._asdict().items()
        }


def open_studies(
    paths: Mapping[str, epath.Path],
    settings: Row,
    places: data.Places,
    workdir: epath.Path,
    progress: Progress,
) -> dict[str, Study]:
    """Of cells' folders, by name. Raises ValueError where one is none, is there twice, has no mid-block, was trained on other data
    than are at hand, or has not its study's classifiers beside it."""
    opened = {
        name: _open(path, settings, places, workdir, progress) for name, path in paths.items()
    }
    seen: dict[tuple[str, int], str] = {}
    for name, study in opened.items():
        other = seen.setdefault((_kin(study.cell), study.cell.seed), name)
        if other != name:
            raise ValueError(
                f"{name} and {other} are the same model of the same seed; give each cell once"
            )
    return opened


def _open(
    path: epath.Path, settings: Row, places: data.Places, workdir: epath.Path, progress: Progress
) -> Study:
    config, schedule, _, own = models.describe(path)
    if "proportions" not in own:
        raise ValueError(
            f"{path} has no training data that it names; give a trained cell, as runs/STUDY/cells/NAME"
        )
    for form in settings["forms"]:
        Bypassed(
            abstract(config),
            0.0,
            schedule.steps,
            form=form,
            window=settings["window"],
            ramp=settings["ramp"],
        )
    cell, source = cells.of_settings(path.name, own), data.dataset(own, places.data_dir).source
    result = path / "result.json"
    trained = files.read_json(result)["cell"]["data"] if result.exists() else source.about
    if trained != source.about:
        raise ValueError(
            f"{path} was trained on {trained}, and here are {source.about}; give those as --data_dir"
        )
    splits = functools.cache(lambda: data.load(cell, places, workdir, progress))
    found = Study(cell, path, source.identity, splits, settings)
    if not (found.shared / "confusion.json").exists():
        raise ValueError(
            f"{path} has no {found.shared}, where its study's classifiers are; keep the folders of a study together"
        )
    return found


def _kin(cell: cells.Cell) -> str:
    """The same for cells that differ in their seed alone."""
    own = ("seed", "majority", "minority", "measures")
    return files.fingerprint({key: value for key, value in cell.settings.items() if key not in own})


def points(settings: Row) -> list[tuple[str, float]]:
    """(form, fraction): nothing bypassed first, which has no form."""
    return [
        ("", 0.0),
        *((form, p) for form in settings["forms"] for p in settings["fractions"] if p > 0),
    ]


def run(
    opened: Mapping[str, Study], settings: Row, workdir: epath.Path, progress: Progress
) -> dict[str, Row]:
    """What bypass.json has of each cell by name; each point is kept when it is done, its samples under workdir/samples."""
    todo, found = points(settings), {}
    for i, (name, study) in enumerate(opened.items()):
        inputs = _inputs(study)
        drawers: dict[str, Sampler] = {}  # one a form: each is compiled once
        rows: list[Row] = []
        for j, (form, p) in enumerate(todo):
            progress("bypass", i * len(todo) + j, len(opened) * len(todo), f"{name} {form} {p:g}")
            part = f"{name}-{form}-{p:g}" if form else f"{name}-0"
            outputs = (f"parts/{part}.json", f"samples/{part}.npz")
            make = functools.partial(_write, study, form, p, drawers, workdir, part, f"{name}-0")
            stages.stage(workdir, part, inputs | {"form": form, "p": p}, outputs, make)
            rows += [
                {"form": form, "p": p} | row
                for row in files.read_json(workdir / outputs[0])["rows"]
            ]
        own, cell = (
            {key: study.cell.settings["data"][key] for key in ("source", "size")},
            study.cell,
        )
        found[name] = {"kind": "cell", "model": cell.model, "depth": cell.unet.depth, "seed": cell.seed, "n": cell.n,
                       "proportions": list(cell.proportions), "parameters": parameter_count(cell.unet), **own,
                       "prediction": cell.settings["diffusion"]["prediction"], "kin": _kin(cell),
                       "bottleneck": cell.unet.bottleneck(own["size"]), "rows": rows}  # fmt: skip
    if opened:
        progress("bypass", len(opened) * len(todo), len(opened) * len(todo), "")
    return found


def _inputs(study: Study) -> Row:
    """What every point depends on."""
    s, m = study.settings, study.cell.settings["measures"]
    judges = ["confusion.json", *(f"{name}.npz" for name in classifier.ARCHITECTURES)]
    return {"weights": stages.init_checksums(str(study.folder)), "judge": files.checksums(study.shared, judges), "data": study.identity,
            "settings": {key: s[key] for key in ("window", "ramp", "num", "queries", "noise")},
            "measures": {key: m[key] for key in ("lpips", "weights_dir", "spaces")},
            "inception": files.sha256(m["inception"]) if m["inception"] else ""}  # fmt: skip


def _write(
    study: Study,
    form: str,
    p: float,
    drawers: dict[str, Sampler],
    workdir: epath.Path,
    part: str,
    plainly: str,
) -> None:
    """plainly: the part of nothing bypassed."""
    drawer = _drawer(study, form, p, drawers)
    count = study.settings["num"] or study.cell.settings["sample"]["num"]
    samples = to_uint8(drawer.sample(np.arange(count), study.cell.seed))
    plain = results.read_npz(workdir / "samples" / f"{plainly}.npz")["arr_0"] if form else samples
    rows = [row for rows in _measures(study, samples, drawer) for row in rows] + [
        _moved(samples, plain)
    ]
    results.write_samples(workdir / "samples" / f"{part}.npz", samples, np.arange(count))
    files.write_json(workdir / "parts" / f"{part}.json", {"rows": rows})


def _drawer(study: Study, form: str, p: float, drawers: dict[str, Sampler]) -> Sampler:
    model, s = models.load(study.folder), study.settings
    unet: Any = model.unet
    if form:
        unet = Bypassed(
            unet,
            p,
            model.schedule.steps,
            form=form,  # type: ignore[arg-type]
            window=s["window"],
            ramp=s["ramp"],
        )
    if form not in drawers:
        sample = study.cell.settings["sample"]
        drawers[form] = Sampler(
            dataclasses.replace(model, unet=unet),
            SamplerSpec.from_settings(sample),
            batch=sample["batch"],
        )
    drawers[form].set_params(unet)
    return drawers[form]


def _measures(study: Study, samples: np.ndarray, drawer: Sampler) -> Iterator[list[Row]]:
    """The gate and its shares of other things, the minority's share, LPIPS, neighbors, copying, KID, and the effective k.

    What is known of each sample stands beside the mean as `values`: samples of the same noise are compared in pairs.
    """
    cell, train = study.cell, study.splits()["train"]
    roles, m = (cell.majority, cell.minority), cell.settings["measures"]
    judges = measure.classifiers(study.shared)
    label, probability = classifier.classify(judges["convolutional"], samples)
    reading = shares.Reading(
        label, probability, classifier.classify(judges["perceptron"], samples)[0]
    )
    confusion = np.array(
        files.read_json(study.shared / "confusion.json")["matrix"]["convolutional"]
    )
    yield _called("quality", _with(shares.quality(reading, roles), "gate", np.isin(label, roles)))
    yield _called(
        "share", shares.minority_share(reading, *roles, confusion, None, cell.proportions[1])
    )
    if m["lpips"] != "none":
        net = LPIPS.load(m["lpips"], m["weights_dir"] or None)
        mix = dict(zip(roles, cell.proportions, strict=True))
        yield _called("lpips", measure.diversity(net.pairwise(samples, label), mix, net.space))
    flat = train.images.reshape(len(train.images), -1)
    pixels = spaces.space("pixels")
    rows, found = measure.neighbor_rows({"samples": samples}, pixels(train.images), pixels, (1, 2))
    near = found["samples"][0]
    yield _called(
        "neighbors",
        _with([row for row in rows if row["k"] == 1], "kth", near[:, 0] / flat.shape[1] ** 0.5),
    )
    copied = memorization.copying({"samples": samples.reshape(len(samples), -1)}, flat)
    yield _called(
        "memorization",
        _with(copied, "memorized", near[:, 0] / np.maximum(near[:, 1], 1e-12) < memorization.RATIO),
    )
    space, references = study.references
    fake = space(samples)
    for against, real in references.items():
        if min(len(real), len(fake)) > distributions.K:
            yield _called(
                "fidelity",
                [distributions.kid(real, fake) | {"space": space.name, "against": against}],
            )
    if study.settings["queries"]:
        yield _called(
            "effective_k",
            _effective_k(study, drawer, 2.0 * train.images.astype(np.float32) / 255.0 - 1.0),
        )


def _with(rows: list[Row], name: str, values: np.ndarray) -> list[Row]:
    """The row of that name with its value for each sample."""
    return [
        row | {"values": values.astype(float).tolist()} if row["name"] == name else row
        for row in rows
    ]


def _moved(samples: np.ndarray, plain: np.ndarray) -> Row:
    """RMS difference a pixel, of [0, 1], from the samples of the same noise with nothing bypassed."""
    apart = np.square((samples.astype(float) - plain) / 255.0).mean(axis=(1, 2, 3)) ** 0.5
    mean, low, high = mean_t(apart.tolist()) or (float(apart[0]), None, None)
    return {"measure": "moved", "name": "rms", "value": mean, "low": low, "high": high, "n": len(apart),
            "interval": "t 95 % over samples"}  # fmt: skip


def _called(measure_name: str, rows: list[Row]) -> list[Row]:
    return [{"measure": measure_name} | row for row in rows]


def _effective_k(study: Study, drawer: Sampler, memory: np.ndarray) -> list[Row]:
    """On the samples' own path. Undefined where the mid-block is not bypassed at that noise level."""
    schedule, s = drawer.model.schedule, study.settings
    level = round(s["noise"] * (schedule.steps - 1))
    (t, xt), *_ = drawer.trajectory(np.arange(s["queries"]), study.cell.seed, [level]).items()
    unet = drawer.model.unet
    if isinstance(unet, Bypassed) and not float(unet.share(jnp.array([t]))[0]):
        why = f"nothing is bypassed at t = {t}, outside the window"
        return [
            {
                "name": "k_eff",
                "value": None,
                "low": None,
                "high": None,
                "n": len(xt),
                "interval": "none",
                "why": why,
                "t": int(t),
            }
        ]
    x0_hat = drawer.predict(xt, np.full(len(xt), t))[0]
    return [
        row | {"t": int(t)}
        for row in effective_k(xt, x0_hat, memory, {}, *noise_to_signal(schedule, t))
    ]
