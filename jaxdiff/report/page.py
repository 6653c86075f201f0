"""report.html: one file that opens offline, with the figures and tables that also lie beside it."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import jinja2
from etils import epath
from markupsafe import Markup

from jaxdiff import files
from jaxdiff.analysis import claims as verdicts
from jaxdiff.analysis import smoothness as probe
from jaxdiff.report import style, tables
from jaxdiff.report.figures import FIGURES, GATE
from jaxdiff.report.headings import TABLES
from jaxdiff.results import CellResult, read_cells

JUDGE = 0.95  # the classifier's own gate on held-out images


def write(workdir: epath.PathLike) -> epath.Path:
    """Draw the report of a study; the path of report.html. Raises ValueError where no cell is finished."""
    workdir = epath.Path(workdir)
    cells, study = read_cells(workdir), files.read_json(workdir / "study.json")
    figures = _figures(cells, workdir / "figures")
    shown = _tables(cells, study, workdir / "shared")
    for name, (_, _, rows) in shown.items():
        tables.write(workdir / "tables", name, rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxdiff.report", "."), autoescape=True
    )
    environment.filters["number"] = lambda v: f"{v:.4g}" if isinstance(v, float) else v
    page = environment.get_template("page.html").render(
        study=study, cells=cells, figures=figures, tables=shown,
        failed=[c.name for c in cells if c.result.get("quality") and c.result["quality"][0]["value"] < GATE],
        judge=_judge(workdir / "shared"), JUDGE=JUDGE, GATE=GATE, seeds=len({cell.own["seed"] for cell in cells}),
        blind={cell.own["model"]: tables.in_words_of_levels(cell.own) for cell in cells},
        settings=json.dumps(study, indent=1), versions=json.dumps(cells[-1].run, indent=1),
    )  # fmt: skip
    files.write(workdir / "report.html", page)
    return workdir / "report.html"


def _judge(shared: epath.Path) -> float | None:
    """The fraction of held-out images of the two classes that the classifier calls one of them."""
    path = shared / "confusion.json"
    return files.read_json(path)["gate"]["held_out"] if path.exists() else None


def _figures(cells: Sequence[CellResult], folder: epath.Path) -> dict[str, dict[str, Any]]:
    """Each figure's title, caption and drawing, which is also written as a file of its own."""
    counts = sorted({len(cell.samples) for cell in cells})
    n, found = " or ".join(f"{c:,}" for c in counts), {}
    for name, plot in FIGURES.items():
        if not any(plot.needs(cell) for cell in cells):
            continue
        svg = style.write(folder, name, functools.partial(plot.draw, cells))
        assert svg is not None
        drawing = Markup(svg[svg.index("<svg") :])
        found[name] = {"title": plot.title, "caption": plot.caption.format(n=n), "svg": drawing,
                       "grid": name in ("samples", "sets", "nearest")}  # fmt: skip
    return found


def _tables(
    cells: Sequence[CellResult], study: dict[str, Any], shared: epath.Path
) -> dict[str, tuple[str, str, list[tables.Row]]]:
    """Each table's title, what to read it for, and rows; empty ones are left out."""
    compared, confusion = (
        files.read_json(shared / name) if (shared / name).exists() else {}
        for name in ("comparisons.json", "confusion.json")
    )
    judged = confusion.get("matrix", {}).get("convolutional", [[0]])
    tested = min((sum(row) for row in judged if sum(row)), default=0)
    trained = [cell for cell in cells if cell.metrics]
    pixels = {cell.name: cell.own.get("bottleneck", "") for cell in cells}
    rows = {
        "verdicts": verdicts.claims(trained, study, tested),
        "table2": tables.table_2(trained),
        "table3": tables.table_3(cells),
        "table3_mean": tables.table_3(cells, "mean"),
        "table3_paper": tables.table_3_paper() if trained else [],
        "over_seeds": verdicts.over_seeds(trained),
        "shares": tables.measures(cells, "share"),
        "amplification": tables.measures(cells, "amplification"),
        "flips": tables.flips(compared, pixels),
        "similarity": tables.similarity(compared, pixels),
        "lpips": tables.measures(cells, "lpips"),
        "neighbors": tables.measures(cells, "neighbors"),
        "memorization": tables.measures(cells, "memorization"),
        "checkpoints": tables.measures(cells, "checkpoints"),
        "fidelity": tables.measures(cells, "fidelity"),
        "effective_k": tables.measures(cells, "effective_k"),
        "predicted": tables.predicted(cells),
        "smoothness": probe.compare_cells(cells),
        "curvature": tables.measures(cells, "curvature"),
        "bias_variance": tables.bias_variance(compared),
        "quality": tables.measures(cells, "quality"),
        "training": tables.training(trained),
    }
    return {name: (*TABLES[name], found) for name, found in rows.items() if found}
