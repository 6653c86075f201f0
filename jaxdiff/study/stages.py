"""The stages of a cell, from files to files.

A stage is done when its record names the inputs that it would have now and its outputs still have the bytes that it
wrote. A stage that is done is skipped, so running the same command again resumes.
"""

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxdiff import files, models, parallel, results
from jaxdiff.cells import data
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets.images import to_uint8
from jaxdiff.features.classifier import ARCHITECTURES
from jaxdiff.progress import Progress
from jaxdiff.sampling import COMMON, Sampler
from jaxdiff.study import curvature, inversion, lock, measure, memorization
from jaxdiff.study import pairwise as compare
from jaxdiff.study.provenance import environment
from jaxdiff.study.train import train


def stage(
    folder: epath.Path, name: str, inputs: Any, outputs: tuple[str, ...], make: Callable[[], object],
    together: bool = False,
) -> dict[str, str]:  # fmt: skip
    """Run `make` unless the stage is done; the checksums of its outputs, which are the inputs of later stages.

    Where several processes share the cell the leader runs `make` alone, unless all do it `together`.
    """
    record, wanted = folder / "stages" / f"{name}.json", files.fingerprint(inputs)
    if not parallel.leaders(np.bool_(_is_done(record, wanted, folder, outputs))):
        if together or parallel.is_leader():
            make()

        def finish():
            return files.write_json(
                record, {"inputs": wanted, "outputs": files.checksums(folder, outputs)}
            )

        parallel.by_leader(name, finish)
    return files.read_json(record)["outputs"]


def _is_done(record: epath.Path, wanted: str, folder: epath.Path, outputs: tuple[str, ...]) -> bool:
    if not record.exists():
        return False
    done = files.read_json(record)
    try:
        return done["inputs"] == wanted and files.checksums(folder, outputs) == done["outputs"]
    except OSError:
        return False  # an output is gone: make it again


def run_cell(
    cell: Cell,
    workdir: epath.Path,
    progress: Progress,
    profile: bool = False,
    places: data.Places | None = None,
) -> None:
    """Train, sample, classify and measure one cell under workdir/cells, skipping what is done.

    Raises ValueError where the folder holds a cell of the same name with other settings.
    """
    folder, shared, s = workdir / "cells" / cell.name, workdir / "shared", cell.settings
    claim(folder / "config.json", s, fixed=without_measures)
    places = places or data.Places()
    found = data.dataset(s, places.data_dir)
    splits = functools.cache(lambda: data.load(cell, places, workdir, progress))
    looks = {"data": found.source.identity, "attribute": s["data"]["attribute"]}
    classes, count = (cell.majority, cell.minority), s["measures"]["inverted"]
    with lock.lock(shared, waiting("the classifiers", progress)):
        judge = shared_classifiers(
            s["classifier"], looks, classes, len(found.classes), shared, splits, progress
        )
        if count:
            inputs = {"looks": looks, "classes": sorted(classes), "images": count}
            stage(shared, "inverted", inputs, (inversion.IMAGES,),
                  lambda: inversion.keep_images(shared / inversion.IMAGES, splits()["held_out"], sorted(classes), count))  # fmt: skip
    started = time.time()
    trained = {key: s[key] for key in s if key not in ("sample", "classifier", "measures")}
    trained["identity"] = found.source.identity
    if s["train"]["init"]:
        trained["init"] = init_checksums(s["train"]["init"])
    stage(folder, "train", trained, (f"checkpoints/{s['train']['steps']}", "metrics.jsonl"),
          lambda: train_together(cell, folder, splits, progress, workdir / "profile" if profile else None), True)  # fmt: skip
    drawer = functools.cache(
        lambda: Sampler(models.load(folder), s["sample"], progress, together=True)
    )
    alone = drawer if jax.process_count() == 1 else functools.cache(
        lambda: Sampler(models.load(folder), s["sample"], progress)
    )  # fmt: skip
    kinds = ("samples.npz", "common.npz") if s["sample"]["common"] else ("samples.npz",)
    drawn = stage(folder, "sample", {"trained": trained, "sample": s["sample"]}, kinds,
                  lambda: sample(cell, folder, drawer()), True)  # fmt: skip
    called = stage(folder, "classify", {"samples": drawn, "judge": judge}, ("classes.npz",),
                   lambda: measure.classify(folder, shared))  # fmt: skip
    made = {}
    known = {"trained": trained, "drawn": drawn, "called": called, "judge": judge}
    for name, inputs, outputs, make in _measures(
        cell, folder, shared, splits, alone, progress, known
    ):
        made[name] = stage(folder, name, inputs, (f"measures/{name}.json", *outputs), make)
    if (
        parallel.is_leader() and not (folder / "run.json").exists()
    ):  # before result.json, which says: finished
        files.write_json(
            folder / "run.json", environment() | {"seconds": round(time.time() - started, 1)}
        )
    stage(folder, "result", {"made": made, "settings": s}, ("result.json",),
          lambda: measure.result(cell, folder, made, found.source.about))  # fmt: skip


