"""The Hessian-smoothness probe: how curved a trained model's energy is, at every level and noise level, and Theorem 1's verdicts.

  python -m experiments.probe --model runs/quickstart/cells/2-80_20-n300-s0 --model runs/quickstart/cells/4-80_20-n300-s0 \
      --workdir runs/probe
  python -m experiments.probe --model a_diffusers_folder --reference my_images/ --num 16 --noise 0.3 --workdir runs/probe

Of E = -tau log p_t, tau = 2 sigma^2, a trained model has the gradient 2 sigma eps_hat. Measured at the same noised images in
every model, and on the same network with random weights: the Hessian and M = s d(x0_hat)/dx at the pixels (hessian); how each
level's map stretches (maps); E pulled back to a level (pull_back), composed with the decoder (decoder); the free energy of
a memory's activations (memory), and which classes that memory recalls (retrieval).

Of a U-Net with classes, class 0. The images are the first cell's own data (held-out images are probed, its training images are the memory), or --reference: a
dataset by name, a folder, an .npz of images or of samples. Writes probe.json, tables/*.csv and figures/*.svg. The decoder costs
most: leave it out of --readings, or lower --decoder_steps. Running the same command again goes on where it ended.
"""

import functools
from typing import Any

from experiments import _cli

_cli.prepare_environment()

import numpy as np
from absl import flags
from etils import epath
from rich.table import Table

from jaxdiff import models
from jaxdiff.analysis import probe_summary as probe_words
from jaxdiff.analysis import smoothness as verdicts
from jaxdiff.cells import cell as cells
from jaxdiff.cells import data
from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.image_io import read_images
from jaxdiff.probe import data as points
from jaxdiff.probe import readings as probe
from jaxdiff.probe import run as probe_run
from jaxdiff.report import probe_figures, style, tables

DEFAULT = probe.Options()
flags.DEFINE_multi_string(
    "model", None, "A trained cell's folder, or a diffusers folder; may be repeated."
)
flags.DEFINE_string("workdir", None, "Where everything is written.")
flags.DEFINE_string(
    "reference",
    None,
    f"The images: a folder, an .npz, or one of {sources.KNOWN}; by default the cell's data.",
)
flags.DEFINE_list(
    "classes",
    [],
    "Of a dataset by name: the two classes that are probed, as 6,9; by default all images.",
)
flags.DEFINE_string("data_dir", None, "Where the dataset is as published.")
flags.DEFINE_string(
    "cache", None, "Where prepared datasets are kept; by default under the workdir."
)
flags.DEFINE_integer("num", 16, "Images that are probed.", lower_bound=1)
flags.DEFINE_integer(
    "memory",
    points.MEMORY,
    "Images in the memory, at most; fewer take less of this machine's.",
    lower_bound=2,
)
flags.DEFINE_list(
    "levels", [], "0 (pixels) to n (bottleneck) and n + 1 (mid-block's output); by default all."
)
flags.DEFINE_list("noise", [f"{x:g}" for x in DEFAULT.noise], "Noise levels, as shares of all.")
flags.DEFINE_list(
    "readings", list(DEFAULT.readings), f"What is measured, of {', '.join(probe.READINGS)}."
)
flags.DEFINE_list(
    "ranks",
    list(map(str, DEFAULT.ranks)),
    "Of the pull-back; those that a level is too small for are left out.",
)
flags.DEFINE_integer("steps", DEFAULT.steps, "Products of Lanczos' method.", lower_bound=2)
flags.DEFINE_integer("probes", DEFAULT.probes, "Vectors of Hutchinson's estimator.", lower_bound=2)
flags.DEFINE_integer(
    "dense", DEFAULT.dense, "Up to so many dimensions a matrix is computed whole.", lower_bound=0
)
flags.DEFINE_integer(
    "decoder_steps",
    DEFAULT.decoder_steps,
    "Lanczos' products with each Hessian of the decoder.",
    lower_bound=2,
)
flags.DEFINE_float(
    "c",
    DEFAULT.c,
    "The memory's scaled tau, in median squared distances to the nearest neighbor.",
    lower_bound=0.0,
)
flags.DEFINE_bool("random", True, "Probe the same network with random weights too.")
flags.DEFINE_integer("seed", 0, "Of the noise and the random weights.", lower_bound=0)
FLAGS = flags.FLAGS


