"""What a report consists of: topics, tables over a whole study, and figures of their own.

The sections of measures are not registered here: results describe them. A table or a figure that
needs more than one section of one cell is a function with a decorator, and the page follows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from jaxdiff.results import Result, Section, StudyResults

TableRows = list[dict[str, object]]
BuildTable = Callable[[StudyResults], TableRows]
BuildMeasureTable = Callable[[StudyResults, Section], TableRows]
DrawFigure = Callable[[StudyResults], Figure | None]

# In the order of the page; a measure's topic that is not among them comes last.
TOPICS: Mapping[str, str] = {
    "conclusions": "What may be concluded",
    "shares": "Shares of the classes",
    "diversity": "Diversity",
    "samples": "Samples",
    "memorization": "Memorization",
    "mechanism": "Mechanism",
    "quality": "Quality",
    "training": "Training",
}


@dataclasses.dataclass(frozen=True)
class StudySection:
    """A table that is made from all results of a study.

    Parameters
    ----------
    name
        Name of its CSV file.
    build
        Returns the rows; a section without rows is left out.
    method
        Heading of docs/method.md that explains it; by default the one of its own name.
    """

    name: str
    build: BuildTable
    title: str
    caption: str
    topic: str
    method: str = ""


@dataclasses.dataclass(frozen=True)
class StudyFigure:
    """A figure that needs more than one estimate of each model.

    Parameters
    ----------
    name
        Name of its SVG file.
    draw
        Returns the figure; None where there is nothing to draw.
    needs
        Sections of result.json, or fields of a result such as "metrics"; it is drawn where some
        result has all of them.
    is_grid
        Whether it is a grid of images, which needs the page's whole width.
    method
        Heading of docs/method.md that explains it; by default the one of its own name.
    """

    name: str
    draw: DrawFigure
    title: str
    caption: str
    topic: str
    needs: tuple[str, ...]
    is_grid: bool = False
    method: str = ""

    def is_available(self, results: Sequence[Result]) -> bool:
        """Whether some result has all that the figure needs."""
        return any(all(_has(result, name) for name in self.needs) for result in results)


SECTIONS: dict[str, StudySection] = {}
FIGURES: dict[str, StudyFigure] = {}
MEASURE_TABLES: dict[str, BuildMeasureTable] = {}


def section(
    name: str, *, title: str, caption: str, topic: str, method: str = ""
) -> Callable[[BuildTable], BuildTable]:
    """Register the function that makes the rows of a table over the whole study."""

    def register(build: BuildTable) -> BuildTable:
        SECTIONS[name] = StudySection(name, build, title, caption, topic, method)
        return build

    return register


def figure(
    name: str,
    *,
    title: str,
    caption: str,
    topic: str,
    needs: tuple[str, ...],
    is_grid: bool = False,
    method: str = "",
) -> Callable[[DrawFigure], DrawFigure]:
    """Register the function that draws a figure over the whole study."""

    def register(draw: DrawFigure) -> DrawFigure:
        FIGURES[name] = StudyFigure(name, draw, title, caption, topic, needs, is_grid, method)
        return draw

    return register


def measure_table(name: str) -> Callable[[BuildMeasureTable], BuildMeasureTable]:
    """Register a table of its own for the section `name` of result.json."""

    def register(build: BuildMeasureTable) -> BuildMeasureTable:
        MEASURE_TABLES[name] = build
        return build

    return register


def _has(result: Result, name: str) -> bool:
    if result.estimates(name):
        return True
    fields = ("samples", "common", "nearest", "metrics", "probe")
    return name in fields and len(getattr(result, name, ())) > 0
