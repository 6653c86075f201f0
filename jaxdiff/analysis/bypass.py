"""What bypassing the mid-block does to trained cells: changes with intervals, and verdicts.

"Toward high variance" has three signs: samples nearer to the training images, more of them
memorized, and a smaller effective k. "More realistic" has two: a higher quality gate and a lower
KID to unseen images. A claim is supported where some sign is for it and none against,
contradicted where some is against and none for it. Samples that are of neither class are no
support for high variance, however near they are: where the gate falls, what speaks for it does
not count. These rules were fixed before any run.

A change counts where its whole interval lies beyond the smallest one that matters, a hundredth,
and for counts of one cell's samples where McNemar's exact test agrees. That was added after the
quickstart's cells: samples of the same noise, compared in pairs, decide on changes that no one
could see. All of it is exploratory: so many comparisons are not corrected for their number.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.estimates import Estimate, mcnemar

MIN_CHANGE = 0.01
SIGNIFICANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A measured number: its title, and where it stands in bypass.json.

    Parameters
    ----------
    title
        What tables and figures call it.
    section, name, labels
        The measure, the estimate and the labels that tell it from others.
    is_relative
        Whether MIN_CHANGE is a fraction of the value without bypassing.
    """

    title: str
    section: str
    name: str
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_relative: bool = True


QUANTITIES = {
    "moved": Quantity("change of the samples, RMS a pixel", "moved", "rms"),
    "gate": Quantity("quality gate", "quality", "gate", is_relative=False),
    "kid": Quantity("KID to unseen images", "fidelity", "kid", {"against": "unseen"}),
    "nearest": Quantity(
        "distance to the nearest training image",
        "neighbors",
        "kth",
        {"k": 1, "space": "pixels", "images": "samples"},
    ),
    "memorized": Quantity(
        "memorized fraction",
        "memorization",
        "memorized",
        {"images": "samples"},
        is_relative=False,
    ),
    "k_eff": Quantity("effective k", "effective_k", "k_eff"),
    "share": Quantity("minority share", "share", "share"),
    "lpips": Quantity("LPIPS over all pairs", "lpips", "all_pairs"),
}
# The sign of a change that speaks for the claim.
CLAIMS = {
    "moves toward high variance": {"nearest": -1, "memorized": 1, "k_eff": -1},
    "more realistic": {"gate": 1, "kid": -1},
}


class Point(NamedTuple):
    """A form of bypassing and a fraction; no form where nothing is bypassed."""

    form: str
    fraction: float


PLAIN = Point("", 0.0)


class Group(NamedTuple):
    """What cells that differ in their seed alone have in common; kin: of their settings."""

    model: str
    proportions: str
    n: int
    prediction: str
    px: int
    kin: str

    def __str__(self) -> str:
        return f"{self.model} ({self.proportions}, n = {self.n}, {self.prediction}, {self.px} px)"


@dataclasses.dataclass(frozen=True)
class CellPoints:
    """A trained cell and its estimates at every point."""

    name: str
    group: Group
    depth: int
    seed: int
    estimates: Mapping[Point, Sequence[tuple[str, Estimate]]]  # (section, estimate)

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> "CellPoints":
        """Read a cell of bypass.json."""
        proportions = "-".join(f"{100 * share:g}" for share in content["proportions"])
        group = Group(
            content["model"],
            proportions,
            content["n"],
            content["prediction"],
            content["size"],
            # Eight digits of the digest tell settings apart in a table.
            content["kin"][:8],
        )
        estimates: dict[Point, list[tuple[str, Estimate]]] = {}
        for row in content["rows"]:
            entry = dict(row)
            point = Point(entry.pop("form"), entry.pop("p"))
            section = entry.pop("measure")
            estimates.setdefault(point, []).append((section, Estimate.from_json(entry)))
        return cls(name, group, content["depth"], content["seed"], estimates)

    @property
    def points(self) -> list[Point]:
        """Nothing bypassed, then the fractions of every form."""
        return list(self.estimates)

    def find(self, key: str, point: Point) -> Estimate | None:
        """A quantity at a point, defined or not; None where it was not measured."""
        quantity = QUANTITIES[key]
        # Nothing bypassed is the same network in every form: it was measured once, under no form.
        for section, estimate in self.estimates.get(point if point.fraction else PLAIN, ()):
            is_named = (section, estimate.name) == (quantity.section, quantity.name)
            if is_named and _has_labels(estimate, quantity.labels):
                return estimate
        return None

    def defined(self, key: str, point: Point) -> Estimate | None:
        """A quantity at a point, None where it has no value."""
        estimate = self.find(key, point)
        return None if estimate is None or estimate.value is None else estimate


