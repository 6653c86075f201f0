"""The report's tables, as rows; the page shows them and the CSV files hold them."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.analysis.queries import Mix, entry, in_words, mixes, models
from jaxdiff.report import paper
from jaxdiff.results import CellResult

Row = dict[str, Any]


def measures(cells: Sequence[CellResult], section: str) -> list[Row]:
    """One row a cell and estimate of a section of result.json ("share", "quality", "lpips", ...)."""
    fixed = ("name", "value", "low", "high", "n", "interval")
    more = sorted(
        {key for cell in cells for e in cell.result.get(section, []) for key in e} - set(fixed)
    )
    return [
        {"cell": cell.name, **_place(cell), "measure": e["name"], **{key: e.get(key, "") for key in more},
         **{key: "" if e[key] is None else e[key] for key in fixed[1:]}}
        for cell in cells for e in cell.result.get(section, [])
    ]  # fmt: skip


def table_2(cells: Sequence[CellResult]) -> list[Row]:
    """In the form of the paper's Table 2: a column a model; means over seeds. The paper's own rows stand below."""
    if not cells:
        return []
    names, rows = models(cells), []
    for mix in mixes(cells):
        here = [c for c in cells if Mix.of(c) == mix]
        minority = {m: _mean(here, "share", "classified", model=m) for m in names}
        lpips = {m: _mean(here, "lpips", "all_pairs", model=m) for m in names}
        real = _mean(here, "lpips", "training_data")
        data = in_words(mix)
        if mix.proportions:
            other = {m: 100 - v if v != "" else "" for m, v in minority.items()}
            shares = {
                "minority, %": (mix.proportions[1], minority),
                "majority, %": (mix.proportions[0], other),
            }
            rows += [
                {"": label, "data": data, "trained": 100 * p, **v}
                for label, (p, v) in shares.items()
            ]
        rows.append({"": "average LPIPS x 100", "data": data, "trained": real, **lpips})
    pixels = {c.own["model"]: c.own.get("bottleneck", "") for c in cells}
    rows.append({"": "bottleneck, px", "data": "", "trained": "", **pixels})
    columns = list(dict.fromkeys(["", "data", "trained", *names, *paper.TABLE_2_MODELS]))
    for label, (real, values) in paper.TABLE_2.items():
        theirs = dict(zip(paper.TABLE_2_MODELS, values, strict=True))
        rows.append(
            {"": label, "data": "the paper: CelebA, Male and Female", "trained": real, **theirs}
        )
    return [{key: row.get(key, "") for key in columns} for row in rows]


def _mean(
    cells: Sequence[CellResult], section: str, name: str, model: str | None = None, **where: Any
) -> Any:
    """A hundred times the mean over cells, of one model or of all; "" where no cell has the entry."""
    mine = [c for c in cells if model in (None, c.own["model"])]
    found = [e["value"] for cell in mine if (e := entry(cell, section, name, **where))]
    return 100 * float(np.mean(found)) if found else ""


def table_3(cells: Sequence[CellResult], form: str = "kth") -> list[Row]:
    """In the form of the paper's Table 3: a row a model and one of held-out images; columns by space and k."""
    entries = [e for cell in cells for e in cell.result.get("neighbors", [])]
    columns = list(dict.fromkeys((e["space"], e["k"]) for e in entries))
    rows = []
    for mix in mixes(cells):
        here = [c for c in cells if Mix.of(c) == mix]
        places = [(m, m, "samples") for m in models(here)]
        if any(e["images"] == "held_out" for e in entries):
            places.append(("held-out images", "", "held_out"))
        for label, model, images in places:
            values = {
                _column(*c): _mean(
                    here, "neighbors", form, model or None, images=images, space=c[0], k=c[1]
                )
                for c in columns
            }
            pixels = {c.own.get("bottleneck", "") for c in here if c.own["model"] == model}
            rows.append(
                {
                    "images of": label,
                    "data": in_words(mix),
                    "bottleneck, px": next(iter(pixels), ""),
                    **values,
                }
            )
    return rows


def table_3_paper() -> list[Row]:
    """The paper's Table 3 as printed."""
    return [
        {"images of": depth, "data": "the paper: CelebA",
         **{f"inception, cosine, k = {k}": v for k, v in zip(paper.TABLE_3_K, cosine, strict=True)},
         **{f"pixels, euclidean, k = {k}": v for k, v in zip(paper.TABLE_3_K, euclidean, strict=True)}}
        for depth, (cosine, euclidean) in paper.TABLE_3.items()
    ]  # fmt: skip


