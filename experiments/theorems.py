"""The paper's two theorems in closed form, and retrieval from real digits: no training.

  python -m experiments.theorems --workdir runs/theorems
  python -m experiments.theorems --workdir runs/large --n 400 --samples 4000
  python -m experiments.theorems --workdir runs/mine --source folder:my_images --classes 0,1

Takes minutes on a laptop. Writes theorems.json, tables/*.csv and figures/*.svg: the laboratory of
Theorem 1 (premise and conclusion in cases with a closed form), the paper's Figure 3 beside its
closed form, the minority's share against the smoothness of the retrieval, and how the minima of
the free energy merge. The same command again resumes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import _cli

_cli.prepare_environment()

from absl import flags
from etils import epath
from rich.table import Table

from jaxdiff import results
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets.registry import DATASET_NAMES_HELP
from jaxdiff.landscape import theorem_run
from jaxdiff.plugins import import_plugins
from jaxdiff.report import style, tables, theorem_figures
from jaxdiff.settings import MAX_SIZE
from jaxdiff.stage import Redo

_cli.define_workdir("runs/theorems")
_cli.define_data()
_cli.define_redo()
flags.DEFINE_string("source", "digits", f"The images that are retrieved: {DATASET_NAMES_HELP}.")
flags.DEFINE_list("classes", ["6", "9"], "The two classes.")
flags.DEFINE_integer("n", 200, "Images in each memory.", lower_bound=10)
flags.DEFINE_integer("size", 16, "Pixels on a side.", lower_bound=4, upper_bound=MAX_SIZE)
flags.DEFINE_integer("samples", 1000, "Samples for each share.", lower_bound=10)
flags.DEFINE_integer("grids", 2000, "Simulated grids for each share of Figure 3.", lower_bound=2)
flags.DEFINE_integer("seed", 0, "Random seed.", lower_bound=0)
_cli.define_plugins()
FLAGS = flags.FLAGS

TABLES = ("laboratory", "grids", "laws", "smoothed", "law", "votes", "minima")
DRAWN_SHARE = 0.8  # the majority's share of the memory whose samples are drawn


def parse_options() -> theorem_run.Options:
    """The run's settings; raises ValueError unless there are two classes."""
    classes = [int(label) for label in FLAGS.classes if label.isdigit()]
    if len(FLAGS.classes) != 2 or len(set(classes)) != 2:
        raise ValueError(
            f"--classes must be two different classes, as 6,9, got {','.join(FLAGS.classes)}"
        )
    return theorem_run.Options(
        source=FLAGS.source,
        data_dir=FLAGS.data_dir,
        classes=(classes[0], classes[1]),
        n=FLAGS.n,
        size=FLAGS.size,
        samples=FLAGS.samples,
        grids=FLAGS.grids,
        seed=FLAGS.seed,
    )


def write_figures(theorems: Mapping[str, Any], workdir: epath.Path) -> None:
    """Draw Figure 3 and the figures of retrieval."""
    grids = results.read_npz(workdir / "grids.npz")
    samples = results.read_npz(workdir / "retrieval.npz")
    majority = theorems["settings"]["classes"][0]
    figures = {
        "figure3": lambda: theorem_figures.figure_3(grids, theorem_run.FIGURE_3),
        "share_against_rho": lambda: theorem_figures.share_against_rho(theorems["smoothed"]),
        "share_against_k": lambda: theorem_figures.share_against_k(theorems["votes"]),
        "end_points": lambda: theorem_figures.end_points(samples, DRAWN_SHARE, majority),
    }
    for name, draw in figures.items():
        style.write(workdir / "figures", name, draw)


def cases_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """Theorem 1, one line per case: premise, conclusion, and the norms from level to level."""
    table = Table("case", "premise", "conclusion", "|Hess E| by level", "what it shows", box=None)
    cases: dict[str, list[Mapping[str, Any]]] = {}
    for level in levels:
        cases.setdefault(level["case"], []).append(level)
    for name, case in cases.items():
        premise = "holds" if case[0]["premise"] else "fails"
        conclusion = "holds" if case[0]["conclusion"] else "fails"
        norms = " -> ".join(f"{level['hessian']:.3g}" for level in case)
        table.add_row(name, premise, conclusion, norms, case[0]["shows"])
    return table