def _has_labels(estimate: Estimate, labels: Mapping[str, Any]) -> bool:
    """Whether no label differs; a label that the estimate does not have is no difference."""
    return all(estimate.labels.get(key, value) == value for key, value in labels.items())


def read_models(workdir: epath.PathLike, kind: str) -> dict[str, dict[str, Any]]:
    """The models of bypass.json of one kind, "cell" or "pictures", by name."""
    models = files.read_json(epath.Path(workdir) / "bypass.json")["models"]
    return {name: model for name, model in models.items() if model["kind"] == kind}


def read_cells(workdir: epath.PathLike) -> list[CellPoints]:
    """The trained cells of bypass.json, shallow ones first."""
    models = read_models(workdir, "cell")
    cells = [CellPoints.from_json(name, content) for name, content in models.items()]
    return sorted(cells, key=lambda cell: (cell.depth, cell.group.model, cell.seed))


def group_cells(cells: Sequence[CellPoints]) -> dict[Group, list[CellPoints]]:
    """The cells by what they have in common, in the order of their seeds."""
    groups: dict[Group, list[CellPoints]] = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return groups


def estimate_at(cells: Sequence[CellPoints], key: str, point: Point) -> Estimate | None:
    """A quantity at a point: over seeds, or of one cell over its samples.

    None unless it is defined in all cells.
    """
    estimates = [cell.defined(key, point) for cell in cells]
    defined = [estimate for estimate in estimates if estimate is not None]
    if len(defined) < len(cells):
        return None
    if len(defined) == 1:
        return defined[0]
    return Estimate.mean([float(estimate) for estimate in defined], "seeds")


def _pairs(cells: Sequence[CellPoints], key: str, point: Point) -> list[tuple[Estimate, Estimate]]:
    """A quantity without bypassing and at a point, of every cell in which both are defined."""
    pairs = [(cell.defined(key, PLAIN), cell.defined(key, point)) for cell in cells]
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def change_at(cells: Sequence[CellPoints], key: str, point: Point) -> Estimate | None:
    """The change from nothing bypassed; None unless it is defined in all cells.

    Over seeds it is a t interval of the cells' changes. Of one cell it is over its samples, those
    of the same noise in pairs; where single samples have no value (KID, k_eff, LPIPS), from the
    two intervals as if they were independent.
    """
    pairs = _pairs(cells, key, point)
    if len(pairs) < len(cells):
        return None
    if len(pairs) > 1:
        return Estimate.mean([float(after) - float(before) for before, after in pairs], "seeds")
    before, after = pairs[0]
    if before.values is not None and after.values is not None:
        differences = np.array(after.values) - np.array(before.values)
        return Estimate.mean(differences.tolist(), "samples")
    return _independent_difference(before, after)


def _independent_difference(before: Estimate, after: Estimate) -> Estimate:
    """Newcombe's (1998) interval of a difference from the intervals of both values."""
    change = float(after) - float(before)
    if None in (before.low, before.high, after.low, after.high):
        return Estimate(change)
    below = math.hypot(float(after) - after.low, before.high - float(before))  # type: ignore[operator]
    above = math.hypot(after.high - float(after), float(before) - before.low)  # type: ignore[operator]
    return Estimate(change, change - below, change + above, method="from both intervals")


def may_be_chance(cells: Sequence[CellPoints], key: str, point: Point) -> bool:
    """Whether a change's interval may be too short to decide.

    Counts of one cell are told by McNemar's exact test; seeds that agree to the last digit have
    an interval without width.
    """
    pairs = _pairs(cells, key, point)
    changes = [float(after) - float(before) for before, after in pairs]
    if len(pairs) > 1:
        return max(changes) - min(changes) < 1e-12
    before, after = pairs[0]
    is_count = not QUANTITIES[key].is_relative
    if is_count and before.values is not None and after.values is not None:
        differences = np.array(after.values) - np.array(before.values)
        up = int((differences > 0).sum())
        down = int((differences < 0).sum())
        return mcnemar(up, down) > SIGNIFICANCE
    return False


def signs_at(
    cells: Sequence[CellPoints], directions: Mapping[str, int], point: Point
) -> dict[str, int]:
    """For each sign of a claim 1 where its change speaks for it, -1 against, 0 neither."""
    signs = {}
    for key, direction in directions.items():
        change = change_at(cells, key, point)
        plain = estimate_at(cells, key, PLAIN)
        if change is None or plain is None:
            continue
        signs[key] = 0
        if change.low is None or change.high is None or may_be_chance(cells, key, point):
            continue
        smallest = MIN_CHANGE * (abs(float(plain)) if QUANTITIES[key].is_relative else 1.0)
        if change.low > smallest:
            signs[key] = direction
        elif change.high < -smallest:
            signs[key] = -direction
    return signs


