"""Bypass 0 to 100 % of the mid-block: more variance, or more realistic images?

  python -m experiments.bypass --model runs/quickstart/cells/4-80_20-n300-s0 --workdir runs/bypass
  python -m experiments.bypass --model stable-diffusion-v1-5 --prompts "a woman,a girl" \\
    --workdir runs/sd
  python -m experiments.bypass --model stable-diffusion-v1-5 --config configs/sd_bypass.py \\
    --config.guidance=5 --workdir runs/sd

For trained cells it measures quality gate, KID, nearest training image, memorized fraction,
effective k, minority share and LPIPS at each fraction; several seeds of one model give intervals.
For Stable Diffusion 1.x it measures how alike images of different prompts, and of different seeds,
become; the control is guidance from strong to none. Writes bypass.json, tables/*.csv and
figures/*.svg. The same command again resumes; --redo NAME makes a point again.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments import _cli

_cli.prepare_environment()

from absl import flags
from etils import epath
from matplotlib.figure import Figure
from rich.table import Table

from jaxdiff import files, hub
from jaxdiff.analysis import bypass as analysis
from jaxdiff.analysis import similarity
from jaxdiff.bypass import cells, text_to_image
from jaxdiff.bypass.config import BypassSettings, read_settings
from jaxdiff.cells.data import DataPaths
from jaxdiff.measures.registry import load_measures
from jaxdiff.plugins import import_plugins
from jaxdiff.report import bypass_figures, style, tables
from jaxdiff.setting_fields import to_json
from jaxdiff.stable_diffusion.folder import WEIGHTS_NAMES, is_pipeline
from jaxdiff.stage import Redo

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "sd_bypass.py"
_cli.define_config(
    "The settings, by default those of configs/sd_bypass.py; --config.KEY=VALUE changes one.",
    BypassSettings,
)
flags.DEFINE_multi_string(
    "model",
    [],
    "A cell's folder, or a diffusers folder or repository id of Stable Diffusion 1.x; may be "
    "repeated.",
)
flags.DEFINE_list(
    "prompts", [], "Prompts of Stable Diffusion, with commas between; in place of the config's."
)
_cli.define_workdir("runs/bypass")
_cli.define_data()
_cli.define_redo()
_cli.define_plugins()
FLAGS = flags.FLAGS


def write_tables(
    workdir: epath.Path,
    trained: list[analysis.CellPoints],
    drawn: list[similarity.DrawnModel],
) -> None:
    """The CSV files; one without rows is removed."""
    rows_by_name = {
        "bypass": analysis.table(trained),
        "bypass_verdicts": [verdict.to_row() for verdict in analysis.judge(trained)],
        "likeness": similarity.table(drawn),
    }
    for name, rows in rows_by_name.items():
        if rows:
            tables.write(workdir / "tables", name, rows)
        else:
            (workdir / "tables" / f"{name}.csv").unlink(missing_ok=True)


def write_figures(
    workdir: epath.Path,
    trained: list[analysis.CellPoints],
    drawn: list[similarity.DrawnModel],
) -> None:
    """The SVG files."""
    figures: dict[str, Callable[[], Figure | None]] = {
        "measures": functools.partial(bypass_figures.draw_measures, trained),
        "likeness": functools.partial(bypass_figures.draw_similarities, drawn),
    }
    for cell in trained:
        figures[f"samples-{cell.name}"] = functools.partial(
            bypass_figures.draw_samples, cell, workdir
        )
    for model in drawn:
        figures |= dict(bypass_figures.list_image_sheets(model, workdir))
    for name, figure in figures.items():
        style.write(workdir / "figures", name, figure)


def print_summary(rows: list[dict[str, str]]) -> None:
    """One line per quantity, one column per model and form."""
    if not rows:
        return
    table = Table(box=None)
    table.add_column("")
    for _ in rows:
        table.add_column(overflow="fold")
    for key in rows[0]:
        if any(row[key] for row in rows):
            table.add_row(key, *(row[key] for row in rows))
    _cli.console.print(table)


def fetch_pipelines(pipelines: Mapping[str, epath.Path]) -> None:
    """Fetch the weights of the pipelines that are repositories of the hub."""
    for name, path in zip(_cli.short_names(FLAGS.model), FLAGS.model, strict=True):
        for part, weights in WEIGHTS_NAMES.items() if name in pipelines else ():
            hub.fetch_weights(path, pipelines[name] / part, *weights)


def main() -> None:
    _cli.check_required("model", "workdir")
    load_measures()
    import_plugins(FLAGS.plugins)
    config = FLAGS.config
    workdir = epath.Path(FLAGS.workdir)
    if FLAGS.prompts:
        config.prompts = tuple(prompt.strip() for prompt in FLAGS.prompts if prompt.strip())
    settings = read_settings(config)
    redo = Redo(FLAGS.redo)
    paths = {
        name: hub.find_folder(path)
        for name, path in zip(_cli.short_names(FLAGS.model), FLAGS.model, strict=True)
    }
    pipelines = {name: path for name, path in paths.items() if is_pipeline(path)}
    cell_paths = {name: path for name, path in paths.items() if name not in pipelines}
    stages = [f"{name}-{p.name}" for name in cell_paths for p in cells.list_points(settings)]
    drawn_points = text_to_image.list_points(settings)
    stages += [f"{name}-{point.name}" for name in pipelines for point in drawn_points]
    redo.check_all_matched(stages)
    data_paths = DataPaths(FLAGS.data_dir or "", FLAGS.cache or "")
    _cli.start_devices()
    with _cli.Reporter() as progress:
        text_to_image.check(pipelines, settings)  # before the first of many hours
        fetch_pipelines(pipelines)
        opened = cells.open_cells(cell_paths, settings, data_paths, progress)
        models = cells.run(opened, settings, workdir, progress, redo)
        models |= text_to_image.run(pipelines, settings, workdir, progress, redo)
    content = {"schema": 1, "settings": to_json(settings), "models": models}
    files.write_json(workdir / "bypass.json", content)
    trained = analysis.read_cells(workdir)
    drawn = similarity.read_drawn(workdir)
    write_tables(workdir, trained, drawn)
    write_figures(workdir, trained, drawn)
    print_summary(list(analysis.summarize(trained)))
    print_summary(similarity.summarize(drawn))
    _cli.console.print(f"figures and tables: {workdir}")


if __name__ == "__main__":
    is_given = any(arg.split("=")[0].lstrip("-") == "config" for arg in sys.argv[1:])
    if not is_given:
        # A default of the flag itself is read too early for errors in one sentence.
        sys.argv.insert(1, f"--config={DEFAULT_CONFIG}")
    _cli.run(main, __doc__ or "", BypassSettings)
