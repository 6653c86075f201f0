"""Tables in the form of the paper's Tables 2 and 3, with its numbers beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff.analysis.queries import Mix, format_mix, group_by_mix, model_name, model_names
from jaxdiff.estimates import Estimate
from jaxdiff.report import paper
from jaxdiff.report.registry import TableRows, section
from jaxdiff.results import CellInfo, CellResult, Result, StudyResults


@section(
    "table2",
    title="Shares and diversity by model (the paper's Table 2)",
    caption="Shares and LPIPS as means over seeds, a column for each model. The last rows are the "
    "paper's printed values, which are of another dataset and another classifier: compare the "
    "direction, not the numbers.",
    topic="shares",
    method="table-2",
)
def table_2(study: StudyResults) -> TableRows:
    """A column for each model; ours above, the paper's below."""
    if not study.cells:
        return []
    rows: TableRows = []
    for mix, cells in group_by_mix(study.cells).items():
        rows += _table_2_rows(cells, mix)
    bottlenecks = {cell.info.model: cell.info.bottleneck for cell in study.cells}
    rows.append({"quantity": "bottleneck, px", **bottlenecks})
    for label, printed in paper.TABLE_2.items():
        values = dict(zip(paper.TABLE_2_MODELS, printed.models, strict=True))
        data = "the paper: CelebA, Male and Female"
        rows.append(
            {"quantity": label, "data": data, "training images": printed.training, **values}
        )
    # Ours first; the paper's other models have no value of ours.
    models = dict.fromkeys([*model_names(study.cells), *paper.TABLE_2_MODELS])
    return _with_columns(rows, ["quantity", "data", "training images", *models])


def _table_2_rows(cells: Sequence[CellResult], mix: Mix) -> TableRows:
    minority: dict[str, object] = {}
    majority: dict[str, object] = {}
    diversity: dict[str, object] = {}
    for model in model_names(cells):
        members = [cell for cell in cells if cell.info.model == model]
        share = _mean_percent(members, "share", "share")
        minority[model] = share
        majority[model] = None if share is None else 100 - share
        diversity[model] = _mean_percent(members, "lpips", "all_pairs")
    data = format_mix(mix)
    rows: TableRows = []
    if mix.proportions:
        majority_share, minority_share = mix.proportions
        for label, share, values in (
            ("minority, %", minority_share, minority),
            ("majority, %", majority_share, majority),
        ):
            rows.append({"quantity": label, "data": data, "training images": 100 * share, **values})
    real = _mean_percent(cells, "lpips", "training_data")
    label = "average LPIPS x 100"
    rows.append({"quantity": label, "data": data, "training images": real, **diversity})
    return rows


@section(
    "table3",
    title="Distance to the k-th nearest training image (the paper's Table 3)",
    caption="The distance (pixels) or similarity (features) of samples and held-out images to "
    "their k-th nearest training image, as means over images. No model was trained on the held-out "
    "images: at k = 1, a model copies if its samples are nearer than these. At larger k this does "
    "not hold, since smooth images are near to many training images without being a copy of any. "
    "The interval is over images, or over seeds if there are several.",
    topic="memorization",
    method="neighbors",
)
def table_3(study: StudyResults) -> TableRows:
    """A row for each model and one for held-out images; a column for each space and k."""
    return _neighbors_table(study, "kth")


@section(
    "table3_mean",
    title="Mean distance to the k nearest training images",
    caption="The same as the table above, but averaged over the first k neighbors: the other way "
    "to read the paper's column heads.",
    topic="memorization",
    method="neighbors",
)
def table_3_mean(study: StudyResults) -> TableRows:
    """Table 3 with the mean over the first k neighbors."""
    return _neighbors_table(study, "mean")


