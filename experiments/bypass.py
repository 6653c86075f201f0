"""The mid-block bypassed by 0 to 100 %: does a model move toward "high variance", and do its images become more real?

  python -m experiments.bypass --model runs/quickstart/cells/4-80_20-n300-s0 --workdir runs/bypass
  python -m experiments.bypass --model stable-diffusion-v1-5 --prompts "a woman,a girl,an actress" --workdir runs/sd
  python -m experiments.bypass --model stable-diffusion-v1-5 --config configs/sd_bypass.py --config.guidance=5 --workdir runs/sd

Of trained cells (several seeds of one model give intervals over them): gate, KID, nearest training image, memorized fraction,
effective k, minority share and LPIPS against the fraction. Of folders of Stable Diffusion 1.x: how alike pictures are between
prompts and between seeds, with guidance from strong to none as the control; every picture is a PNG under WORKDIR/pictures.
Writes bypass.json, tables/*.csv and figures/*.svg. Running it again goes on where it ended.
"""

import functools
import sys
from pathlib import Path

from experiments import _cli

_cli.prepare_environment()

from absl import flags
from etils import epath
from ml_collections import config_flags

from jaxdiff import files
from jaxdiff.analysis import bypass as verdicts
from jaxdiff.analysis import similarity as likeness
from jaxdiff.bypass import cells as bypass
from jaxdiff.bypass import config as bypass_config
from jaxdiff.bypass import text_to_image as pictures
from jaxdiff.cells.data import DataPaths
from jaxdiff.report import bypass_figures, style, tables
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.study.config import explain

DEFAULT = Path(__file__).parent.parent / "configs" / "sd_bypass.py"
config_flags.DEFINE_config_file("config", None, "The settings, by default those of configs/sd_bypass.py; --config.KEY=VALUE changes one. The keys:\n\n" + explain(bypass_config.TABLE))  # fmt: skip
flags.DEFINE_multi_string(
    "model", [], "A cell's folder, or a diffusers folder of Stable Diffusion 1.x; may be repeated."
)
flags.DEFINE_list(
    "prompts", [], "What Stable Diffusion draws, with commas between; in place of the config's."
)
flags.DEFINE_string("workdir", None, "Where everything is written.")
flags.DEFINE_string("data_dir", None, "Where a cell's dataset is as published.")
flags.DEFINE_string(
    "cache", None, "Where prepared datasets are kept; by default under the workdir."
)
FLAGS = flags.FLAGS


def draw(workdir: epath.Path) -> list[str]:
    """The tables and the figures; what they say in sentences."""
    cells, drawn = (verdicts.read(workdir, kind) for kind in ("cell", "pictures"))
    made = {
        "bypass": verdicts.table(cells),
        "bypass_verdicts": verdicts.verdicts(cells),
        "likeness": likeness.table(drawn),
    }
    for name, rows in made.items():
        if rows:
            tables.write(workdir / "tables", name, rows)
        else:
            (workdir / "tables" / f"{name}.csv").unlink(missing_ok=True)
    figures = {
        "measures": lambda: bypass_figures.measures(cells),
        "likeness": lambda: bypass_figures.curves(drawn),
    }
    for name, own in cells.items():
        figures[f"samples-{name}"] = functools.partial(bypass_figures.samples, name, own, workdir)
    for name, own in drawn.items():
        figures |= dict(bypass_figures.pictures(name, own, workdir))
    for name, figure in figures.items():
        style.write(workdir / "figures", name, figure)
    return [*verdicts.summary(cells), *likeness.summary(drawn)]


def main() -> None:
    for flag in ("model", "workdir"):
        if not FLAGS[flag].value:
            raise ValueError(f"--{flag} is missing; --help shows an example")
    config, workdir = FLAGS.config, epath.Path(FLAGS.workdir)
    if FLAGS.prompts:
        config.prompts = tuple(prompt.strip() for prompt in FLAGS.prompts if prompt.strip())
    settings = bypass_config.check(config)
    paths = dict(zip(_cli.names(FLAGS.model), map(epath.Path, FLAGS.model), strict=True))
    theirs = {name: path for name, path in paths.items() if folders.is_pipeline(path)}
    ours = {name: path for name, path in paths.items() if name not in theirs}
    with _cli.Reporter() as progress:
        pictures.check(theirs, settings)  # before the first of many hours
        opened = bypass.open_studies(
            ours, settings, DataPaths(FLAGS.data_dir or "", FLAGS.cache or ""), workdir, progress
        )
        found = bypass.run(opened, settings, workdir, progress) | pictures.run(
            theirs, settings, workdir, progress
        )
    files.write_json(workdir / "bypass.json", {"schema": 1, "settings": settings, "models": found})
    for sentence in draw(workdir):
        _cli.console.print(sentence)
    _cli.console.print(f"figures and tables: {workdir}")


if __name__ == "__main__":
    if not any(argument.split("=")[0].lstrip("-") == "config" for argument in sys.argv[1:]):
        sys.argv.insert(
            1, f"--config={DEFAULT}"
        )  # a default of the flag's own is read too early for errors in one sentence
    _cli.run(main, __doc__ or "", bypass_config.TABLE)
