"""What bypassing the mid-block does to trained cells: the change of each measure with an interval, and verdicts.

"Toward high variance" has three signs: samples nearer to the training images, more of them memorized, and a smaller effective k.
"More realistic" has two: a higher quality gate and a lower KID to held-out images. A claim is supported where some sign is for it
and none against, contradicted where some is against and none for it. Samples that are of neither class are no support for high
variance, however near they are: where the gate falls, what speaks for it does not count. These rules were fixed before any run.

A change counts where its whole interval lies beyond the least that matters, a hundredth, and counts of one cell's samples where
McNemar's exact test agrees. That was added after the quickstart's cells: samples of the same noise, compared in pairs, decide on
changes that no one could see. All of it is exploratory: so many comparisons are not corrected for their number.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.analysis.queries import interval
from jaxdiff.estimates import mcnemar, mean_t

Row = dict[str, Any]
Interval = tuple[float, float, float]
LEAST = 0.01  # the least change that counts


class Quantity(NamedTuple):
    """A measure: its title, where its row is, and whether its least change is LEAST of itself or LEAST as it stands."""

    title: str
    where: Row
    relative: bool = True


QUANTITIES = {
    "moved": Quantity("change of the samples, RMS a pixel", {"measure": "moved", "name": "rms"}),
    "gate": Quantity("quality gate", {"measure": "quality", "name": "gate"}, False),
    "kid": Quantity(
        "KID to held-out images", {"measure": "fidelity", "name": "kid", "against": "held_out"}
    ),
    "nearest": Quantity(
        "distance to the nearest training image", {"measure": "neighbors", "name": "kth", "k": 1}
    ),
    "memorized": Quantity(
        "memorized fraction", {"measure": "memorization", "name": "memorized"}, False
    ),
    "k_eff": Quantity("effective k", {"measure": "effective_k", "name": "k_eff"}),
    "share": Quantity("minority share, as classified", {"measure": "share", "name": "classified"}),
    "lpips": Quantity("LPIPS over all pairs", {"measure": "lpips", "name": "all_pairs"}),
}
HIGH_VARIANCE = {
    "nearest": -1,
    "memorized": 1,
    "k_eff": -1,
}  # the sign of a change that speaks for it
REALISTIC = {"gate": 1, "kid": -1}


class Group(NamedTuple):
    """Cells that differ in their seed alone; kin: a fingerprint of their settings."""

    model: str
    proportions: str
    n: int
    prediction: str
    px: int
    kin: str

    @classmethod
    def of(cls, own: Row) -> "Group":
        shares = "-".join(f"{100 * p:g}" for p in own["proportions"])
        return cls(own["model"], shares, own["n"], own["prediction"], own["size"], own["kin"][:8])

    def __str__(self) -> str:
        return f"{self.model} ({self.proportions}, n = {self.n}, {self.prediction}, {self.px} px)"


Cells = dict[Group, list[Row]]


def read(workdir: epath.PathLike, kind: str) -> dict[str, Row]:
    """The models of bypass.json of one kind, "cell" or "pictures", by name."""
    every = files.read_json(epath.Path(workdir) / "bypass.json")["models"]
    return {name: own for name, own in every.items() if own["kind"] == kind}


def groups(found: dict[str, Row]) -> Cells:
    """The cells by what they have in common, those of one seed after the other."""
    grouped: Cells = {}
    for own in sorted(found.values(), key=lambda own: (own["depth"], own["model"], own["seed"])):
        grouped.setdefault(Group.of(own), []).append(own)
    return grouped


def places(own: Row) -> list[tuple[str, float]]:
    """The forms and fractions of a cell's rows, in their order."""
    return list(dict.fromkeys((row["form"], row["p"]) for row in own["rows"]))


def at(own: Row, key: str, form: str, p: float) -> Row | None:
    """A quantity's row, None where it is not there or not defined."""
    where = QUANTITIES[key].where | {"form": form if p else "", "p": p}
    return next(
        (row for row in own["rows"] if where.items() <= row.items() and row["value"] is not None),
        None,
    )


def value(cells: Sequence[Row], key: str, form: str, p: float) -> Interval | None:
    """Mean and interval over the seeds; of one cell its own over its samples. None unless it is defined in all."""
    rows = [row for own in cells if (row := at(own, key, form, p))]
    if len(rows) < len(cells):
        return None
    if len(rows) == 1:
        return interval(rows[0])
    return mean_t([row["value"] for row in rows])


def change(cells: Sequence[Row], key: str, form: str, p: float) -> Interval | None:
    """From nothing bypassed, seed by seed, with the t interval over them. None unless it is defined in all.

    Of one cell: over its samples, those of the same noise in pairs; where single samples have no value (KID, k_eff, LPIPS), the
    two intervals as if they were independent.
    """
    pairs = [
        (a, b) for own in cells if (a := at(own, key, form, 0.0)) and (b := at(own, key, form, p))
    ]
    if len(pairs) < len(cells):
        return None
    if len(pairs) > 1:
        return mean_t([b["value"] - a["value"] for a, b in pairs])
    ((a, b),) = pairs
    if "values" in a and "values" in b:
        return mean_t((np.array(b["values"]) - a["values"]).tolist())
    (was, was_low, was_high), (now, low, high) = interval(a), interval(b)
    moved = now - was
    return (
        moved,
        moved - math.hypot(now - low, was_high - was),
        moved + math.hypot(high - now, was - was_low),
    )


