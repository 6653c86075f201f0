"""Tables that compare the cells of a study with each other, and what it took to train them."""

from collections.abc import Mapping
from typing import Any

from jaxdiff.analysis import cell_lines, losses, smoothness
from jaxdiff.analysis.queries import format_mix, format_time_blind_levels
from jaxdiff.estimates import Estimate
from jaxdiff.report.registry import TableRows, measure_table, section
from jaxdiff.report.tables import format_estimate, identity_columns, value_columns
from jaxdiff.results import Section, StudyResults

NOISE_BANKS = {"seed": "the seed's own", "common": "of all seeds"}


@section(
    "flips",
    title="Class flips on the same noise",
    caption="How often the class of a sample changes between two models that start from the same "
    "noise. Compare the counts b and c: they differ if the share changes (McNemar's test). The "
    "last two columns select noises by the class that one model draws, and this selection alone "
    "looks like an effect in either direction; pairs that differ only in the seed show what chance "
    "does. Models of one seed are compared on all samples of that seed's noise bank, models of "
    "different seeds on the few noises that all seeds share.",
    topic="samples",
)
def flips(study: StudyResults) -> TableRows:
    """A row for each pair of models."""
    rows: TableRows = []
    for pair in study.comparisons.get("flips", []):
        selections = {entry["name"]: _format_selection(entry) for entry in pair["selections"]}
        rows.append(
            {
                **_pair_columns(study, pair),
                "n": pair["n"],
                "minority to majority (b)": pair["b_count"],
                "majority to minority (c)": pair["c_count"],
                "McNemar p": pair["p_value"],
                "majority in second, if minority in first": selections.get("minority_in_a", ""),
                "majority in first, if minority in second": selections.get("minority_in_b", ""),
            }
        )
    return rows


@section(
    "similarity",
    title="Similarity of models on the same noise",
    caption="How alike the images of two models are on the same noise, with different noises as "
    "the baseline. A smaller LPIPS or a larger correlation means more alike; intervals are 95 % "
    "over noises. Models of one seed are compared on that seed's noise bank, models of different "
    "seeds on the bank that all seeds share.",
    topic="samples",
)
def similarity(study: StudyResults) -> TableRows:
    """A row for each pair of models and measure of similarity."""
    rows: dict[tuple[str, str, str], dict[str, object]] = {}
    for entry in study.comparisons.get("similarity", []):
        columns = {
            **_pair_columns(study, entry, of_seed="seed and its part of the data"),
            "measure": entry["name"],
            "n": entry["n"],
            "same noise": "",
            "different noises": "",
        }
        row = rows.setdefault((entry["a"], entry["b"], entry["name"]), columns)
        pairing = "same noise" if entry["pairing"] == "paired" else "different noises"
        row[pairing] = format_estimate(Estimate.from_json(entry))
    return list(rows.values())


@section(
    "bias_variance",
    title="Bias and variance over models",
    caption="Equations 4 and 5 of the paper, over models that differ only in their seed. In the "
    'form "noise" all models start from the same noise; in the form "inverted" from noise that one '
    "more model made of held-out images. If some models draw neither class for an image, it still "
    "counts for the others; the column neither counts these images, and n counts the images for "
    "which enough models draw one of the classes.",
    topic="shares",
    method="bias-and-variance",
)
def bias_variance(study: StudyResults) -> TableRows:
    """A row for each group of models, form, true class and estimate."""
    heads = {
        "N": "training n",
        "minority": "minority class",
        "true": "true class",
        "name": "estimate",
    }
    rows: TableRows = []
    for entry in study.comparisons.get("bias_variance", []):
        values = {key: "" if value is None else value for key, value in entry.items()}
        rows.append({heads.get(key, key): value for key, value in values.items()})
    return rows


@section(
    "amplification_law",
    title="The law of Theorem 2 from both roles",
    caption="The line logit(generated) = b + S logit(trained) of one class, fitted to the cells of "
    "a model in which the class is the majority and those in which it is the minority. If S is "
    "above 1, the majority grows; b is what belongs to the class itself, in either role. Intervals "
    "are over cells.",
    topic="shares",
    method="amplification",
)
def amplification_law(study: StudyResults) -> TableRows:
    """A row for each model and number of training images."""
    return [
        {
            "model": law.model,
            "N": law.n,
            "cells": law.exponent.n,
            "exponent S": format_estimate(law.exponent),
            "offset b": format_estimate(law.offset),
            "class of b": law.class_label,
        }
        for law in cell_lines.amplification_laws(study.cells)
    ]


@section(
    "lpips_at_equal_kid",
    title="Diversity at equal fidelity",
    caption="The change of LPIPS from one model to another, fitted by a line in the change of KID, "
    "with one point per seed. The intercept (LPIPS at equal KID) is the change of LPIPS where "
    "neither model is closer to the data. LPIPS is that at the training data's mix, and KID is "
    "against unseen images. Intervals are over seeds.",
    topic="diversity",
    method="lpips",
)
def lpips_at_equal_kid(study: StudyResults) -> TableRows:
    """A row for each model but the shallowest, training data and feature space of KID."""
    return [
        {
            "from": row.shallow,
            "to": row.deep,
            "data": format_mix(row.mix),
            "space of KID": row.space,
            "seeds": row.at_equal_kid.n,
            "LPIPS at equal KID": format_estimate(row.at_equal_kid),
            "LPIPS by KID": format_estimate(row.slope),
        }
        for row in cell_lines.lpips_at_equal_kid(study.cells)
    ]