def waiting(what: str, progress: Progress) -> Callable[[str], object]:
    """Says for whom a lock waits, and that it has come."""
    return lambda other: progress(f"waiting for {what}", int(not other), 1, other)


def _measures(
    cell: Cell,
    folder: epath.Path,
    shared: epath.Path,
    splits: data.Splits,
    drawer: Callable[[], Sampler],
    progress: Progress,
    known: dict[str, Any],
) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...], Callable[[], None]]]:
    """Each measure's name, what it depends on, what it writes beside measures/NAME.json, and what makes it."""

    def take(*names):
        return {name: known[name] for name in names}

    s, m = cell.settings, cell.settings["measures"]
    images = {
        key: known["trained"][key] for key in ("data", "identity", "n", "proportions", "seed")
    }
    where = {
        "data": images,
        "spaces": m["spaces"],
        "inception": files.sha256(m["inception"]) if m["inception"] else "",
    }
    at, more = (cell, folder), (splits, progress)
    yield (
        "shares",
        take("called", "judge", "trained"),
        (),
        lambda: measure.measure_shares(*at, shared, splits, drawer()),
    )
    if m["lpips"] != "none":
        inputs = take("drawn", "called") | {"data": images, "net": m["lpips"]}
        yield "lpips", inputs, (), lambda: measure.measure_lpips(*at, *more)
    inputs = take("drawn") | where | {"k": m["k"]}
    yield "neighbors", inputs, ("neighbors.npz",), lambda: measure.measure_neighbors(*at, *more)
    yield (
        "memorization",
        take("drawn") | where,
        (),
        lambda: memorization.measure_memorization(*at, *more),
    )
    inputs = take("trained", "judge") | {"sample": s["sample"], "count": m["checkpoints"]}
    yield (
        "checkpoints",
        inputs,
        (),
        lambda: memorization.measure_checkpoints(*at, shared, splits, drawer(), progress),
    )
    if m["queries"]:
        inputs = take("trained") | {"sample": s["sample"], "queries": m["queries"]}
        yield (
            "effective_k",
            inputs,
            (),
            lambda: memorization.measure_effective_k(*at, splits, drawer(), progress),
        )
        inputs = inputs | {"num": s["sample"]["num"]}
        yield "predicted", inputs, (), lambda: memorization.measure_predicted(*at, splits)
    if m["probe"]:
        inputs = take("trained") | {"points": m["probe"]}
        yield (
            "curvature",
            inputs,
            ("probe.json",),
            lambda: curvature.measure_curvature(*at, splits, drawer().model, progress),
        )


