"""report.html: one file that opens offline, with the figures and tables that also lie beside it."""

import io
import json
from typing import Any

import jinja2
import matplotlib as mpl
from etils import epath
from markupsafe import Markup

from jaxdiff import files
from jaxdiff.report import tables
from jaxdiff.report.figures import FIGURES
from jaxdiff.results import read_cells

GATE = 0.7


def write(workdir: epath.PathLike) -> epath.Path:
    """Draw the report of a study; the path of report.html. Raises ValueError where no cell is finished."""
    workdir = epath.Path(workdir)
    cells, study = read_cells(workdir), files.read_json(workdir / "study.json")
    figures = []
    for name, (draw, title, caption) in FIGURES.items():
        svg = _svg(draw(cells), name)
        files.write(workdir / "figures" / f"{name}.svg", svg)
        figures.append((name, title, caption, Markup(svg[svg.index("<svg") :])))
    shown = {"Shares": tables.measures(cells, "share"), "Quality": tables.measures(cells, "quality"),
             "Training": tables.training(cells)}  # fmt: skip
    for title, rows in shown.items():
        files.write(workdir / "tables" / f"{title.lower()}.csv", tables.to_csv(rows))
    environment = jinja2.Environment(loader=jinja2.PackageLoader("jaxdiff.report", "."), autoescape=True)
    environment.filters["number"] = lambda v: f"{v:.4g}" if isinstance(v, float) else v
    page = environment.get_template("page.html").render(
        study=study, cells=cells, figures=figures, tables=[(t, rows) for t, rows in shown.items() if rows],
        failed=[cell.name for cell in cells if cell.result["quality"][0]["value"] < GATE],
        seeds=len({cell.result["cell"]["seed"] for cell in cells}),
        settings=json.dumps(study, indent=1), versions=json.dumps(cells[-1].run, indent=1),
    )  # fmt: skip
    files.write(workdir / "report.html", page)
    return workdir / "report.html"


def _svg(figure: Any, name: str) -> str:
    """The same text for the same figure: a fixed salt for ids, which are also apart from the other figures', no date."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
