"""Sample a trained cell or a diffusers folder; writes samples.npz and a PNG grid beside it.

  python -m experiments.sample --model runs/quickstart/cells/2-80_20-n300-s0 --num 64 --seed 0
  python -m experiments.sample --model google/ddpm-cifar10-32 --num 16 --method ddim --steps 50
  python -m experiments.sample --model a_diffusers_folder --invert images/ --steps 100

The seed names a noise bank: sample i of a seed is the same image for any --num. The sampler is the
cell's own, or the one that a diffusers folder's scheduler_config.json describes (DDPM: all steps).
--invert finds the noise from which DDIM draws given images, and samples from this noise again: the
output holds the images that come back (arr_0) and the noise (x_T), and the difference is printed.
"""

from experiments import _cli

_cli.prepare_environment()

import io

import numpy as np
from absl import flags
from etils import epath
from PIL import Image

from jaxdiff import files, models, parallel, results
from jaxdiff.datasets import image_io
from jaxdiff.datasets.image_io import pad_or_resize
from jaxdiff.datasets.images import tile_images, to_float, to_uint8
from jaxdiff.plugins import import_plugins
from jaxdiff.precision import COMPUTE_DTYPES, measuring
from jaxdiff.progress import Progress
from jaxdiff.samplers import SAMPLERS, SamplerSpec
from jaxdiff.sampling import Sampler

flags.DEFINE_string("model", None, _cli.MODEL_HELP)
flags.DEFINE_integer("step", None, "Checkpoint of a cell; by default its last one.", lower_bound=0)
flags.DEFINE_integer("num", 64, "Number of samples.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of the noise bank.", lower_bound=0)
flags.DEFINE_string(
    "out",
    "samples.npz",
    "File of the samples, NAME.npz; the grid goes to NAME.png.",
)
flags.DEFINE_integer(
    "batch", 0, "Samples computed at once; 0 takes the model's own number.", lower_bound=0
)
flags.DEFINE_string(
    "method", None, f"A sampler other than the model's own: {', '.join(sorted(SAMPLERS))}."
)
flags.DEFINE_enum(
    "dtype",
    None,
    COMPUTE_DTYPES,
    "Data type of the network's activations and products; by default the cell's own, else float32. "
    "--invert takes float32.",
)
flags.DEFINE_integer("steps", 0, "Sampling steps; 0 takes the model's own number.", lower_bound=0)
flags.DEFINE_string("invert", None, "A folder of images or an .npz to invert, instead of sampling.")
flags.DEFINE_integer(
    "iterations",
    5,
    "Fixed-point iterations in each step of the inversion; 1 is the usual inversion.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "label",
    None,
    "The class to draw, if the U-Net has classes; by default each in turn.",
    lower_bound=0,
)
_cli.define_plugins()
_cli.define_distributed()
FLAGS = flags.FLAGS


def build_sampler(model: models.Model, progress: Progress) -> Sampler:
    """The model's own sampler with the changes that the flags make."""
    changes = {key: FLAGS[key].value for key in ("batch", "method", "steps", "dtype")}
    settings = dict(model.config["sample"])
    settings.update({key: value for key, value in changes.items() if value})
    return Sampler(
        model,
        SamplerSpec.from_settings(settings),
        batch=settings["batch"],
        progress=progress,
        label=FLAGS.label,
        all_processes=True,
        dtype=settings.get("dtype", "float32"),
    )


def sample_images(sampler: Sampler, out: epath.Path) -> np.ndarray:
    """Sample from the seed's noise bank and write the images, uint8."""
    indices = np.arange(FLAGS.num)
    images = to_uint8(sampler.sample(indices, FLAGS.seed))
    if parallel.is_leader():
        results.write_samples(out, images, indices)
    return images


def invert_images(sampler: Sampler, out: epath.Path) -> np.ndarray:
    """Invert the images of --invert, sample them again, and print how near they come."""
    height, width, channels = sampler.image_shape
    if height != width:
        raise ValueError(
            f"--invert needs a model of square images, got {height} x {width} px; invert from "
            "Python with jaxdiff.sampling.Sampler.invert"
        )
    images = pad_or_resize(image_io.read_images(FLAGS.invert, height), height, channels)
    with measuring():
        x_T, sampled, error = sampler.invert(to_float(images), FLAGS.iterations)
    results.write_npz(out, arr_0=to_uint8(sampled), x_T=x_T)
    _cli.console.print(
        f"round trip: RMS difference a pixel {np.median(error):.2g} in the median, "
        f"{error.max():.2g} at most, of the 2 from black to white; x_T has mean {x_T.mean():.2f} "
        f"and standard deviation {x_T.std():.2f}"
    )
    return to_uint8(sampled)


def main() -> None:
    if not FLAGS.model:
        raise ValueError(
            "--model is missing; give a cell's folder, as runs/STUDY/cells/NAME, a diffusers "
            "folder, or a repository id of the Hugging Face hub"
        )
    sources = [FLAGS.model, FLAGS.invert] if FLAGS.invert else [FLAGS.model]
    _cli.output_file("out", ".npz", sources)  # before hours of sampling
    import_plugins(FLAGS.plugins)
    _cli.start_devices()
    model = models.load(FLAGS.model, FLAGS.step)
    out = epath.Path(FLAGS.out)
    run = invert_images if FLAGS.invert else sample_images
    with _cli.Reporter() as progress:
        images = run(build_sampler(model, progress), out)
    # All processes sample; one writes.
    if not parallel.is_leader():
        return
    png = io.BytesIO()
    Image.fromarray(tile_images(images).squeeze()).save(png, "PNG")
    files.write(out.with_suffix(".png"), png.getvalue())
    noun = "images" if FLAGS.invert else "samples"
    _cli.console.print(f"{len(images)} {noun}: {out}, {out.with_suffix('.png')}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
