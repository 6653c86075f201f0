"""The Hessian-smoothness probe: curvature of trained models' energy, and tests of Theorem 1.

  python -m experiments.probe --model runs/quickstart/cells/2-80_20-n300-s0 \\
    --model runs/quickstart/cells/4-80_20-n300-s0 --workdir runs/probe
  python -m experiments.probe --model a_diffusers_folder --reference my_images/ --num 16 \\
    --noise 0.3 --workdir runs/probe
  python -m experiments.probe --model a_cell --readings hessian,maps --workdir runs/short

All models are probed at the same noised images, and so are the same networks with random weights;
docs/probe.md says what each reading is. By default the images are those of the first cell's data:
unseen images are probed, and the training images are the memory. A U-Net with classes is probed
with class 0. Writes probe.json, tables/*.csv and figures/*.svg. The same command again resumes.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

from experiments import _cli

_cli.prepare_environment()

import numpy as np
from absl import flags
from etils import epath
from rich.table import Table

from jaxdiff import models
from jaxdiff.analysis import probe_summary, smoothness
from jaxdiff.analysis.probed_models import ProbedModel, read_models
from jaxdiff.cells.context import open_trained_cell
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets.image_io import read_images
from jaxdiff.datasets.registry import (
    DATASET_NAMES_HELP,
    is_dataset_name,
    load_splits,
    log_class_names,
    open_dataset,
)
from jaxdiff.plugins import import_plugins
from jaxdiff.probe import run as probe_run
from jaxdiff.probe.data import MEMORY, QUERIES, ProbeData
from jaxdiff.probe.options import READINGS, ProbeOptions
from jaxdiff.report import probe_figures, style, tables
from jaxdiff.stage import Redo

DEFAULTS = ProbeOptions()
CAPTION = """\
premise: the norm |J| of the map from the pixels to a level, over all levels and points; Theorem \
1 assumes less than 1. falls: how many of the points have a norm that decreases from level to \
level, in percent of those where the errors decide it. theorem: whether Theorem 1's claim holds \
at the points where its premise does (counts: tables/in_short.csv). ratio: the norm of the deeper \
model over that of the other, a geometric mean over the probed images with its 95 % interval. If \
the interval contains 1, no difference was seen. It holds for these two networks and not for \
models of other seeds. What random weights show too was not learned. |H| is 2 wherever a model \
removes a direction entirely, so M = I - H / 2 is compared. The largest |H| is a lower bound of \
the smoothness constant L, so it cannot say whose L is larger. asymmetry of M: |M - M^T| over |M \
+ M^T|, which is 0 if M is the Hessian of an energy; norms of M and H are those of the symmetric \
part."""

flags.DEFINE_multi_string("model", None, f"{_cli.MODEL_HELP} May be repeated.")
flags.DEFINE_string(
    "reference",
    None,
    f"The images: a folder, an .npz, or one of {DATASET_NAMES_HELP}; by default the cell's data.",
)
flags.DEFINE_list(
    "classes",
    [],
    "For a dataset by name: the two classes that are probed, such as 6,9; by default all.",
)
flags.DEFINE_integer("num", 16, "Number of images that are probed.", lower_bound=1)
flags.DEFINE_integer(
    "memory", MEMORY, "Largest number of images in the memory; fewer take less RAM.", lower_bound=2
)
flags.DEFINE_list(
    "levels",
    [],
    "0 (pixels) to n (bottleneck), n + 1 (mid-block's output); by default all.",
)
flags.DEFINE_list("noise", [f"{x:g}" for x in DEFAULTS.noise], "Noise levels, as fractions of T.")
flags.DEFINE_list(
    "readings", list(DEFAULTS.readings), f"What is measured, of {', '.join(READINGS)}."
)
flags.DEFINE_list(
    "ranks",
    [str(rank) for rank in DEFAULTS.ranks],
    "Ranks of the pull-back; those that some level is too small for are left out.",
)
flags.DEFINE_integer(
    "steps", DEFAULTS.steps, "Matrix-vector products of the Lanczos method.", lower_bound=2
)
flags.DEFINE_integer(
    "probes", DEFAULTS.probes, "Random vectors of Hutchinson's estimator.", lower_bound=2
)
flags.DEFINE_integer(
    "dense",
    DEFAULTS.dense,
    "Largest number of dimensions at which a matrix is computed in full.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "decoder_steps",
    DEFAULTS.decoder_steps,
    "Lanczos products with each Hessian of the decoder.",
    lower_bound=2,
)
flags.DEFINE_float(
    "c",
    DEFAULTS.c,
    "The memory's scaled tau, in units of the median squared nearest-neighbor distance.",
    lower_bound=0.0,
)
flags.DEFINE_bool("random", True, "Probe the same network with random weights too.")
flags.DEFINE_integer("seed", 0, "Seed of the noise and of the random weights.", lower_bound=0)
_cli.define_workdir("runs/probe")
_cli.define_data()
_cli.define_redo()
_cli.define_plugins()
FLAGS = flags.FLAGS


