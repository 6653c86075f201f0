"""What a study may conclude, by rules that were fixed before its runs; and shares over seeds.

Primary claims: the contrast, deep minus shallow model, of the logit of the minority's share, and the alignment of the
shallow model with the data, at every proportion (six at most). Everything else in a report is exploratory.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxdiff import estimates
from jaxdiff.analysis.queries import Mix, entry, in_words, mixes, models
from jaxdiff.results import CellResult

PRIMARY = 6  # proportions whose contrasts are primary claims
TEST_IMAGES = 950  # a class: fewer, and the classifier's own errors leave a share undecided
Row = dict[str, Any]


def over_seeds(cells: Sequence[CellResult]) -> list[Row]:
    """One row a model and mix: the share corrected over all classes over its seeds, by the t interval of the logit."""
    rows = []
    for mix in mixes(cells):
        for model in models(cells):
            mine = [c for c in cells if c.own["model"] == model and Mix.of(c) == mix]
            shares = [share for c in mine if (share := _share(c))]
            found = estimates.logit_over_seeds(
                [s["value"] for s in shares], [s["n"] for s in shares]
            )
            interval = (
                [found.value, found.low, found.high]
                if found
                else ["one seed has no interval"] + [""] * 2
            )
            if shares:
                rows.append({"model": model, "bottleneck, px": mine[0].own.get("bottleneck", ""), "proportions": in_words(mix), "trained": mix.proportions[1],
                             "seeds": len(shares), "each seed": ", ".join(f"{s['value']:.3f}" for s in shares),
                             **dict(zip(("over seeds", "low", "high"), interval, strict=True))})  # fmt: skip
    return rows


def primary(study: Row, cells: Sequence[CellResult]) -> list[str]:
    """The shallow and the deep model of the primary claim: those that the study names, or the ends of its bare rows of Table A."""
    entries = study.get("models", {})
    bare = [name for name in models(cells) if isinstance(entries.get(name), str)] or models(cells)
    return list(study.get("primary", [])) or [bare[0], bare[-1]]


def claims(cells: Sequence[CellResult], study: Row, test_images: int) -> list[Row]:
    """One row a primary claim: its estimate with a 95 % interval, p-value after Holm, verdict and reason."""
    rows = []
    for mix in mixes(cells)[:PRIMARY]:
        mine = [c for c in cells if Mix.of(c) == mix]
        shallow, deep = primary(study, mine)
        if shallow != deep:
            rows.append(_amplified(mine, shallow, deep, mix, test_images))
        rows.append(_aligned(mine, shallow, mix, test_images))
    tested = [row for row in rows if not math.isnan(row["p"])]
    for row, p in zip(tested, estimates.holm([row["p"] for row in tested]), strict=True):
        row["p"] = p
        if p > 0.05 and row["verdict"] == "supported":
            row["verdict"], row["why"] = (
                "undecided",
                "not after Holm's correction for the number of claims",
            )
    for row in rows:
        row["p"] = "" if math.isnan(row["p"]) else row["p"]
    return rows


def _amplified(
    cells: Sequence[CellResult], shallow: str, deep: str, mix: Mix, test_images: int
) -> Row:
    by_place = {(c.own["model"], c.own["seed"]): c for c in cells if _share(c)}
    seeds = sorted({s for m, s in by_place if m == shallow} & {s for m, s in by_place if m == deep})
    pairs = [(by_place[shallow, s], by_place[deep, s]) for s in seeds]
    change = [_logit(b) - _logit(a) for a, b in pairs]
    found = estimates.mean_t(change)
    p = float(stats.ttest_1samp(change, 0.0).pvalue) if found else math.nan
    reason = _too_little(len(seeds), test_images)
    verdict: str = "undecided"
    if found and not reason:
        verdict = estimates.verdict(found[1], found[2])
        if not all(_same_neither(a, b) for a, b in pairs):
            verdict, reason = (
                "undecided",
                "the models' shares of neither class differ: compare the bounds",
            )
        elif found[2] < 0 and any(_bounds_hold(b, mix.proportions[1]) for _, b in pairs):
            verdict, reason = "undecided", "the bounds of the deep model contain the trained share"
    value = found or (change[0] if change else "", "", "")
    return {"claim": f"model {deep} draws fewer of the minority than model {shallow}", "verdict": verdict, "why": reason,
            "proportions": in_words(mix), "quantity": "change of the logit", "value": value[0], "low": value[1],
            "high": value[2], "seeds": len(seeds), "p": p}  # fmt: skip


def _aligned(cells: Sequence[CellResult], shallow: str, mix: Mix, test_images: int) -> Row:
    shares = [share for c in cells if c.own["model"] == shallow and (share := _share(c))]
    found = estimates.logit_over_seeds(
        [s["value"] for s in shares], [s["n"] for s in shares], level=0.90
    )
    reason = _too_little(len(shares), test_images)
    verdict = (
        estimates.equivalent(found.low, found.high, mix.proportions[1])
        if found and not reason
        else "undecided"
    )
    value = (
        (found.value, found.low, found.high)
        if found
        else (shares[0]["value"] if shares else "", "", "")
    )
    return {"claim": f"model {shallow} draws the trained share, within 2 points", "verdict": verdict, "why": reason,
            "proportions": in_words(mix), "quantity": "minority share (90 %)", "value": value[0], "low": value[1],
            "high": value[2], "seeds": len(shares), "p": math.nan}  # fmt: skip


def _too_little(seeds: int, test_images: int) -> str:
    if seeds < 2:
        return "one seed has no interval between seeds" if seeds else "no samples of either class"
    if test_images < TEST_IMAGES:
        return (
            f"the classifier was tested on {test_images} images a class; {TEST_IMAGES} are wanted"
        )
    return ""


def _share(cell: CellResult) -> Row | None:
    """Corrected over all classes: errors that leave the two classes unequally are errors too."""
    return entry(cell, "share", "corrected_many") or entry(cell, "share", "classified")


def _logit(cell: CellResult) -> float:
    share = _share(cell)
    assert share is not None
    return estimates.bounded_logit(share["value"], share["n"])


def _bounds_hold(cell: CellResult, trained: float) -> bool:
    bounds = entry(cell, "share", "bounds")
    return bounds is not None and bounds["low"] <= trained <= bounds["high"]


def _same_neither(a: CellResult, b: CellResult) -> bool:
    one, other = (entry(cell, "quality", "gate") for cell in (a, b))
    return bool(
        one
        and other
        and np.maximum(one["low"], other["low"]) <= np.minimum(one["high"], other["high"])
    )
