"""Sample a trained cell or a diffusers folder; writes samples.npz and a PNG grid beside it.

  python -m experiments.sample --model runs/quickstart/cells/2-80_20-n300-s0 --num 64 --seed 0 --out samples.npz
  python -m experiments.sample --model a_diffusers_folder --num 16 --method ddim --steps 50

  python -m experiments.sample --model a_diffusers_folder --invert images/ --steps 100 --out again.npz

--invert takes images to the noise that DDIM draws them from and back: again.npz holds the images again (arr_0) and that
noise (x_T), and the difference is printed.

The seed names a noise bank: sample i of a seed is the same image for any --num. The sampler is the cell's own; of a
diffusers folder, the one that its scheduler_config.json describes (DDPM: all of its steps).
"""

from experiments import _cli

_cli.prepare_environment()

import io

import numpy as np
from absl import flags
from etils import epath
from PIL import Image

from jaxdiff import files, models, parallel, results
from jaxdiff.datasets import image_io as folders
from jaxdiff.datasets.images import to_float, to_size, to_uint8
from jaxdiff.sampling import Sampler

flags.DEFINE_string("model", None, "A trained cell's folder, or a diffusers folder.")
flags.DEFINE_integer("num", 64, "How many samples.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "The noise bank.", lower_bound=0)
flags.DEFINE_string(
    "out", "samples.npz", "Where the samples go; the grid takes the same name with .png."
)
flags.DEFINE_integer(
    "batch", 0, "Samples computed at once; 0 takes the model's own number.", lower_bound=0
)
flags.DEFINE_enum("method", None, ["ddim", "ddpm"], "Another sampler than the model's own.")
flags.DEFINE_integer("steps", 0, "Sampling steps; 0 takes the model's own number.", lower_bound=0)
flags.DEFINE_string(
    "invert", None, "A folder of images or an .npz: invert these in place of sampling."
)
flags.DEFINE_integer(
    "iterations",
    5,
    "Of the fixed point in each step of the inversion; 1 is the usual one.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "label", None, "The class, of a U-Net with classes; by default each in turn.", lower_bound=0
)
_cli.define_distributed()
FLAGS = flags.FLAGS


def grid(images: np.ndarray) -> Image.Image:
    """All images in one picture, as near to a square as they fit, a black pixel between them."""
    count, height, width, channels = images.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    padded = np.pad(images, ((0, rows * columns - count), (0, 1), (0, 1), (0, 0)))
    tiles = padded.reshape(rows, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    return Image.fromarray(
        tiles.reshape(rows * (height + 1), columns * (width + 1), channels).squeeze()
    )


def main() -> None:
    if not FLAGS.model:
        raise ValueError(
            "--model is missing; give a cell's folder, as runs/STUDY/cells/NAME, or a diffusers folder"
        )
    _cli.start_distributed()
    model, out = models.load(FLAGS.model), epath.Path(FLAGS.out)
    changes = {"batch": FLAGS.batch, "method": FLAGS.method, "steps": FLAGS.steps}
    settings = model.config["sample"] | {key: value for key, value in changes.items() if value}
    with _cli.Reporter() as progress:
        drawer = Sampler(model, settings, progress, FLAGS.label, together=True)
        images = invert(drawer, out) if FLAGS.invert else draw(drawer, out)
    if not parallel.is_leader():
        return
    picture = io.BytesIO()
    grid(images).save(picture, "PNG")
    files.write(out.with_suffix(".png"), picture.getvalue())
    _cli.console.print(
        f"{len(images)} {'images' if FLAGS.invert else 'samples'}: {out}, {out.with_suffix('.png')}"
    )


def draw(drawer: Sampler, out: epath.Path) -> np.ndarray:
    """New images from the seed's noise bank."""
    images = to_uint8(drawer.sample(np.arange(FLAGS.num), FLAGS.seed))
    if parallel.is_leader():
        results.write_samples(out, images, np.arange(FLAGS.num))
    return images


def invert(drawer: Sampler, out: epath.Path) -> np.ndarray:
    """The images of --invert through their noise and back; how far they come back is printed."""
    height, width, channels = drawer.shape
    if height != width:
        raise ValueError(
            f"--invert reads square images, and this model's are {height} x {width} px"
        )
    given = to_size(folders.read_images(FLAGS.invert, height), height, channels)
    x_T, again, error = drawer.round_trip(to_float(given), FLAGS.iterations)
    results.write_npz(out, arr_0=to_uint8(again), x_T=x_T)
    _cli.console.print(
        f"round trip: RMS difference a pixel {np.median(error):.2g} in the middle, {error.max():.2g} at most, of the 2 from "
        f"black to white; x_T has mean {x_T.mean():.2f} and standard deviation {x_T.std():.2f}"
    )
    return to_uint8(again)


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
