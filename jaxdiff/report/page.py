"""report.html: one file that opens offline; its figures and tables also lie beside it."""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import jinja2
from etils import epath
from markupsafe import Markup
from matplotlib.figure import Figure

from jaxdiff import files

# The modules of REGISTERED_BY register what the page shows.
from jaxdiff.analysis.claims import judge_study
from jaxdiff.analysis.contrasts import mean_gate
from jaxdiff.analysis.plan import Plan
from jaxdiff.analysis.queries import format_time_blind_levels, model_names
from jaxdiff.analysis.verdicts import MIN_GATE, OPEN_VERDICTS
from jaxdiff.report import (
    claim_figures,
    conclusions,
    figures,
    memorization_figures,
    paper_tables,
    quality_figures,
    study_tables,
    style,
    tables,
    training_figures,
)
from jaxdiff.report.method import Method, load_method
from jaxdiff.report.registry import FIGURES, MEASURE_TABLES, SECTIONS, TOPICS, TableRows
from jaxdiff.results import CellResult, Section, StudyResults, collect_sections, read_study

REGISTERED_BY = (
    claim_figures,
    conclusions,
    figures,
    memorization_figures,
    paper_tables,
    quality_figures,
    study_tables,
    training_figures,
)
MIN_CLASSIFIER_GATE = 0.95  # of held-out images that the classifier should recognize
MAX_RANDOM_GATE = 0.05  # of samples of random weights that may pass
# The first screen has the first two of these that there are, and the first grid of samples.
GLANCE_FIGURES = ("figure-seed_lines", "measure-share", "measure-lpips", "figure-gate")
GLANCE_GRIDS = ("figure-samples", "figure-sets")


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the page under one heading: a figure, a table, or both.

    Parameters
    ----------
    anchor
        Target of the link in the contents.
    method
        Anchor of its explanation in the method; empty where there is none.
    svg
        The drawing; None where there is none.
    table
        Name of the CSV file of `rows`.
    """

    anchor: str
    title: str
    caption: str
    topic: str
    method: str = ""
    svg: Markup | None = None
    is_grid: bool = False
    table: str = ""
    rows: TableRows = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Topic:
    """Blocks that belong together."""

    title: str
    blocks: Sequence[Block]


def write(workdir: epath.PathLike) -> epath.Path:
    """Draw the report of a folder from its results.

    Returns
    -------
    path
        Path of report.html; figures/ and tables/ are written beside it.

    Raises
    ------
    ValueError
        Where nothing is finished, a file is damaged, or older code made a result.
    """
    return draw(read_study(workdir), workdir)


def draw(study: StudyResults, workdir: epath.PathLike) -> epath.Path:
    """Draw the report of results that are read already; otherwise as `write`."""
    workdir = epath.Path(workdir)
    sections = collect_sections(study.results)  # raises before anything is written
    method = load_method()
    measures = _build_measures(study, sections, workdir, method)
    # Figures come first in every topic, and long tables of a single measure last.
    blocks = [
        *_build_figures(study, workdir, method),
        *(block for block in measures if block.svg),
        *_build_tables(study, method),
        *(block for block in measures if not block.svg),
    ]
    for block in blocks:
        if block.rows:
            tables.write(workdir / "tables", block.table, block.rows)
    path = workdir / "report.html"
    files.write(path, _render(study, blocks, method))
    return path


def _build_figures(study: StudyResults, workdir: epath.Path, method: Method) -> Iterator[Block]:
    """The registered figures of which the results have what they need."""
    for figure in FIGURES.values():
        if not figure.is_available(study.results):
            continue
        svg = draw_svg(workdir, figure.name, functools.partial(figure.draw, study))
        if svg is not None:
            yield Block(
                anchor=f"figure-{figure.name}",
                title=figure.title,
                caption=figure.caption,
                topic=figure.topic,
                method=method.find_anchor(figure.name, figure.method),
                svg=svg,
                is_grid=figure.is_grid,
            )


def _build_measures(
    study: StudyResults, sections: Sequence[Section], workdir: epath.Path, method: Method
) -> list[Block]:
    """A block for each measure, drawn from its description and estimates in result.json."""
    # A user's measure may have the name of a registered figure or table.
    figure_names = set(FIGURES)
    table_names = set(SECTIONS)
    blocks = []
    for section in sections:
        figure_name = _unused_name(section.name, figure_names)
        table_name = _unused_name(section.table, table_names)
        draw = functools.partial(figures.against_depth, study.results, section)
        build_table = MEASURE_TABLES.get(section.name, tables.estimates_table)
        svg = None if section.figure is None else draw_svg(workdir, figure_name, draw)
        block = Block(
            anchor=f"measure-{section.name}",
            title=section.title,
            caption=section.caption,
            topic=section.topic,
            method=method.find_anchor(section.name),
            svg=svg,
            table=table_name,
            rows=build_table(study, section),
        )
        blocks.append(block)
    return blocks


def _build_tables(study: StudyResults, method: Method) -> Iterator[Block]:
    """The registered tables that have rows."""
    for section in SECTIONS.values():
        rows = section.build(study)
        if rows:
            yield Block(
                anchor=f"table-{section.name}",
                title=section.title,
                caption=section.caption,
                topic=section.topic,
                method=method.find_anchor(section.name, section.method),
                table=section.name,
                rows=rows,
            )


def _unused_name(name: str, names: set[str]) -> str:
    """A file name that no other section has; it is added to `names`."""
    while name in names:
        name = f"{name}_measure"
    names.add(name)
    return name


def draw_svg(workdir: epath.Path, name: str, draw: Callable[[], Figure | None]) -> Markup | None:
    """Write figures/NAME.svg, and return the drawing for the page; None where there is none."""
    svg = style.write(workdir / "figures", name, draw)
    # Without the XML declaration and the doctype, which have no place within HTML.
    return None if svg is None else Markup(svg[svg.index("<svg") :])


def _choose_glance(blocks: Sequence[Block]) -> list[Block]:
    """The figures of the first screen, in their order there."""
    drawn = {block.anchor: block for block in blocks if block.svg}
    figures = [drawn[anchor] for anchor in GLANCE_FIGURES if anchor in drawn]
    grids = [drawn[anchor] for anchor in GLANCE_GRIDS if anchor in drawn]
    return [*figures[:2], *grids[:1]]


def _group_by_topic(blocks: Iterable[Block]) -> list[Topic]:
    by_topic: dict[str, list[Block]] = {topic: [] for topic in TOPICS}
    for block in blocks:
        by_topic.setdefault(block.topic, []).append(block)
    return [
        Topic(TOPICS.get(name, name.capitalize() or "Other measures"), members)
        for name, members in by_topic.items()
        if members
    ]


def render_template(name: str, **values: object) -> str:
    """A template of this folder, filled in."""
    loader = jinja2.PackageLoader("jaxdiff.report", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True)
    environment.filters["format_value"] = _format_value
    environment.filters["split_caption"] = _split_caption
    return environment.get_template(name).render(values)


def _render(study: StudyResults, blocks: Sequence[Block], method: Method) -> str:
    sample_counts = sorted({len(result.labels) for result in study.results})
    glance = _choose_glance(blocks)
    claims = judge_study(study) if study.cells else []
    primary = next((claim for claim in claims if claim.rank == "primary"), None)
    return render_template(
        "page.html",
        study=study,
        settings=study.settings,
        glance=glance,
        topics=_group_by_topic([block for block in blocks if block not in glance]),
        method=method,
        samples=" or ".join(f"{count:,}" for count in sample_counts),
        primary=primary,
        gates=_mean_gates(study.cells),
        undecided=[c for c in claims if c is not primary and c.verdict in OPEN_VERDICTS],
        planned=len(Plan.from_study(study.settings).seeds),
        failed=_names_below_gate(study),
        min_gate=MIN_GATE,
        min_classifier_gate=MIN_CLASSIFIER_GATE,
        random_passes=_names_above_random_gate(study),
        max_random_gate=MAX_RANDOM_GATE,
        time_blind={c.info.model: format_time_blind_levels(c.info) for c in study.cells},
        precisions=sorted({result.precision for result in study.results} - {""}),
        older=[result.name for result in study.results if not result.precision],
        settings_text=json.dumps(study.settings, indent=1),
        versions_text=json.dumps(study.results[-1].run, indent=1),
    )


def _mean_gates(cells: Sequence[CellResult]) -> dict[str, float]:
    """The mean quality gate of each model over its cells; nothing where it was not measured."""
    gates = {}
    for model in model_names(cells):
        mean = mean_gate([cell for cell in cells if cell.info.model == model])
        if not math.isnan(mean):
            gates[model] = mean
    return gates


def _split_caption(caption: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    parts = re.split(r"(?<=[.:?])\s+(?=[A-Z])", caption, maxsplit=1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def _names_below_gate(study: StudyResults) -> list[str]:
    names = []
    for result in study.results:
        gate = result.find("quality", "gate")
        if gate is not None and float(gate) < MIN_GATE:
            names.append(result.name)
    return names


def _names_above_random_gate(study: StudyResults) -> list[str]:
    names = []
    for result in study.results:
        gate = result.find("quality", "gate_random_weights")
        if gate is not None and float(gate) > MAX_RANDOM_GATE:
            names.append(result.name)
    return names


def _format_value(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else value