def read_options() -> ProbeOptions:
    """The flags as options; a ValueError where a value is out of range."""
    unknown = [name for name in FLAGS.readings if name not in READINGS]
    if unknown or not FLAGS.readings:
        raise ValueError(
            f"--readings must be of {', '.join(READINGS)}, got {','.join(FLAGS.readings)!r}"
        )
    ranks = _read_numbers("ranks", FLAGS.ranks)
    if 0 in ranks:
        raise ValueError(f"--ranks must be 1 or more, got {','.join(FLAGS.ranks)}")
    return ProbeOptions(
        levels=_read_numbers("levels", FLAGS.levels),
        noise=_read_noise(),
        readings=tuple(FLAGS.readings),
        ranks=ranks,
        steps=FLAGS.steps,
        probes=FLAGS.probes,
        dense=FLAGS.dense,
        decoder_steps=FLAGS.decoder_steps,
        c=FLAGS.c,
        random=FLAGS.random,
        seed=FLAGS.seed,
    )


def _read_numbers(flag: str, values: list[str]) -> tuple[int, ...]:
    return tuple(sorted(set(_cli.parse_integers(values, flag))))


def _read_noise() -> tuple[float, ...]:
    text = ",".join(FLAGS.noise)
    try:
        noise = tuple(float(share) for share in FLAGS.noise)
    except ValueError:
        noise = ()
    if not noise:
        raise ValueError(f"--noise must be numbers from 0 to 1, as 0.1,0.3, got {text!r}")
    return noise


def load_data(
    paths: Sequence[epath.Path], workdir: epath.Path, progress: _cli.Reporter
) -> ProbeData:
    """The images of --reference, or of the first model that has data of its own."""
    for path in paths:
        models.load_spec(path)  # before a dataset is prepared: is every path a model?
    if FLAGS.reference is None:
        return _load_cell_data(paths, workdir, progress)
    if is_dataset_name(FLAGS.reference):
        return _load_dataset(paths[0], workdir, progress)
    return ProbeData.from_images(read_images(FLAGS.reference), FLAGS.num, FLAGS.memory)


def _load_cell_data(
    paths: Sequence[epath.Path], workdir: epath.Path, progress: _cli.Reporter
) -> ProbeData:
    """Images that the first cell never saw, in its class mix, and its training images."""
    for path in paths:
        settings = models.load_spec(path).settings
        if "proportions" in settings:
            break
    else:
        raise ValueError(
            f"--reference must be set where no model is a cell, and {paths[0]} is none; give a "
            f"folder, an .npz, or one of {DATASET_NAMES_HELP}"
        )
    context = open_trained_cell(path, workdir, _data_paths(), progress)
    images = context.unseen(max(FLAGS.num, QUERIES))
    classes = context.cell.roles.classes
    return ProbeData.from_unseen(images, context.train, classes, FLAGS.num, max_memory=FLAGS.memory)


