"""The paper's two theorems in closed form, and retrieval from real digits: no training, minutes on a laptop.

  python -m experiments.theorems --workdir runs/theorems
  python -m experiments.theorems --workdir runs/mine --source folder:my_images --classes 0,1 --n 400

Writes theorems.json, tables/*.csv and figures/*.svg: the laboratory of Theorem 1 (premise and conclusion of cases in which
all is known), Figure 3 in the paper's form with its closed form beside it, the minority's share against how smooth the
retrieval is, and how the minima of the free energy merge. Running it again goes on where it ended.
"""

from typing import Any

from experiments import _cli

_cli.prepare_environment()

from absl import flags
from etils import epath
from rich.table import Table

from jaxdiff import results
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets import registry as sources
from jaxdiff.landscape import laboratory as theorems
from jaxdiff.report import style, tables
from jaxdiff.report import theorem_figures as figures

flags.DEFINE_string("workdir", None, "Where everything is written.")
flags.DEFINE_string("source", "digits", f"The images that are retrieved: {sources.DATASET_NAMES_HELP}.")
flags.DEFINE_string("data_dir", None, "Where the dataset is as published.")
flags.DEFINE_string(
    "cache", None, "Where prepared datasets are kept; by default under the workdir."
)
flags.DEFINE_list("classes", ["6", "9"], "The two classes.")
flags.DEFINE_integer("n", 200, "Images in each memory.", lower_bound=10)
flags.DEFINE_integer("size", 16, "Pixels on a side.", lower_bound=4)
flags.DEFINE_integer("samples", 1000, "Samples behind each share.", lower_bound=10)
flags.DEFINE_integer("grids", 2000, "Simulated grids behind each share of Figure 3.", lower_bound=2)
flags.DEFINE_integer("seed", 0, "Of everything that is drawn.", lower_bound=0)
FLAGS = flags.FLAGS


def draw(found: dict, workdir: epath.Path) -> None:
    """The figures and the tables."""
    grids, pictures = (results.read_npz(workdir / f"{name}.npz") for name in ("grids", "retrieval"))
    made = {
        "figure3": lambda: figures.figure_3(grids, theorems.FIGURE_3),
        "share_against_rho": lambda: figures.share_against_rho(found["smoothed"]),
        "share_against_k": lambda: figures.share_against_k(found["votes"]),
        "end_points": lambda: figures.end_points(pictures, 0.8, found["settings"]["classes"][0]),
    }
    for name, figure in made.items():
        style.write(workdir / "figures", name, figure)
    for name in ("laboratory", "grids", "laws", "smoothed", "law", "votes", "minima"):
        tables.write(workdir / "tables", name, found[name])


def laboratory(found: dict) -> Table:
    """A line a case: premise, conclusion, and the norms from level to level."""
    table = Table("case", "premise", "conclusion", "|Hess E| by level", "what it shows", box=None)
    for name in dict.fromkeys(row["case"] for row in found["laboratory"]):
        rows = [row for row in found["laboratory"] if row["case"] == name]
        holds = ["holds" if rows[0][key] else "fails" for key in ("premise", "conclusion")]
        table.add_row(
            name, *holds, " -> ".join(f"{row['hessian']:.3g}" for row in rows), rows[0]["shows"]
        )
    return table


def main() -> None:
    if not FLAGS.workdir:
        raise ValueError("--workdir is missing; give a folder, as --workdir runs/theorems")
    classes = [int(c) for c in FLAGS.classes if c.isdigit()]
    if len(FLAGS.classes) != 2 or len(set(classes)) != 2:
        raise ValueError(
            f"--classes is {','.join(FLAGS.classes)}; two different classes are expected, as 6,9"
        )
    chosen: dict[str, Any] = {
        name: FLAGS[name].value
        for name in ("source", "data_dir", "n", "size", "samples", "grids", "seed")
    }
    options, workdir = (
        theorems.Options(classes=(classes[0], classes[1]), **chosen),
        epath.Path(FLAGS.workdir),
    )
    with _cli.Reporter() as progress:
        found = theorems.run(
            options, workdir, DataPaths(cache=FLAGS.cache or "").cache_dir(workdir), progress
        )
    draw(found, workdir)
    _cli.console.print(laboratory(found))
    for sentence in theorems.summary(found):
        _cli.console.print(sentence)
    _cli.console.print(f"figures and tables: {workdir}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
