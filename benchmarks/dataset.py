"""Preparing and reading images beside decoding the files one by one, as a folder dataset does.

python -m benchmarks.dataset [--num 20000]

Writes so many JPEGs of 178 x 218 pixels (CelebA's), prepares them at 64 x 64 px, and reads the prepared ones in random
order. The peer opens, crops and resizes each file by Pillow in one process. A row says images a second and the ratio.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.base import Source
from jaxdiff.datasets.prepare import prepare

flags.DEFINE_integer("num", 20_000, "Images.")
FLAGS = flags.FLAGS
SIZE = 64


def write(folder: Path) -> None:
    """Smooth random images with some grain, about as long as CelebA's files (7 kB)."""
    rng = np.random.default_rng(0)
    for i in range(FLAGS.num):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 11, 3)).astype(np.uint8)).resize(
            (178, 218), 3
        )
        pixels = np.asarray(coarse, np.int16) + rng.integers(-8, 9, (218, 178, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"{i:06d}.jpg", quality=85
        )


def by_pillow(paths: list[Path]) -> None:
    """What a folder dataset does with each file."""
    for path in paths:
        with Image.open(path) as picture:
            np.asarray(
                picture.convert("RGB")
                .crop((0, 20, 178, 198))
                .resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            )


def faces(folder: Path) -> Source:
    """The folder as a dataset."""
    return sources.raw(f"{sources.FOLDER}{folder}", size=SIZE, channels=3)


def rate(work: Callable[[], object]) -> float:
    """Images a second."""
    then = time.perf_counter()
    work()
    return FLAGS.num / (time.perf_counter() - then)


def main(_) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "images")
        folder.mkdir()
        write(folder)
        paths = sorted(folder.iterdir())
        length = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        print(f"{FLAGS.num:,} JPEGs of 178 x 218 px, {length:.1f} kB each, to {SIZE} x {SIZE} px")
        before = rate(lambda: by_pillow(paths))
        made = rate(lambda: prepare(faces(folder), Path(place, "cache"), "faces"))
        after = rate(lambda: by_pillow(paths))
        peer = (before + after) / 2
        print(f"Pillow, one process  {before:8,.0f} and {after:,.0f} images/s, before and after")
        print(f"preparing            {made:8,.0f} images/s, {made / peer:.2f} times as fast")
        dataset = prepare(faces(folder), Path(place, "cache"), "faces")
        order = np.random.default_rng(0).permutation(FLAGS.num)
        one = rate(lambda: [dataset[int(i)] for i in order])
        print(f"reading              {one:8,.0f} images/s, {one / peer:.1f} times as fast")


if __name__ == "__main__":
    app.run(main)