def options() -> probe.Options:
    """The flags, checked."""
    unknown = [name for name in FLAGS.readings if name not in probe.READINGS]
    if unknown or not FLAGS.readings:
        raise ValueError(
            f"--readings is {','.join(FLAGS.readings)}; choose among {', '.join(probe.READINGS)}"
        )
    try:
        noise = tuple(float(x) for x in FLAGS.noise)
    except ValueError:
        raise ValueError(
            f"--noise is {','.join(FLAGS.noise)}; numbers from 0 to 1 are expected, as 0.1,0.3"
        ) from None
    if not noise:
        raise ValueError(
            "--noise is empty; at least one number from 0 to 1 is expected, as 0.1,0.3"
        )
    if FLAGS.classes and not (FLAGS.reference and sources.is_name(FLAGS.reference)):
        raise ValueError(f"--classes is for a dataset by name as the --reference ({sources.KNOWN})")
    chosen: dict[str, Any] = {
        name: FLAGS[name].value
        for name in ("steps", "probes", "dense", "decoder_steps", "c", "random", "seed")
    }
    lists = {"levels": FLAGS.levels, "ranks": FLAGS.ranks}
    levels, ranks = (
        tuple(sorted(set(_cli.whole_numbers(given, name)))) for name, given in lists.items()
    )
    if 0 in ranks:
        raise ValueError("--ranks holds 0; numbers of directions, from 1 on, are expected")
    return probe.Options(levels, noise, tuple(FLAGS.readings), ranks, **chosen)


def images(paths: list[epath.Path], workdir: epath.Path, progress: _cli.Reporter) -> probe.Points:
    """The images of --reference, or of the first cell."""
    places = data.Places(FLAGS.data_dir or "", FLAGS.cache or "")
    every = [models.load_spec(path) for path in paths]
    if FLAGS.reference is None:
        own = [
            (path, each[3])
            for path, each in zip(paths, every, strict=True)
            if "proportions" in each[3]
        ]
        if not own:
            raise ValueError(
                f"--reference is missing; {paths[0]} has no data of its own: give a folder, an .npz, or one of {sources.KNOWN}"
            )
        path, settings = own[0]
        cell = cells.of_settings(path.name, settings)
        return points.of_cell(
            cell, lambda: data.load(cell, places, workdir, progress), FLAGS.num, FLAGS.memory
        )
    if not sources.is_name(FLAGS.reference):
        return points.of_images(read_images(FLAGS.reference), FLAGS.num, FLAGS.memory)
    config, size, classes = (
        every[0][0],
        every[0][3]["data"]["size"],
        _cli.whole_numbers(FLAGS.classes, "classes"),
    )
    if not isinstance(size, int):
        raise ValueError(
            f"{FLAGS.reference} has square images and {paths[0]} says sample_size {size}; give --reference as a folder"
        )
    found = sources.describe(
        FLAGS.reference, size=size, channels=config.in_channels, data_dir=FLAGS.data_dir
    )
    if classes and (
        len(classes) != 2 or len(set(classes)) != 2 or max(classes) >= len(found.classes)
    ):
        raise ValueError(
            f"--classes is {','.join(FLAGS.classes)}; two different ones of the {len(found.classes)} are expected"
        )
    splits = sources.splits(
        found, places.prepared(workdir), np.sort(found.pools["generator"]), progress
    )
    return points.of_splits(splits, classes, FLAGS.num, FLAGS.memory)


def draw(found: list[verdicts.Probed], workdir: epath.Path) -> None:
    """The tables and the figures."""
    for name, rows in (("curvature", verdicts.table(found)), ("verdicts", verdicts.verdicts(found)),
                       ("in_short", verdicts.in_short(found))):  # fmt: skip
        tables.write(workdir / "tables", name, rows)
    for name, plot in probe_figures.FIGURES.items():
        style.write(workdir / "figures", name, functools.partial(plot, found))


def verdict_table(found: list[verdicts.Probed]) -> Table:
    """A line a model and reading: in how many decided comparisons from level to level the norm falls."""
    columns = [(weights, scale) for scale in verdicts.SCALES for weights in verdicts.WEIGHTS]
    table = Table(
        "the norm falls: model", "reading", *(f"{w}\n{scale}" for w, scale in columns), box=None
    )
    rows = [row for row in verdicts.in_short(found) if row["comparison"] == "level with level"]
    for model, reading, form in dict.fromkeys(
        (row["model"], row["reading"], row["form"]) for row in rows
    ):
        told = {(row["weights"], row["scale"]): f"{row['falls']} of {row['falls'] + row['does not fall']}" for row in rows
                if (row["model"], row["reading"], row["form"]) == (model, reading, form)}  # fmt: skip
        table.add_row(
            model,
            " ".join(filter(None, (reading, form))),
            *(told.get(column, "") for column in columns),
        )
    return table


def main() -> None:
    for flag in ("model", "workdir"):
        if not FLAGS[flag].value:
            raise ValueError(f"--{flag} is missing; --help shows an example")
    chosen, paths, workdir = (
        options(),
        [epath.Path(path) for path in FLAGS.model],
        epath.Path(FLAGS.workdir),
    )
    with _cli.Reporter() as progress:
        probe_run.run(
            dict(zip(_cli.names(FLAGS.model), paths, strict=True)),
            images(paths, workdir, progress),
            chosen,
            workdir,
            progress,
        )
    found = verdicts.read(workdir)
    draw(found, workdir)
    _cli.console.print(verdict_table(found))
    for sentence in probe_words.summary(found):
        _cli.console.print(sentence)
    _cli.console.print(f"figures and tables: {workdir}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
