"""Prepare a dataset, count its images, and draw some of them.

  python -m experiments.dataset --name colored_digits --show --out grid.png
  python -m experiments.dataset --name celeba --data_dir ~/CelebA --attribute Male --show
  python -m experiments.dataset --name folder:my_images --show

A study prepares the data that it needs; with --config.data.cache=CACHE it uses what was prepared
here.
"""

import io

from experiments import _cli

_cli.prepare_environment()

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Bool
from matplotlib.figure import Figure
from rich.table import Column, Table

from jaxdiff import files
from jaxdiff.datasets import registry
from jaxdiff.datasets.prepare import Prepared, verify
from jaxdiff.plugins import import_plugins
from jaxdiff.settings import MAX_SIZE

GRID_ROWS = 4
GRID_COLUMNS = 8

flags.DEFINE_string(
    "name",
    None,
    f"{registry.DATASET_NAMES_HELP}; a folder has one subfolder per class, or metadata.csv/.jsonl.",
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the data as published: MNIST's idx files, mnist.pkl.gz or mnist.npz, "
    "CelebA's images and lists.",
)
flags.DEFINE_string("cache", "runs/data", "Folder that the prepared dataset is written to.")
flags.DEFINE_string(
    "attribute", "", "The attribute whose no and yes are the classes, such as Male of celeba."
)
flags.DEFINE_string(
    "group",
    "",
    "The attribute that splits each class into two groups, such as Blond_Hair of celeba.",
)
flags.DEFINE_integer(
    "size", None, "Pixels on a side; by default 32 for digits and 64 for most others.", 1, MAX_SIZE
)
flags.DEFINE_integer("channels", 0, "1 for gray, 3 for RGB; 0 takes the dataset's default.")
flags.DEFINE_bool("show", False, "Print counts and proportions, and draw a random grid.")
flags.DEFINE_string("out", "grid.png", "PNG file that --show draws.")
flags.DEFINE_integer("seed", 0, "Seed that chooses the images of --show.")
_cli.define_plugins()
FLAGS = flags.FLAGS


def count_table(dataset: registry.Dataset) -> Table:
    """Images of each class and group, in all and in each pool, and what the paper reports."""
    table = Table(
        Column("class" if dataset.groups is None else "class or group", no_wrap=True),
        "images",
        "%",
        "the paper, %",
        *(pool.replace("_", " ") for pool in dataset.pools),
        box=None,
    )
    reported_percent = registry.find_registration(dataset.name).reported_percent
    for name, members in name_members(dataset):
        reported = reported_percent.get(name)
        table.add_row(
            name,
            f"{int(members.sum()):,}",
            f"{100 * members.mean():.2f}",
            "" if reported is None else f"{reported:.2f}",
            *(f"{int(members[pool].sum()):,}" for pool in dataset.pools.values()),
        )
    return table


def name_members(dataset: registry.Dataset) -> list[tuple[str, Bool[np.ndarray, " n"]]]:
    """Name of each class and group, and which images are of it."""
    members = [(name, dataset.labels == i) for i, name in enumerate(dataset.classes)]
    if dataset.groups is not None:
        members += [(name, dataset.groups == i) for i, name in enumerate(dataset.group_names)]
    return members


def draw_grid(dataset: registry.Dataset, prepared: Prepared, out: epath.Path) -> None:
    """Draw random images, each with its class or group above it."""
    order = np.random.default_rng(FLAGS.seed).permutation(len(prepared))
    indices = order[: GRID_ROWS * GRID_COLUMNS]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(GRID_ROWS, GRID_COLUMNS).flat
    for ax, image, i in zip(axes, prepared.read(indices), indices, strict=False):
        ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        if dataset.groups is None:
            title = dataset.classes[dataset.labels[i]]
        else:
            title = dataset.group_names[dataset.groups[i]]
        ax.set_title(title, fontsize=8)
    for ax in figure.axes:
        ax.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    files.write(out, buffer.getvalue())


def main() -> None:
    if not FLAGS.name:
        raise ValueError(f"--name is missing; choose one of {registry.DATASET_NAMES_HELP}")
    import_plugins(FLAGS.plugins)
    registration = registry.find_registration(FLAGS.name)
    folder = FLAGS.name.removeprefix("folder:")
    out = _cli.output_file("out", ".png", [] if folder == FLAGS.name else [folder])
    dataset = registry.open_dataset(
        FLAGS.name,
        size=FLAGS.size or registration.size,
        channels=FLAGS.channels or registration.channels,
        data_dir=FLAGS.data_dir,
        attribute=FLAGS.attribute,
        group=FLAGS.group,
    )
    with _cli.Reporter() as progress:
        prepared = dataset.prepare(FLAGS.cache, progress)
    _cli.console.print(f"{prepared.about}: {prepared.folder}")
    if FLAGS.show:
        # --show is the check that a user asks for, so that it reads every byte
        verify(prepared)
        size = sum(map(files.size, prepared.folder.iterdir()))
        _cli.console.print(count_table(dataset))
        draw_grid(dataset, prepared, out)
        _cli.console.print(
            f"{size / 1e6:,.1f} MB, every file as it was written; {out} shows "
            f"{min(len(prepared), GRID_ROWS * GRID_COLUMNS)} of the images"
        )


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
