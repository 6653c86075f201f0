"""The report's tables, as rows; the page shows them and the CSV files hold them."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from jaxdiff.results import CellResult

Row = dict[str, Any]


def measures(cells: Sequence[CellResult], section: str) -> list[Row]:
    """One row a cell and estimate of a section of result.json ("share", "quality")."""
    return [
        {"cell": cell.name, **_place(cell), "measure": entry["name"],
         **{k: entry[k] for k in ("value", "low", "high", "n", "interval")}, "trained": entry.get("trained", "")}
        for cell in cells for entry in cell.result[section]
    ]  # fmt: skip


def training(cells: Sequence[CellResult]) -> list[Row]:
    """One row a cell: the model, its last loss, its speed, and the machine it was made on."""
    rows = []
    for cell in cells:
        last = cell.metrics[-1] if cell.metrics else {}
        speeds = sorted(m["images_per_second"] for m in cell.metrics[1:])
        rows.append(
            {"cell": cell.name, **_place(cell), "parameters": cell.result["cell"]["parameters"],
             "bottleneck, px": cell.result["cell"]["bottleneck"], "steps": cell.config["train"]["steps"],
             "last loss": last.get("loss", ""), "images/s": speeds[len(speeds) // 2] if speeds else "",
             "seconds": cell.run["seconds"], "device": f"{cell.run['devices']} x {cell.run['device']}"}
        )  # fmt: skip
    return rows


def _place(cell: CellResult) -> Row:
    own = cell.result["cell"]
    shares = "-".join(f"{100 * p:g}" for p in own["proportions"])
    return {"model": own["model"], "depth": own["depth"], "proportions": shares, "seed": own["seed"],
            "minority": own["minority"]}  # fmt: skip


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
