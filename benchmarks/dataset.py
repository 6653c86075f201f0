"""Preparing and reading images beside decoding the files one by one, as a folder dataset does.

python -m benchmarks.dataset [--num 20000]

Writes so many JPEGs of 178 x 218 pixels (CelebA's), prepares them at 64 x 64 px, and reads the
prepared ones in random order. The peer opens, crops and resizes each file by Pillow in one process.
A row says images a second and the ratio.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.machine import describe_machine
from jaxdiff.datasets.base import Source
from jaxdiff.datasets.prepare import Prepared, prepare
from jaxdiff.datasets.registry import open_source

flags.DEFINE_integer("num", 20_000, "Images.")
FLAGS = flags.FLAGS
SIZE = 64


def write_images(folder: Path) -> None:
    """Smooth random images with some grain, about as long as CelebA's files (7 kB)."""
    rng = np.random.default_rng(0)
    for i in range(FLAGS.num):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 11, 3)).astype(np.uint8))
        smooth = coarse.resize((178, 218), Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, np.int16) + rng.integers(-8, 9, (218, 178, 1))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i:06d}.jpg", quality=85)


def read_with_pillow(paths: Sequence[Path]) -> None:
    """What a folder dataset does with each file."""
    for path in paths:
        with Image.open(path, formats=["JPEG"]) as picture:
            square = picture.convert("RGB").crop((0, 20, 178, 198))
            np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def read_prepared(dataset: Prepared) -> None:
    """Single images in random order."""
    for index in np.random.default_rng(0).permutation(len(dataset)):
        dataset[int(index)]


def open_faces(folder: Path) -> Source:
    """The folder as a dataset."""
    return open_source(f"folder:{folder}", size=SIZE, channels=3)


def images_a_second(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return FLAGS.num / (time.perf_counter() - start)


def main(_: Sequence[str]) -> None:
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        cache = Path(temporary, "cache")
        folder.mkdir()
        write_images(folder)
        paths = sorted(folder.iterdir())
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        print(
            f"{FLAGS.num:,} JPEGs of 178 x 218 px, {kilobytes:.1f} kB each, to {SIZE} x {SIZE} px"
        )
        before = images_a_second(lambda: read_with_pillow(paths))
        preparing = images_a_second(lambda: prepare(open_faces(folder), cache, "faces"))
        after = images_a_second(lambda: read_with_pillow(paths))
        peer = (before + after) / 2
        print(f"Pillow, one process  {before:8,.0f} and {after:,.0f} images/s, before and after")
        print(
            f"preparing            {preparing:8,.0f} images/s, {preparing / peer:.2f} times as fast"
        )
        dataset = prepare(open_faces(folder), cache, "faces")
        reading = images_a_second(lambda: read_prepared(dataset))
        print(f"reading              {reading:8,.0f} images/s, {reading / peer:.1f} times as fast")


if __name__ == "__main__":
    app.run(main)