def run_comparisons(
    cells: Sequence[results.CellResult], workdir: epath.Path, settings: dict, progress: Progress
) -> None:
    """shared/comparisons.json: flips, similarity, bias and variance between the finished cells."""
    shared = workdir / "shared"
    inverted = []
    for group in inversion.groups(cells) if (shared / inversion.IMAGES).exists() else ():
        folders = {c.name: workdir / "cells" / c.name for c in (group.encoder, *group.decoders)}
        inputs: dict[str, Any] = {
            name: files.checksums(folder, ["result.json"]) for name, folder in folders.items()
        }
        inputs["images"] = files.sha256(shared / inversion.IMAGES)
        inverted.append(shared / "inverted" / f"{group.name}.json")
        make = functools.partial(inversion.write, group, workdir, inverted[-1], progress)
        stage(shared, f"inverted-{group.name}", inputs, (f"inverted/{group.name}.json",), make)
    read = [
        "result.json",
        "classes.npz",
        *(["common.npz"] if any(len(c.common) for c in cells) else []),
    ]
    inputs = {"cells": {cell.name: files.checksums(workdir / "cells" / cell.name, read) for cell in cells},
              "lpips": settings["lpips"], "inverted": [files.sha256(path) for path in inverted]}  # fmt: skip
    path = shared / "comparisons.json"
    stage(
        shared,
        "comparisons",
        inputs,
        (path.name,),
        lambda: compare.write(cells, inverted, path, settings, progress),
    )


def claim(
    path: epath.Path, settings: dict[str, Any], fixed: Callable[[dict], dict] = lambda s: s
) -> None:
    """Write the settings that a folder is for.

    Raises ValueError where `fixed` of those that are there differs, naming the difference, or where it cannot be written.
    """
    if path.exists():
        there, here = fixed(files.read_json(path)), fixed(settings)
        if there != here:
            raise ValueError(
                f"{path.parent} was made with other settings ({difference(there, here)}); "
                "choose another --workdir or remove that folder"
            )
    try:
        if parallel.is_leader():
            files.write_json(path, settings)
    except OSError as error:
        raise ValueError(
            f"{path.parent} cannot be written ({error.strerror}); choose another --workdir"
        ) from None


def difference(there: Any, here: Any, at: str = "config") -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            if there.get(key) != here.get(key):
                return difference(there.get(key), here.get(key), f"{at}.{key}")
    return f"{at} is {json.dumps(there)} there and {json.dumps(here)} here"


def init_checksums(path: str) -> dict[str, str]:
    """What the weights are that training starts from: checksums of the weights files, or of a cell's manifests."""
    kept = [
        p
        for p in files.walk(path)
        if p.suffix in (".safetensors", ".bin") or p.parent.name == "checkpoints"
    ]
    return files.checksums(path, [p.relative_to(path).as_posix() for p in kept])


def without_measures(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a trained cell is bound to: how it is measured may change."""
    return {key: value for key, value in settings.items() if key != "measures"}


def shared_classifiers(
    settings: dict[str, Any], looks: dict[str, Any], classes: tuple[int, int], known: int, folder: epath.Path,
    splits: data.Splits, progress: Progress,
) -> dict[str, str]:  # fmt: skip
    """The classifiers of the `known` classes and their confusion matrices on images they never saw, made once for a study.

    looks: what the images are, all that the classifiers depend on beside `settings`; classes: the study's two.
    """

    def make() -> None:
        progress("classifier", 0, 1, "")
        gate = measure.train_classifiers(settings, classes, known, folder, splits)["gate"]
        progress("classifier", 1, 1, f"gate on held-out images {gate['held_out']:.2f}")

    outputs = ("confusion.json", *(f"{name}.npz" for name in ARCHITECTURES))
    return stage(
        folder,
        "classifiers",
        {"looks": looks, "classes": sorted(classes), "classifier": settings},
        outputs,
        make,
    )


def train_together(
    cell: Cell,
    folder: epath.Path,
    splits: data.Splits,
    progress: Progress,
    profile: epath.Path | None,
) -> None:
    """Every process trains; the leader prepares the data first."""
    parallel.by_leader("data", splits)
    train(cell, folder, splits()["train"], progress, profile)


def sample(cell: Cell, folder: epath.Path, drawer: Sampler) -> None:
    """Sample the trained cell from its seed's noise bank, and from the one that all seeds share."""
    for name, seed, count in (("samples", cell.seed, "num"), ("common", COMMON, "common")):
        indices = np.arange(cell.settings["sample"][count])
        if len(indices):
            images = drawer.sample(indices, seed)
            if parallel.is_leader():
                results.write_samples(folder / f"{name}.npz", to_uint8(images), indices)