def decide(signs: Mapping[str, int]) -> str:
    """A claim's verdict from its signs."""
    decided = {sign for sign in signs.values() if sign}
    if decided == {1}:
        return "supported"
    return "contradicted" if decided == {-1} else "undecided"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a group of cells says of a claim at a point."""

    group: Group
    seeds: int
    point: Point
    claim: str
    verdict: str
    why: str

    def to_row(self) -> dict[str, Any]:
        """A row of bypass_verdicts.csv."""
        return {
            **self.group._asdict(),
            "seeds": self.seeds,
            "form": self.point.form,
            "p": self.point.fraction,
            "claim": self.claim,
            "verdict": self.verdict,
            "why": self.why,
        }


def judge(cells: Sequence[CellPoints]) -> list[Verdict]:
    """A verdict for each group of cells, form, fraction above 0 and claim."""
    return [
        _judge_claim(group, members, point, claim)
        for group, members in group_cells(cells).items()
        for point in members[0].points
        if point.fraction
        for claim in CLAIMS
    ]


def _judge_claim(group: Group, cells: Sequence[CellPoints], point: Point, claim: str) -> Verdict:
    signs = signs_at(cells, CLAIMS[claim], point)
    reasons = [_explain(signs)]
    gate_falls = signs_at(cells, {"gate": 1}, point).get("gate") == -1
    if gate_falls and claim == "moves toward high variance" and 1 in signs.values():
        signs = {key: min(sign, 0) for key, sign in signs.items()}
        reasons.append("the gate falls, so that nearness is no support")
    if len(cells) == 1:
        reasons.append("given this one model")
    why = "; ".join(filter(None, reasons))
    return Verdict(group, len(cells), point, claim, decide(signs), why)


def _explain(signs: Mapping[str, int]) -> str:
    parts = []
    for heading, sign in (("for it", 1), ("against it", -1), ("no change that counts", 0)):
        titles = [QUANTITIES[key].title for key, value in signs.items() if value == sign]
        if titles:
            parts.append(f"{heading}: {', '.join(titles)}")
    return "; ".join(parts)


def table(cells: Sequence[CellPoints]) -> list[dict[str, Any]]:
    """The rows of bypass.csv: one a group of cells, form, fraction and quantity."""
    rows = []
    for group, members in group_cells(cells).items():
        for point in members[0].points:
            for key, quantity in QUANTITIES.items():
                estimate = estimate_at(members, key, point)
                if estimate is None:
                    continue
                change = change_at(members, key, point) if point.fraction else None
                change = change or Estimate(None)
                rows.append(
                    {
                        **group._asdict(),
                        "seeds": len(members),
                        "form": point.form or "none",
                        "p": point.fraction,
                        "quantity": quantity.title,
                        "value": estimate.value,
                        "low": estimate.low,
                        "high": estimate.high,
                        "change": change.value,
                        "change low": change.low,
                        "change high": change.high,
                    }
                )
    return rows


def summarize(cells: Sequence[CellPoints]) -> Iterator[dict[str, str]]:
    """One row per group and form for the terminal: what the largest fraction does, and verdicts."""
    verdicts = judge(cells)
    for group, members in group_cells(cells).items():
        for form in dict.fromkeys(point.form for point in members[0].points if point.form):
            fractions = [point.fraction for point in members[0].points if point.form == form]
            largest = Point(form, max(fractions))
            row = {"cells": str(group), "form": form, "p": f"0 to {largest.fraction:g}"}
            for key, quantity in QUANTITIES.items():
                row[quantity.title] = _format_change(members, key, largest)
            for claim in CLAIMS:
                relevant = [
                    v for v in verdicts if (v.group, v.point.form, v.claim) == (group, form, claim)
                ]
                row[claim] = ", ".join(f"{v.verdict} at {v.point.fraction:g}" for v in relevant)
            yield row


def _format_change(cells: Sequence[CellPoints], key: str, point: Point) -> str:
    before = estimate_at(cells, key, PLAIN)
    after = estimate_at(cells, key, point)
    if before is not None and after is not None:
        return f"{float(before):.3g} -> {float(after):.3g}"
    for cell in cells:
        undefined = cell.find(key, PLAIN)
        if undefined is not None and undefined.labels.get("why"):
            return f"undefined ({undefined.labels['why']})"
    return ""
