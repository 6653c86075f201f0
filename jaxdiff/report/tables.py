"""Tables as rows of named columns: the table of any measure, and CSV files."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from etils import epath

from jaxdiff import files
from jaxdiff.analysis.queries import format_proportions
from jaxdiff.estimates import Estimate
from jaxdiff.report.registry import TableRows
from jaxdiff.results import CellInfo, Result, Section, StudyResults

# OWASP's list; spreadsheets take the full-width forms for the others.
FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_ONE_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
# As format_estimate writes it: with its interval, or alone.
NUMBER = re.compile(
    rf"({_ONE_NUMBER}|-inf|\+inf)( \[{_ONE_NUMBER}, {_ONE_NUMBER}\])?", re.IGNORECASE
)


def estimates_table(study: StudyResults, section: Section) -> TableRows:
    """The table of a measure: a row for each cell and estimate, a column for each label."""
    per_result = section.estimates
    labels = sorted({key for group in per_result.values() for e in group for key in e.labels})
    rows: TableRows = []
    for result in study.results:
        columns = identity_columns(result)
        for estimate in per_result.get(result.name, ()):
            label_columns = {key: estimate.labels.get(key, "") for key in labels}
            rows.append(
                {
                    **columns,
                    "estimate": estimate.name,
                    **label_columns,
                    **value_columns(estimate),
                    "n": _blank_if_none(estimate.n),
                    "interval": estimate.method,
                }
            )
    return rows


def identity_columns(result: Result) -> dict[str, object]:
    """The columns that say which cell, or which set, a row is about."""
    info = result.info
    if not isinstance(info, CellInfo):
        return {"set": result.name}
    return {
        "cell": result.name,
        "model": info.model,
        "depth": info.depth,
        "bottleneck, px": _blank_if_none(info.bottleneck),
        "class shares, %": format_proportions(info.proportions),
        "seed": info.seed,
        "minority class": _blank_if_none(info.minority),
    }


def value_columns(estimate: Estimate) -> dict[str, object]:
    """An estimate and the ends of its interval; blank where they are undefined."""
    return {
        "value": _blank_if_none(estimate.value),
        "low": _blank_if_none(estimate.low),
        "high": _blank_if_none(estimate.high),
    }


def format_estimate(estimate: Estimate | None, digits: int = 3) -> str:
    """An estimate and its interval as text, "0.133 [0.097, 0.180]"; empty where undefined."""
    if estimate is None or estimate.value is None:
        return ""
    value = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as CSV with a header; no text in it is a formula to a spreadsheet.

    A text that begins as formulas do, and is no number, has an apostrophe before it.
    """
    text = io.StringIO()
    header = [_escape_formula(name) for name in rows[0]] if rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        if row.keys() - rows[0].keys():
            raise ValueError(f"rows of a table must have the same columns, got {list(row)}")
        writer.writerow([_escape_formula(row.get(name, "")) for name in rows[0]])
    return text.getvalue()


def _escape_formula(cell: object) -> object:
    """The cell, or text that a spreadsheet shows and does not run."""
    if not isinstance(cell, str):
        return cell
    text = cell.replace("\r", " ")  # which csv leaves unquoted, so that it would end the row
    is_formula = text.lstrip().startswith(FORMULA_STARTS) and not NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def write(folder: epath.Path, name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write the rows as folder/NAME.csv."""
    files.write(folder / f"{name}.csv", to_csv(rows))


def _blank_if_none(value: object) -> object:
    return "" if value is None else value