def _column(space: str, k: int) -> str:
    return f"{space}, {'RMS a pixel, %' if space == 'pixels' else 'cosine x 100'}, k = {k}"


def flips(comparisons: Row, pixels: dict[str, Any]) -> list[Row]:
    """One row a pair of models on the common noise: counts each way, McNemar's p, and both selections.

    pixels: each cell's bottleneck."""
    rows = []
    for pair in comparisons.get("flips", []):
        chosen = {
            s["name"]: f"{s['value']:.2f} [{s['low']:.2f}, {s['high']:.2f}] of {s['n']}"
            for s in pair["selections"]
        }
        rows.append({
            "from": pair["a"], "to": pair["b"], "bottlenecks, px": f"{pixels[pair['a']]}, {pixels[pair['b']]}",
            "changes": "depth" if pair["kind"] == "depth" else "seed only",
            "n": pair["n"], "minority to majority (b)": pair["b_count"], "majority to minority (c)": pair["c_count"],
            "McNemar p": pair["p_value"],
            "majority in the second, of minority in the first": chosen.get("minority_in_a", ""),
            "majority in the first, of minority in the second": chosen.get("minority_in_b", ""),
        })  # fmt: skip
    return rows


def similarity(comparisons: Row, pixels: dict[str, Any]) -> list[Row]:
    """One row a pair and measure, the same noise beside different noises: depths, or seeds with disjoint training images."""
    rows: dict[tuple, Row] = {}
    for e in comparisons.get("similarity", []):
        row = rows.setdefault(
            (e["a"], e["b"], e["name"]),
            {
                "from": e["a"],
                "to": e["b"],
                "changes": "depth" if e["kind"] == "depth" else "seed and its part of the data",
                "bottlenecks, px": f"{pixels[e['a']]}, {pixels[e['b']]}",
                "measure": e["name"],
                "n": e["n"],
            },
        )
        row[f"{e['pairing']} noise"] = f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
    return list(rows.values())


def bias_variance(comparisons: Row) -> list[Row]:
    """One row a group of models that differ in seed alone, form, true class and estimate."""
    return [{key: "" if value is None else value for key, value in row.items()}
            for row in comparisons.get("bias_variance", [])]  # fmt: skip


def predicted(cells: Sequence[CellResult]) -> list[Row]:
    """One row a cell and kind of queries: the trained, the predicted and the classified share of the minority, with intervals."""
    rows = []
    for cell in cells:
        drawn = entry(cell, "share", "classified")
        for e in cell.result.get("predicted_share", []):
            value = (
                "" if e["value"] is None else f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
            )
            mine = (
                f"{drawn['value']:.3f} [{drawn['low']:.3f}, {drawn['high']:.3f}]" if drawn else ""
            )
            rows.append({"cell": cell.name, **_place(cell), "trained": cell.own["proportions"][-1], "rho fitted on": e["queries"],
                         "defined at t": e["defined at t"], "predicted": value, "the model's own": mine, "why": e["why"]})  # fmt: skip
    return rows


def training(cells: Sequence[CellResult]) -> list[Row]:
    """One row a cell: the model, its last loss, its speed, and the machine it was made on."""
    rows = []
    for cell in cells:
        last = cell.metrics[-1] if cell.metrics else {}
        speeds = sorted(m["images_per_second"] for m in cell.metrics[1:])
        rows.append(
            {"cell": cell.name, **_place(cell), "parameters": cell.own["parameters"],
             "levels that cannot see t": in_words_of_levels(cell.own), "steps": cell.config["train"]["steps"],
             "last loss": last.get("loss", ""), "images/s": speeds[len(speeds) // 2] if speeds else "",
             "seconds": cell.run["seconds"], "device": f"{cell.run['devices']} x {cell.run['device']}"}
        )  # fmt: skip
    return rows


def in_words_of_levels(own: Row) -> str:
    """The levels whose blocks cannot see the noise level, of all."""
    blind = own.get("time_blind", [])
    return f"{', '.join(map(str, blind)) or 'none'} of {own['depth']}"


def _place(cell: CellResult) -> Row:
    own = cell.own
    shares = "-".join(f"{100 * p:g}" for p in own["proportions"])
    return {"model": own["model"], "depth": own["depth"], "bottleneck, px": own.get("bottleneck", ""),
            "proportions": shares, "seed": own["seed"], "minority": own["minority"]}  # fmt: skip


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(folder: epath.Path, name: str, rows: Sequence[Row]) -> None:
    """The rows as folder/name.csv."""
    files.write(folder / f"{name}.csv", to_csv(rows))