def _load_dataset(path: epath.Path, workdir: epath.Path, progress: _cli.Reporter) -> ProbeData:
    """Held-out images of a dataset by name, at the size that a model takes."""
    config, _, _, settings = models.load_spec(path)
    size = settings["data"]["size"]
    if not isinstance(size, int):
        raise ValueError(
            f"--reference must be a folder where a model's images are not square: "
            f"{FLAGS.reference} has square ones and the sample_size of {path} is {size}"
        )
    dataset = open_dataset(
        FLAGS.reference, size=size, channels=config.in_channels, data_dir=FLAGS.data_dir
    )
    classes = _cli.parse_integers(FLAGS.classes, "classes")
    if classes and (len(set(classes)) != 2 or max(classes) >= len(dataset.classes)):
        raise ValueError(
            f"--classes must be two different ones of the {len(dataset.classes)} classes, "
            f"got {','.join(FLAGS.classes)}"
        )
    log_class_names(dataset, classes)
    cache = _data_paths().cache_dir(workdir)
    train = np.sort(dataset.pools["generator"])
    splits = load_splits(dataset, cache, train, progress)
    return ProbeData.from_splits(
        splits["held_out"], splits["train"], classes, FLAGS.num, max_memory=FLAGS.memory
    )


def _data_paths() -> DataPaths:
    return DataPaths(FLAGS.data_dir or "", FLAGS.cache or "")


def write_report(probed: Sequence[ProbedModel], workdir: epath.Path) -> None:
    """Write the tables and the figures."""
    folder = workdir / "tables"
    tallies = probe_summary.tally_decreases(probed)
    summary = probe_summary.summarize(probed)
    tables.write(folder, "curvature", smoothness.curvature_rows(probed))
    tables.write(folder, "verdicts", smoothness.verdict_rows(probed))
    tables.write(folder, "in_short", [tally.to_row() for tally in tallies])
    tables.write(folder, "summary", [dataclasses.asdict(line) for line in summary])
    for name, plot in probe_figures.FIGURES.items():
        style.write(workdir / "figures", name, functools.partial(plot, probed))


def print_summary(lines: Sequence[probe_summary.SummaryLine]) -> None:
    """Print a small table for each comparison, and what to read them for."""
    for comparison, group in itertools.groupby(lines, lambda line: line.comparison):
        rows = [_summary_row(line) for line in group]
        table = Table(title=comparison, title_justify="left", box=None)
        # A comparison has a column for a verdict only where it gives one.
        columns = [name for name in rows[0] if any(row[name] for row in rows)]
        for name in columns:
            table.add_column(name, no_wrap=name == "model")
        for row in rows:
            table.add_row(*(row[name] for name in columns))
        _cli.console.print(table)
    _cli.console.print(CAPTION)


def _summary_row(line: probe_summary.SummaryLine) -> dict[str, str]:
    quantity = line.quantity
    if line.scale not in ("", smoothness.RAW):
        quantity += f" {line.scale}"
    return {
        "model": line.model,
        "quantity": quantity,
        "statistic": line.statistic,
        "trained": _format_ratio(line),
        "random": _format_number(line.random),
        "theorem": line.theorem,
        "verdict": line.verdict,
    }


def _format_ratio(line: probe_summary.SummaryLine) -> str:
    """The statistic of the trained networks, with its interval where it has one."""
    text = _format_number(line.trained)
    if line.low is None or line.high is None:
        return text
    return f"{text} [{_format_number(line.low)}, {_format_number(line.high)}]"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def main() -> None:
    _cli.check_required("model", "workdir")
    import_plugins(FLAGS.plugins)
    if FLAGS.classes and not (FLAGS.reference and is_dataset_name(FLAGS.reference)):
        raise ValueError(
            f"--classes needs a dataset by name as the --reference, one of {DATASET_NAMES_HELP}"
        )
    options = read_options()
    workdir = epath.Path(FLAGS.workdir)
    paths = [epath.Path(path) for path in FLAGS.model]
    names = _cli.short_names(FLAGS.model)
    _cli.start_devices()
    with _cli.Reporter() as progress:
        images = load_data(paths, workdir, progress)
        by_name = dict(zip(names, paths, strict=True))
        probe_run.run(by_name, images, options, workdir, progress, redo=Redo(FLAGS.redo))
    probed = read_models(workdir)
    write_report(probed, workdir)
    print_summary(probe_summary.summarize(probed))
    _cli.console.print(f"figures and tables: {workdir}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
