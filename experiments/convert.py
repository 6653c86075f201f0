"""A trained cell to a diffusers folder, or a diffusers folder to a cell's form. Which one, --model decides.

  python -m experiments.convert --model runs/quickstart/cells/2-80_20-n300-s0 --out for_diffusers
  python -m experiments.convert --model a_diffusers_folder --out as_cell

diffusers opens the first with DDPMPipeline.from_pretrained, or UNet2DModel.from_pretrained(..., subfolder="unet").
A cell that samples by DDIM derives eps again from the clipped image: DDIMPipeline does so when it is called with
use_clipped_model_output=True.
"""

from experiments import _cli

_cli.prepare_environment()

import uuid

from absl import flags
from etils import epath

from jaxdiff import diffusers_io, models
from jaxdiff.denoiser import get_params

flags.DEFINE_string("model", None, "A trained cell's folder, or a diffusers folder.")
flags.DEFINE_string("out", None, "A new folder.")
FLAGS = flags.FLAGS


def main() -> None:
    if not FLAGS.model or not FLAGS.out:
        raise ValueError(
            f"--{'out' if FLAGS.model else 'model'} is missing; --model is read and --out is written"
        )
    out = epath.Path(FLAGS.out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out or remove it")
    model = models.load(FLAGS.model)
    to_cell = diffusers_io.is_folder(FLAGS.model)
    beside = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        (models.save_cell if to_cell else models.save_pipeline)(model, beside)
        beside.rename(out)
    except BaseException:
        if beside.exists():
            beside.rmtree()
        raise
    count = sum(p.size for p in get_params(model.unet).values())
    _cli.console.print(
        f"{out}: {'a cell' if to_cell else 'a diffusers pipeline'} of {count:,} parameters"
    )


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