@section(
    "smoothness",
    title="Is the energy of a deeper model smoother?",
    caption="Norms of the curvature of each model against those of the shallowest model of the "
    "same data and seed, at the same noised images. A log ratio below 0 means smoother; if its "
    "interval contains 0, no difference was seen. n counts images; the intervals are over them, "
    "given these networks, and say nothing about other seeds. What networks with random weights "
    "show too was not learned. The norms are of M's symmetric part; the table Curvature has M's "
    "asymmetry.",
    topic="mechanism",
)
def smoothness_between_models(study: StudyResults) -> TableRows:
    """A row for each comparison of two models."""
    return list(smoothness.compare_cells(study.cells))


@measure_table("predicted_share")
def predicted_share(study: StudyResults, measure: Section) -> TableRows:
    """The trained, the predicted and the drawn share of the minority, side by side."""
    rows: TableRows = []
    for result in study.results:
        drawn = format_estimate(result.find("share", "share"))
        for estimate in measure.estimates.get(result.name, ()):
            proportions = result.info.proportions
            rows.append(
                {
                    **identity_columns(result),
                    "trained share": proportions[-1] if proportions else "",
                    "rho fitted on": estimate.labels.get("queries", ""),
                    "rho defined at t": estimate.labels.get("defined at t", ""),
                    "noise levels with rho": estimate.labels.get("levels", ""),
                    "predicted share": format_estimate(estimate),
                    "share of the samples": drawn,
                    "note": estimate.labels.get("why") or estimate.labels.get("note", ""),
                }
            )
    return rows


@section(
    "training",
    title="Training runs",
    caption="Size, length and speed of every training run, and the machine that it ran on.",
    topic="training",
)
def training(study: StudyResults) -> TableRows:
    """A row for each trained cell."""
    rows: TableRows = []
    for cell in study.cells:
        if not cell.metrics:
            continue
        # The first line includes the time of compilation; the median is robust to other pauses.
        lines = [line for line in cell.metrics[1:] if "images_per_second" in line]
        speeds = sorted(line["images_per_second"] for line in lines)
        median_speed = speeds[len(speeds) // 2] if speeds else ""
        rows.append(
            {
                **identity_columns(cell),
                "parameters": cell.info.parameters,
                "time-blind levels": format_time_blind_levels(cell.info),
                "steps": cell.config["train"]["steps"],
                "last loss": cell.metrics[-1].get("loss", ""),
                "images/s": median_speed,
                "seconds": cell.run["seconds"],
                "device": f"{cell.run['devices']} x {cell.run['device']}",
            }
        )
    return rows


@section(
    "held_out_loss",
    title="Held-out loss in pairs",
    caption="The eps loss at the last checkpoint on images that no model was trained on, each "
    "model against the shallowest of the same data and seed. If the difference is below 0, the "
    "second model has the smaller loss. Images and noise are the same, so the difference is known "
    "far more precisely than either loss; its interval is over images, given these two networks.",
    topic="training",
)
def held_out_loss(study: StudyResults) -> TableRows:
    """A row for each model but the shallowest, training data and seed."""
    rows: TableRows = []
    for pair in losses.compare_losses(study.cells):
        values = value_columns(pair.difference)
        rows.append(
            {
                "from": pair.shallow.name,
                "to": pair.deep.name,
                "data": format_mix(pair.mix),
                "seed": pair.deep.info.seed,
                "depths": f"{pair.shallow.info.depth}, {pair.deep.info.depth}",
                "loss of from": format_estimate(pair.shallow_loss, digits=5),
                "loss of to": format_estimate(pair.deep_loss, digits=5),
                "difference": values["value"],
                "low": values["low"],
                "high": values["high"],
                "images": pair.difference.n,
            }
        )
    return rows


def _pair_columns(
    study: StudyResults, pair: Mapping[str, Any], of_seed: str = "seed only"
) -> dict[str, object]:
    """The two models of a comparison, what differs between them, and the noise; sets are named."""
    columns: dict[str, object] = {"from": pair["a"], "to": pair["b"]}
    if study.cells:
        by_name = {cell.name: cell.info.bottleneck or "" for cell in study.cells}
        columns["bottlenecks, px"] = f"{by_name.get(pair['a'], '')}, {by_name.get(pair['b'], '')}"
        # Comparisons of older code have neither key.
        differs = pair.get("differs", pair["kind"])
        columns["changes"] = of_seed if pair["kind"] == "seed" else differs
        columns["noise bank"] = NOISE_BANKS[pair.get("bank", "common")]
    return columns


def _format_selection(entry: Mapping[str, Any]) -> str:
    return f"{format_estimate(Estimate.from_json(entry), digits=2)} of {entry['n']}"
