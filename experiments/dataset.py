"""Prepare a dataset, count it, and draw some of it.

  python -m experiments.dataset --name digits --show
  python -m experiments.dataset --name coloured_digits --show --out grid.png
  python -m experiments.dataset --name celeba --data_dir ~/CelebA --attribute Male --group Blond_Hair --show
  python -m experiments.dataset --name folder:my_images --show

A study prepares what it needs by itself; with --config.data.cache=CACHE it takes what was prepared here.
"""

import io

from experiments import _cli

_cli.prepare_environment()

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from rich.table import Column, Table

from jaxdiff import files
from jaxdiff.datasets import celeba
from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.prepare import Prepared, verify

flags.DEFINE_string(
    "name",
    None,
    f"{sources.KNOWN}; a folder has a subfolder a class, or metadata.csv.",
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Where the data are as published: MNIST's idx files or mnist.pkl.gz, CelebA's images and lists.",
)
flags.DEFINE_string("cache", "runs/data", "Where the prepared dataset goes.")
flags.DEFINE_string(
    "attribute", "", "The attribute whose no and yes are the classes, as Male of celeba."
)
flags.DEFINE_string(
    "group", "", "The attribute that splits each class into two groups, as Blond_Hair of celeba."
)
flags.DEFINE_integer(
    "size", None, "Pixels on a side; by default 32 for digits and 64 for others.", 1
)
flags.DEFINE_integer("channels", 0, "1 grey, 3 RGB; 0 takes 1 for digits and 3 for others.")
flags.DEFINE_bool("show", False, "Print counts and proportions, and draw a random grid.")
flags.DEFINE_string("out", "grid.png", "The picture of --show.")
flags.DEFINE_integer("seed", 0, "Which images the picture shows.")
FLAGS = flags.FLAGS


def counts(dataset: sources.Dataset) -> Table:
    """How many of each class and of each group, in all and in each pool, and what the paper says where it does."""
    first = Column("class" if dataset.groups is None else "class or group", no_wrap=True)
    table = Table(
        first,
        "images",
        "%",
        "the paper, %",
        *(pool.replace("_", " ") for pool in dataset.pools),
        box=None,
    )
    rows = [(name, dataset.labels == i) for i, name in enumerate(dataset.classes)]
    if dataset.groups is not None:
        rows += [(name, dataset.groups == i) for i, name in enumerate(dataset.group_names)]
    for name, mine in rows:
        paper = celeba.PAPER.get(name) if dataset.name == "celeba" else None
        pools = (f"{int(mine[pool].sum()):,}" for pool in dataset.pools.values())
        table.add_row(
            name,
            f"{int(mine.sum()):,}",
            f"{100 * mine.mean():.2f}",
            f"{paper:.2f}" if paper else "",
            *pools,
        )
    return table


def draw(dataset: sources.Dataset, prepared: Prepared) -> None:
    """A random grid, every image with its class or group above it."""
    chosen = np.random.default_rng(FLAGS.seed).permutation(len(prepared))[:32]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    for ax, image, i in zip(
        figure.subplots(4, 8).flat, prepared.read(chosen), chosen, strict=False
    ):
        ax.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        name = (
            dataset.classes[dataset.labels[i]]
            if dataset.groups is None
            else dataset.group_names[dataset.groups[i]]
        )
        ax.set_title(name, fontsize=8)
    for ax in figure.axes:
        ax.set_axis_off()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    files.write(FLAGS.out, picture.getvalue())


def main() -> None:
    if not FLAGS.name:
        raise ValueError(f"--name is missing; choose one of {sources.KNOWN}")
    channels = FLAGS.channels or sources.default_channels(FLAGS.name)
    size = FLAGS.size or (32 if FLAGS.name.endswith("digits") else 64)
    chosen = {"data_dir": FLAGS.data_dir, "attribute": FLAGS.attribute, "group": FLAGS.group}
    dataset = sources.describe(FLAGS.name, size=size, channels=channels, **chosen)
    with _cli.Reporter() as progress:
        prepared = dataset.prepare(FLAGS.cache, progress)
    _cli.console.print(f"{prepared.about}: {prepared.folder}")
    if FLAGS.show:
        verify(prepared)
        disk = sum(path.stat().length for path in prepared.folder.iterdir())
        _cli.console.print(counts(dataset))
        _cli.console.print(
            f"{disk / 1e6:,.1f} MB, every file as it was written; {FLAGS.out} shows 32 of the images"
        )
        draw(dataset, prepared)


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
