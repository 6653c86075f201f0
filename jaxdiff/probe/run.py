"""The probe from files to files: its models one after the other, each level kept when it is done."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, models
from jaxdiff.probe import readings as probe
from jaxdiff.probe.readings import Options, Points, Row
from jaxdiff.progress import Progress
from jaxdiff.study import stages
from jaxdiff.unet import parameter_count

Described = tuple[Any, ...]  # of models.load_spec: U-Net, schedule, prediction, settings


def run(
    paths: Mapping[str, epath.Path],
    points: Points,
    options: Options,
    workdir: epath.Path,
    progress: Progress,
) -> None:
    """probe.json: every reading of the models by name, and random weights beside each; what is done is kept.

    Raises ValueError where a path is no model, the images have another size than a model takes, a level does not exist, or
    models have different noise levels.
    """
    described = {name: models.load_spec(path) for name, path in paths.items()}
    shape = points.x0.shape[1:]
    for name, each in described.items():
        _check(name, each, points, options)
    _check_alike({name: each[1] for name, each in described.items()}, options)
    ranks = probe.ranks(
        [probe.dimensions(config, shape) for config, *_ in described.values()], options
    )
    found: Row = {}
    counts = [
        len(probe.work(config, schedule, options)) for config, schedule, *_ in described.values()
    ]
    for i, (name, path) in enumerate(paths.items()):
        one = functools.partial(_part_of, progress, sum(counts[:i]), sum(counts))
        rows = _one(name, path, described[name], points, ranks, options, workdir, one)
        config = described[name][0]
        about = {
            "depth": config.depth,
            "parameters": parameter_count(config),
            "bottleneck": config.bottleneck(shape[0]),
        }
        found[name] = about | {"rows": rows}
    settings = {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in dataclasses.asdict(options).items()
    }
    files.write_json(workdir / "probe.json", {"schema": 1, "settings": settings, "ranks": list(ranks),
                                              "points": points.count, "memory": len(points.memory), "models": found})  # fmt: skip


def _check(name: str, described: Described, points: Points, options: Options) -> None:
    config, schedule, _, settings = described
    shape, size = points.x0.shape[1:], settings["data"]["size"]
    mine = (*((size, size) if isinstance(size, int) else size or shape[:2]), config.in_channels)
    if tuple(mine) != shape:
        words = [" x ".join(map(str, s)) for s in (mine, shape)]
        raise ValueError(f"{name} takes images of {words[0]} and the points are of {words[1]} (grey is 1, RGB 3); give "
                         "--reference with images of that size, and models of one size in a call")  # fmt: skip
    config.check_image_size(shape[0])
    probe.levels(config, options)
    probe.times(schedule, options)
    probe.maps(config, "eps", shape)


def _check_alike(schedules: Mapping[str, Any], options: Options) -> None:
    """Models are compared at the same x_t."""
    (first, base), *others = schedules.items()
    for name, schedule in others:
        mine, its = (each.alpha_bar[probe.times(each, options)] for each in (base, schedule))
        if len(base.alpha_bar) != len(schedule.alpha_bar) or not np.allclose(mine, its, atol=1e-5):
            raise ValueError(f"{name} has other noise levels than {first} (alpha_bar {its.round(4).tolist()} of {len(schedule.alpha_bar)} "
                             f"steps against {mine.round(4).tolist()} of {len(base.alpha_bar)}); probe them in calls of their own")  # fmt: skip


def _part_of(
    progress: Progress, before: int, whole: int, what: str, done: int, _: int, note: str
) -> None:
    progress(what, before + done, whole, note)


def _one(
    name: str, path: epath.Path, described: Described, points: Points, ranks: tuple[int, ...], options: Options,
    workdir: epath.Path, progress: Progress,
) -> list[Row]:  # fmt: skip
    """All rows of one model: a stage a weights, noise level and level."""
    config, schedule, prediction, _ = described
    every = dataclasses.replace(
        options, levels=(), noise=(), random=True
    )  # what a part does not depend on
    about = {"weights": stages.init_checksums(str(path)), "unet": dataclasses.asdict(config), "prediction": prediction,
             "alpha_bar": schedule.alpha_bar.tolist(), "points": _identity(points), "ranks": ranks,
             "options": dataclasses.asdict(every)}  # fmt: skip
    state = functools.cache(lambda: probe.states(models.load(path), points, options))
    todo, rows = probe.work(config, schedule, options), []
    for i, (weights, t, level) in enumerate(todo):
        told = f"{name}, {weights} weights, t = {t}, level {level}"

        def say(reading, i=i, told=told):
            return progress("probe", i, len(todo), f"{told}: {reading}")

        progress("probe", i, len(todo), told)
        part = f"{name}-{weights}-t{t}-level{level}"
        where: Row = {"weights": weights, "t": t, "level": level}
        make = functools.partial(
            _write, workdir / "parts" / f"{part}.json", state, points, ranks, options, where, say
        )
        stages.stage(workdir, part, {"about": about, **where}, (f"parts/{part}.json",), make)
        rows += [where | row for row in files.read_json(workdir / "parts" / f"{part}.json")["rows"]]
    progress("probe", len(todo), len(todo), "")
    return rows


def _write(
    path: epath.Path, state: Any, points: Points, ranks: tuple[int, ...], options: Options, where: Row,
    say: Callable[[str], object],
) -> None:  # fmt: skip
    now = state()(where["weights"], where["t"])
    files.write_json(
        path, {"rows": probe.at_level(now, points, where["level"], ranks, options, say)}
    )


def _identity(points: Points) -> str:
    arrays = (
        points.x0,
        np.array(points.count),
        points.memory,
        np.array([] if points.labels is None else points.labels),
    )
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()
