"""Convert a trained cell to a diffusers folder, or a diffusers folder to a cell's form.

  python -m experiments.convert --model runs/quickstart/cells/2-80_20-n300-s0 --out for_diffusers
  python -m experiments.convert --model a_diffusers_folder --out as_cell
  python -m experiments.convert --model runs/quickstart/cells/2-80_20-n300-s0 --out pushed \\
    --push someone/digits-depth-2 --license apache-2.0

The form of --model decides. A diffusers folder gets a model card, README.md, with the settings and
the measures of the cell; --push uploads it all to the Hugging Face hub, with the token of
`hf auth login` or HF_TOKEN. diffusers opens this folder with DDPMPipeline.from_pretrained, or
UNet2DModel.from_pretrained(..., subfolder="unet"). A cell that samples by DDIM derives eps again
from the clipped image: DDIMPipeline does so when it is called with use_clipped_model_output=True,
and takes the same timesteps where their number divides that of the noise levels.
"""

from experiments import _cli

_cli.prepare_environment()

import uuid

from absl import flags
from etils import epath

from jaxdiff import checkpoints, diffusers_io, diffusers_scheduler, hub, models
from jaxdiff.denoiser import get_params
from jaxdiff.plugins import import_plugins
from jaxdiff.report import model_card

flags.DEFINE_string("model", None, _cli.MODEL_HELP)
flags.DEFINE_integer("step", None, "Checkpoint of a cell; by default its last one.", lower_bound=0)
flags.DEFINE_string("out", None, "Folder to write, which must not exist.")
flags.DEFINE_string(
    "push", None, "Repository of the hub, OWNER/NAME, that the diffusers folder is uploaded to."
)
flags.DEFINE_string("license", "unknown", "License of the model card, by its id at the hub.")
_cli.define_plugins()
FLAGS = flags.FLAGS


def main() -> None:
    for name in ("model", "out"):
        if not FLAGS[name].value:
            raise ValueError(f"--{name} is missing; --model is read and --out is written")
    import_plugins(FLAGS.plugins)
    out = epath.Path(FLAGS.out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out or remove it")
    folder = hub.find_folder(FLAGS.model)
    to_cell = diffusers_io.is_diffusers_folder(folder)
    if to_cell and diffusers_scheduler.find_folder(folder) is None:
        raise ValueError(
            f"{FLAGS.model} must have the scheduler_config.json of its training, which says what "
            "noise its network knows, and neither it nor the folder above has one; put it there"
        )
    if to_cell:
        checkpoints.check_folder(out)  # by its name, before that of a temporary folder
    if FLAGS.push and to_cell:
        raise ValueError(f"--push takes a trained cell, and {FLAGS.model} is a diffusers folder")
    if FLAGS.push:
        hub.check_push(FLAGS.push)  # before the work
    model = models.load(FLAGS.model, FLAGS.step)
    save_atomically(model, out, "cell" if to_cell else "diffusers")
    count = sum(param.size for param in get_params(model.unet).values())
    form = "a cell" if to_cell else "a diffusers pipeline"
    _cli.console.print(f"{out}: {form} of {count:,} parameters")
    if FLAGS.push:
        _cli.console.print(f"uploaded: {hub.push(out, FLAGS.push)}")


def save_atomically(model: models.Model, out: epath.Path, form: models.Form) -> None:
    """Save a model, with a card in diffusers' form, under a temporary name; rename the folder."""
    temporary = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        models.save(model, temporary, form)
        if form == "diffusers":
            repository = FLAGS.push or out.name
            cell = epath.Path(FLAGS.model)
            # The cell's measures are those of its last checkpoint.
            is_last = FLAGS.step in checkpoints.list_steps(cell / "checkpoints")[-1:]
            step = None if is_last else FLAGS.step
            model_card.write_card(temporary, cell, repository, FLAGS.license, step)
        temporary.rename(out)
    except BaseException:
        if temporary.exists():
            temporary.rmtree()
        raise


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