def by_chance(cells: Sequence[Row], key: str, form: str, p: float) -> bool:
    """Whether a change's interval may be too short: counts of one cell by McNemar's exact test; seeds that agree to the last digit."""
    pairs = [
        (a, b) for own in cells if (a := at(own, key, form, 0.0)) and (b := at(own, key, form, p))
    ]
    moves = [b["value"] - a["value"] for a, b in pairs]
    if len(pairs) > 1:
        return max(moves) - min(moves) < 1e-12
    if not QUANTITIES[key].relative and "values" in pairs[0][0]:
        moved = np.array(pairs[0][1]["values"]) - pairs[0][0]["values"]
        return mcnemar(int((moved > 0).sum()), int((moved < 0).sum())) > 0.05
    return False


def table(found: dict[str, Row]) -> list[Row]:
    """One row a group of cells, form, fraction and quantity."""
    rows = []
    for group, cells in groups(found).items():
        for form, p in places(cells[0]):
            for key, quantity in QUANTITIES.items():
                here, moved = value(cells, key, form, p), change(cells, key, form, p) if p else None
                if here:
                    rows.append({**group._asdict(), "seeds": len(cells), "form": form or "none", "p": p, "quantity": quantity.title,
                                 **dict(zip(("value", "low", "high"), here, strict=True)),
                                 **dict(zip(("change", "change low", "change high"), moved or ("",) * 3, strict=True))})  # fmt: skip
    return rows


def sides(cells: Sequence[Row], signs: dict[str, int], form: str, p: float) -> dict[str, int]:
    """Of each sign 1 where its change speaks for the claim beyond its interval and the least that counts, -1 where against, 0
    where neither."""
    found = {}
    for key, sign in signs.items():
        moved, plain = change(cells, key, form, p), value(cells, key, form, 0.0)
        if moved and plain and by_chance(cells, key, form, p):
            found[key] = 0
        elif moved and plain:
            least = LEAST * (abs(plain[0]) if QUANTITIES[key].relative else 1.0)
            found[key] = sign * ((moved[1] > least) - (moved[2] < -least))
    return found


def _verdict(found: dict[str, int]) -> str:
    both = {side for side in found.values() if side}
    return {frozenset({1}): "supported", frozenset({-1}): "contradicted"}.get(
        frozenset(both), "undecided"
    )


def verdicts(found: dict[str, Row]) -> list[Row]:
    """One row a group of cells, form, fraction above 0 and claim."""
    rows = []
    for group, cells in groups(found).items():
        for form, p in places(cells[0]):
            if not p:
                continue
            broken = sides(cells, {"gate": 1}, form, p).get("gate") == -1
            signs = {"moves toward high variance": sides(cells, HIGH_VARIANCE, form, p),
                     "more realistic": sides(cells, REALISTIC, form, p)}  # fmt: skip
            for claim, seen in signs.items():
                why = _in_words(seen)
                if broken and claim != "more realistic" and 1 in seen.values():
                    seen, why = (
                        {k: min(side, 0) for k, side in seen.items()},
                        f"{why}; the gate falls, so that nearness is no support",
                    )
                given = "" if len(cells) > 1 else "given this one model"
                rows.append({**group._asdict(), "seeds": len(cells), "form": form, "p": p, "claim": claim,
                             "verdict": _verdict(seen), "why": "; ".join(filter(None, (why, given)))})  # fmt: skip
    return rows


def _in_words(seen: dict[str, int]) -> str:
    names = {
        side: [QUANTITIES[key].title for key, s in seen.items() if s == side] for side in (1, -1, 0)
    }
    parts = (("for it", 1), ("against it", -1), ("no change that counts", 0))
    return "; ".join(f"{words}: {', '.join(names[side])}" for words, side in parts if names[side])


def summary(found: dict[str, Row]) -> Iterator[str]:
    """A sentence a group and form: what bypassing as much as was tried does, and how the claims fare at every fraction."""
    told = verdicts(found)
    for group, cells in groups(found).items():
        for form in dict.fromkeys(form for form, p in places(cells[0]) if p):
            most = max(p for f, p in places(cells[0]) if f == form)
            moves = [_move(cells, key, form, most) for key in QUANTITIES]
            words = []
            for claim in ("moves toward high variance", "more realistic"):
                where = {**group._asdict(), "form": form, "claim": claim}
                mine = [row for row in told if where.items() <= row.items()]
                kinds = dict.fromkeys(row["verdict"] for row in mine)
                each = [f"{kind} at p = {_fractions(mine, kind)}" for kind in kinds]
                words.append(f"'{claim}': {'; '.join(each)}")
            yield f"{group}, {form}, p = 0 to {most:g}: {'; '.join(filter(None, moves))}. {'. '.join(words)}."


def _move(cells: Sequence[Row], key: str, form: str, p: float) -> str:
    ends = value(cells, key, form, 0.0), value(cells, key, form, p)
    if ends[0] and ends[1]:
        return f"{QUANTITIES[key].title} {ends[0][0]:.3g} -> {ends[1][0]:.3g}"
    where = QUANTITIES[key].where | {"form": "", "p": 0.0}
    why = next(
        (
            row["why"]
            for own in cells
            for row in own["rows"]
            if where.items() <= row.items() and row.get("why")
        ),
        "",
    )
    return f"{QUANTITIES[key].title} undefined ({why})" if why else ""


def _fractions(rows: Sequence[Row], verdict: str) -> str:
    return ", ".join(f"{row['p']:g}" for row in rows if row["verdict"] == verdict)
