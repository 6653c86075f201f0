"""Finished cells of a scaling study with made-up losses, in memory and on disk."""

import dataclasses

import numpy as np
from etils import epath

from jaxdiff import files, results
from jaxdiff.estimates import Estimate
from jaxdiff.results import CellInfo
from jaxdiff.scaling.points import LossPoint
from tests.report.small_results import RUN, STUDY, make_cell

BATCH = 32
RATE = 1e-3
CONFIG = {
    "data": {"source": "digits", "size": 8},
    "diffusion": {"schedule": "linear", "steps": 1000, "prediction": "v"},
}


def make_scaling_cell(point, rate=RATE, memorized=None, held_out=512, **changes):
    """A cell of a point's size, length, images and seed, with its loss.

    memorized: fraction by optimizer step; changes: of CellInfo.
    """
    steps = round(point.images / BATCH)
    model = f"{point.depth}-f{point.flops:.4g}-t{steps}-lr{rate:g}"
    info = CellInfo(
        name=f"{model}-n{point.unique_images:g}-s{point.seed}",
        model=model,
        depth=point.depth,
        proportions=(0.5, 0.5),
        data="made-up digits",
        n=int(point.unique_images),
        seed=point.seed,
        majority=6,
        minority=9,
        parameters=1,
        flops=point.flops,
        images_seen=BATCH * steps,
        learning_rate=rate,
    )
    losses = [
        Estimate(point.loss, n=held_out, name="loss"),
        Estimate(2.0, n=held_out, name="loss", labels={"t": 125.0}),
    ]
    fractions = dict(memorized or {})
    last = fractions.pop(steps, None)
    sections = {
        "held_out_loss": losses,
        "checkpoints": [
            Estimate(fraction, n=64, name="memorized", labels={"step": step})
            for step, fraction in fractions.items()
        ],
        "memorization": [
            Estimate(last, n=64, name="memorized", labels={"images": images})
            for images in ("samples",)
            if last is not None
        ],
    }
    cell = make_cell(dataclasses.replace(info, **changes), **sections)
    return dataclasses.replace(cell, config={**CONFIG, "train": {"steps": steps, "batch": BATCH}})


def make_cells(points, **options):
    """A cell for each point."""
    return [make_scaling_cell(point, **options) for point in points]


def write_cells(workdir, cells, diverged=()):
    """A study of these cells, and of some whose training diverged."""
    workdir = epath.Path(workdir)
    files.write_json(workdir / "study.json", STUDY)
    image = np.zeros((1, 8, 8, 1), np.uint8)
    for cell in cells:
        folder = workdir / "cells" / cell.name
        sections = {
            name: [estimate.to_json() for estimate in estimates]
            for name, estimates in cell.sections.items()
        }
        result = {"schema": results.SCHEMA, "cell": dataclasses.asdict(cell.info), **sections}
        files.write_json(folder / "result.json", result)
        files.write_json(folder / "config.json", cell.config)
        files.write_json(folder / "run.json", RUN)
        files.write(folder / "metrics.jsonl", "")
        results.write_samples(folder / "samples.npz", image, np.arange(1))
        if cell.losses is not None:
            results.write_npz(folder / "losses.npz", **dataclasses.asdict(cell.losses))
    for cell in diverged:
        folder = workdir / "cells" / cell.name
        files.write_json(folder / results.DIVERGED, {"cell": dataclasses.asdict(cell.info)})
    return workdir


def grid_of_points(sizes=3, lengths=3):
    """Losses that fall with size and length."""
    return [
        LossPoint(1 / (1 + i + j), 1e6 * 2**i, 3200.0 * 2**j, 480.0)
        for i in range(sizes)
        for j in range(lengths)
    ]