@section(
    "table3_paper",
    title="The paper's Table 3 as printed",
    caption="The values that the paper prints for CelebA. The Euclidean distances at k = 5 and k = "
    "10 do not rise with every step of depth.",
    topic="memorization",
    method="neighbors",
)
def table_3_paper(study: StudyResults) -> TableRows:
    """The paper's numbers, beside those of trained cells only."""
    if not study.cells:
        return []
    rows: TableRows = []
    for depth, (cosine, euclidean) in paper.TABLE_3.items():
        columns: dict[str, object] = {"images of": depth, "data": "the paper: CelebA"}
        for k, value in zip(paper.TABLE_3_K, cosine, strict=True):
            columns[f"inception, cosine similarity, k = {k}"] = value
        for k, value in zip(paper.TABLE_3_K, euclidean, strict=True):
            columns[f"pixels, Euclidean distance, k = {k}"] = value
        rows.append(columns)
    return rows


def _neighbors_table(study: StudyResults, estimate: str) -> TableRows:
    rows: TableRows = []
    neighbors = [e for result in study.results for e in result.estimates("neighbors")]
    if not neighbors:
        return rows
    # In the order of the settings, which the estimates keep.
    columns = list(dict.fromkeys((e.labels["space"], e.labels["k"]) for e in neighbors))
    has_held_out = any(e.labels["images"] == "held_out" for e in neighbors)
    for mix, group in group_by_mix(study.results).items():
        for model in model_names(group):
            members = [result for result in group if model_name(result) == model]
            distances = _mean_distances(members, estimate, columns, images="samples")
            rows.append({"images of": model, **_data_columns(members[0], mix), **distances})
        if has_held_out:
            distances = _mean_distances(group, estimate, columns, images="held_out")
            data = {"data": format_mix(mix)} if study.cells else {}
            rows.append({"images of": "held-out images", **data, **distances})
    return _with_columns(rows, list(rows[0]))


def _data_columns(result: Result, mix: Mix) -> dict[str, object]:
    """The training data and the bottleneck of a cell; a set has neither."""
    if not isinstance(result.info, CellInfo):
        return {}
    return {"data": format_mix(mix), "bottleneck, px": result.info.bottleneck}


def _mean_distances(
    results: Sequence[Result], estimate: str, columns: Sequence[tuple[str, int]], images: str
) -> dict[str, object]:
    distances: dict[str, object] = {}
    for space, k in columns:
        # The distance between images has the unit RMS difference a pixel, pixels in [0, 1].
        unit = "RMS distance, %" if space == "pixels" else "cosine similarity x 100"
        labels = {"images": images, "space": space, "k": k}
        mean = _mean_percent(results, "neighbors", estimate, **labels)
        distances[f"{space}, {unit}, k = {k}"] = mean
        if space == "pixels" and k == 1:
            distances["pixels, k = 1, 95 % interval"] = _percent_interval(results, estimate, labels)
    return distances


def _percent_interval(
    results: Sequence[Result], estimate: str, labels: Mapping[str, object]
) -> str | None:
    """The interval over seeds, or over images where there is one seed, as "12.1 to 13.4"."""
    # Held-out images are the same for all models of a seed: one model says all of them.
    first = model_name(results[0])
    one_model = [result for result in results if model_name(result) == first]
    estimates = [result.find("neighbors", estimate, **labels) for result in one_model]
    defined = [e for e in estimates if e is not None and e.value is not None]
    if not defined:
        return None
    interval = defined[0]
    if len(defined) > 1:
        interval = Estimate.mean([float(e) for e in defined], "seeds")
    if interval.low is None or interval.high is None:
        return None
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def _mean_percent(
    results: Sequence[Result], section: str, name: str, **labels: Any
) -> float | None:
    """A hundred times the mean of an estimate over results; None where no result has it."""
    estimates = [result.find(section, name, **labels) for result in results]
    values = [e.value for e in estimates if e is not None and e.value is not None]
    return 100 * float(np.mean(values)) if values else None


def _with_columns(rows: TableRows, columns: Sequence[str]) -> TableRows:
    """All rows with the same columns, blank where a row has no value."""
    complete: TableRows = []
    for values in rows:
        blank_or_value = {key: values.get(key) for key in columns}
        complete.append({k: "" if value is None else value for k, value in blank_or_value.items()})
    return complete