def describe_theorem_1(levels: Sequence[Mapping[str, Any]]) -> str:
    """How many cases refute the theorem, and how far autodiff is from the closed forms."""
    cases = {level["case"] for level in levels}
    refuted = {level["case"] for level in levels if level["premise"] and not level["conclusion"]}
    error = max(abs(level["hessian"] - level["exact"]) / level["exact"] for level in levels)
    return (
        f"Theorem 1: in {len(refuted)} of {len(cases)} cases the premise holds and the conclusion "
        f"fails. Computed and closed forms differ by at most {error:.1e}."
    )


def describe_theorem_2(grids: Sequence[Mapping[str, int | float]]) -> str:
    """How far the simulated shares are from the closed form after one vote."""
    deviations = [
        abs(row["simulated"] - row["closed_form"]) / max(row["standard_error"], 1e-12)
        for row in grids
        if row["level"] == 1
    ]
    return (
        f"Theorem 2: after one vote the simulated shares are within {max(deviations):.1f} "
        "standard errors of 3 p^2 - 2 p^3, whose exponent lies between 1.5 and 2."
    )


def describe_retrieval(about: str, smoothed: Sequence[Mapping[str, int | float]]) -> str:
    """How often the exact denoiser brings back the memory's proportions."""
    exact = [row for row in smoothed if row["rho"] == 1.0]
    covered = [row for row in exact if row["low"] <= row["trained"] <= row["high"]]
    return (
        f"Retrieval from {about}: at rho = 1 the trained share is within the 95 % interval in "
        f"{len(covered)} of {len(exact)} memories."
    )


def laws_table(theorems: Mapping[str, Any]) -> Table:
    """The fitted law at every rho; at some rho a class may not have been drawn at all."""
    label = theorems["settings"]["classes"][0]
    table = Table(
        "rho",
        "S [95 %]",
        "b [95 %]",
        "both classes drawn",
        title=f"logit(generated) = b + S logit(trained) for class {label}",
        caption="Smoothing amplifies where S is above 1. Theorem 2 has b = 0.",
        box=None,
    )
    for law in theorems["law"]:
        shares = [row["share"] for row in theorems["smoothed"] if row["rho"] == law["rho"]]
        # A class that was not drawn has no odds; half a sample stands for it.
        are_drawn = all(0 < share < 1 for share in shares)
        table.add_row(
            f"{law['rho']:g}",
            f"{law['S']:.2f} [{law['S_low']:.2f}, {law['S_high']:.2f}]",
            f"{law['b']:.2f} [{law['b_low']:.2f}, {law['b_high']:.2f}]",
            "yes" if are_drawn else "no",
        )
    return table


def main() -> None:
    _cli.check_required("workdir")
    import_plugins(FLAGS.plugins)
    options = parse_options()
    workdir = epath.Path(FLAGS.workdir)
    cache = DataPaths(cache=FLAGS.cache or "").cache_dir(workdir)
    _cli.start_devices()
    with _cli.Reporter() as progress:
        theorems = theorem_run.run(options, workdir, cache, progress, Redo(FLAGS.redo))
    write_figures(theorems, workdir)
    for name in TABLES:
        tables.write(workdir / "tables", name, theorems[name])
    _cli.console.print(cases_table(theorems["laboratory"]))
    _cli.console.print(describe_theorem_1(theorems["laboratory"]))
    _cli.console.print(describe_theorem_2(theorems["grids"]))
    _cli.console.print(describe_retrieval(theorems["about"], theorems["smoothed"]))
    _cli.console.print(laws_table(theorems))
    _cli.console.print(f"figures and tables: {workdir}")


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
