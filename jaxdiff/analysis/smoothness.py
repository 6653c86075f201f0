"""What the Hessian-smoothness probe says of Theorem 1: at each point, does the norm fall from level to level, or with depth?

Premises and conclusions are kept apart, norms are compared raw and multiplied by the level's total variance, and every line
of a trained network has one of the same network with random weights beside it: what holds there too is not learnt. No JAX.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxdiff import files, results
from jaxdiff.analysis.queries import format_mix, group_key
from jaxdiff.estimates import fallen, falls

Row = dict[str, Any]
Norms = Float[np.ndarray, " points"]
WEIGHTS = ("trained", "random")
SCALES = ("raw", "x total variance")
NOTHING = 1e-6  # an |M| of a memory below it is taken for it: one image has all the weight, and ratios would be of roundings


@dataclasses.dataclass(frozen=True)
class Probed:
    """A model and the probe's rows of it. bottleneck: its size in pixels."""

    name: str
    depth: int
    parameters: int
    bottleneck: int
    rows: list[Row]

    def values(self, **where: Any) -> tuple[Norms, Norms] | None:
        """The values at the points and their errors of the row with these entries, nan where undefined; None without one."""
        for row in self.rows:
            if all(row.get(key) == value for key, value in where.items()):
                values, errors = (
                    np.array(row[key], np.float64) if key in row else None
                    for key in ("values", "errors")
                )
                assert values is not None
                return values, np.zeros_like(values) if errors is None else errors
        return None

    def entries(self, key: str) -> list[Any]:
        """What a key has among the rows, in order."""
        return sorted({row[key] for row in self.rows if key in row})


def read(workdir: Any) -> list[Probed]:
    """The models of probe.json, shallowest first."""
    found = files.read_json(workdir / "probe.json")["models"]
    return in_order(
        Probed(name, *(each[k] for k in ("depth", "parameters", "bottleneck", "rows")))
        for name, each in found.items()
    )


def of_cells(cells: Sequence[results.CellResult]) -> dict[str, list[Probed]]:
    """A study's models by training data and seed, which are probed at the same points; shallowest first."""
    found: dict[str, list[Probed]] = {}
    for cell in (cell for cell in cells if cell.probe):
        own = cell.info
        one = Probed(own.model, own.depth, own.parameters, own.bottleneck or 0, cell.probe)
        found.setdefault(f"{format_mix(group_key(cell))}, seed {own.seed}", []).append(one)
    return {group: in_order(models) for group, models in found.items()}


def between_models(cells: Sequence[results.CellResult]) -> list[Row]:
    """The verdicts of a study, where models are compared with the shallowest one of the same data and seed."""
    return [{"data": group, **row} for group, models in of_cells(cells).items() for row in verdicts(models)
            if row["comparison"] != "level with level"]  # fmt: skip


def in_order(found: Any) -> list[Probed]:
    """Shallowest first, smaller ones first among equals."""
    return sorted(found, key=lambda one: (one.depth, one.parameters))


def readings(
    model: Probed, weights: str, t: int, level: int
) -> dict[tuple[str, str], tuple[Norms, Norms]]:
    """By reading and form (rank, tau), the norm whose fall is the theorem's conclusion, with its error."""
    at = {"weights": weights, "t": t, "level": level}
    found = {}
    above = [a for a in model.entries("level") if a > 0]
    for r in model.entries("rank"):  # at the pixels along the directions that the first level keeps
        here = {"level": level or above[0], "name": "total" if level else "along"}
        found["pull-back", f"r = {r}"] = model.values(**at | here, reading="pull_back", rank=r)
    found["decoder", ""] = model.values(**at, reading="decoder", name="total")
    for tau in ("raw", "scaled"):
        if (
            norms := model.values(**at, reading="memory", name="spectral_norm", tau=tau)
        ) is not None:
            found["memory", f"{tau} tau"] = (
                np.maximum(norms[0], NOTHING),
                np.where(norms[0] > NOTHING, norms[1], NOTHING),
            )
    return {key: value for key, value in found.items() if value is not None}


def at_pixels(model: Probed, weights: str, t: int) -> dict[tuple[str, str], tuple[Norms, Norms]]:
    """What the paper uses the theorem for: the curvature of the energy itself, at the same x_t in every model. The smallest
    eigenvalue of H may be negative, so its distance from 2, where there are no data, is what is compared."""
    at = {"weights": weights, "t": t, "level": 0}
    found = {("pixels", label): model.values(**at, reading="denoiser", name=name)
             for label, name in (("|M|", "spectral_norm"), ("tr M", "trace"))}  # fmt: skip
    smallest = model.values(**at, reading="hessian", name="smallest")
    found["pixels", "2 - smallest eigenvalue"] = (
        None if smallest is None else (2.0 - smallest[0], smallest[1])
    )
    return {key: value for key, value in found.items() if value is not None}


def premise(model: Probed, weights: str, t: int, level: int) -> np.ndarray | None:
    """At which points x -> z of this level and of the one before, and the step between, are all contractions, as far as the
    products show that met them: the largest singular value of a map of many dimensions is one from below."""
    at = {"weights": weights, "t": t, "reading": "maps"}
    maps = [model.values(**at, level=level, name=name) for name in ("from_pixels", "step")]
    if level > 1:
        maps.append(model.values(**at, level=level - 1, name="from_pixels"))
    if any(each is None for each in maps):
        return None
    return np.all(
        [value + error < 1 for value, error in (each for each in maps if each is not None)], axis=0
    )


@dataclasses.dataclass(frozen=True)
class Pair:
    """One comparison at the points: norms before and after, each with its error. premise: where the theorem's holds, for what
    the theorem speaks of: E o phi^-1 as it is, not a decoder, a memory or a norm that is scaled."""

    about: Row
    before: tuple[Norms, Norms]
    after: tuple[Norms, Norms]
    premise: np.ndarray | None = None

    @property
    def sides(self) -> Int[np.ndarray, " points"]:
        """1 where the norm falls, -1 where it does not, 0 where that is not known."""
        known = np.isfinite(self.before[0]) & np.isfinite(self.after[0])
        return np.where(
            known, fallen(self.before[0], self.after[0], self.before[1], self.after[1]), 0
        )

    def row(self) -> Row | None:
        """The verdict over the points, None where no two norms can be compared."""
        known = (self.before[0] > 0) & (self.after[0] > 0)
        if not known.any():
            return None
        (before, before_error), (after, after_error) = (
            tuple(a[known] for a in side) for side in (self.before, self.after)
        )
        found = falls(before, after, before_error, after_error)
        if self.premise is None:
            return self.about | {"premise": None} | found | {"refuted": None}
        refuted = bool(np.any(self.premise & (self.sides < 0)))
        return self.about | {"premise": float(self.premise.mean())} | found | {"refuted": refuted}


def pairs(models: Sequence[Probed]) -> Iterator[Pair]:
    """Level with level in each model; bottleneck with bottleneck and level 0 with level 0, the shallowest model with each other."""
    for model in models:
        for weights, t in itertools.product(WEIGHTS, model.entries("t")):
            for a, b in itertools.pairwise(model.entries("level")):
                about = {
                    "comparison": "level with level",
                    "model": model.name,
                    "weights": weights,
                    "t": t,
                    "from": a,
                    "to": b,
                }
                held = premise(model, weights, t, b) if b == a + 1 else None
                yield from _both_scales(about, (model, a), (model, b), readings, held)
    for other in models[1:]:
        for weights, t in itertools.product(WEIGHTS, other.entries("t")):
            about = {"model": f"{models[0].name} -> {other.name}", "weights": weights, "t": t}
            first, last = models[0].depth, other.depth
            bottlenecks = {
                "comparison": "bottleneck with bottleneck",
                **about,
                "from": first,
                "to": last,
            }
            yield from _both_scales(bottlenecks, (models[0], first), (other, last), readings, None)
            pixels = {"comparison": "level 0 with level 0", **about, "from": 0, "to": 0}
            yield from _both_scales(
                pixels, (models[0], 0), (other, 0), lambda *at: at_pixels(*at[:3]), None
            )


def _both_scales(
    about: Row, before: tuple, after: tuple, of: Any, held: np.ndarray | None
) -> Iterator[Pair]:
    """Every reading that both sides have, raw and, where a Hessian of E is one in z, multiplied by the total variance there: a
    memory's energy is in the units of z squared, so that its Hessian has none, and its two scales are its two taus."""
    weights, t = about["weights"], about["t"]
    sides = [of(model, weights, t, level) for model, level in (before, after)]
    scales = [
        model.values(weights=weights, t=t, level=level, name="total_variance")
        for model, level in (before, after)
    ]
    for key in sides[0].keys() & sides[1].keys():
        for scale in SCALES if key[0] in ("pull-back", "decoder") else SCALES[:1]:
            factors = [1.0 if scale == "raw" or each is None else each[0] for each in scales]
            scaled = [
                tuple(array * factor for array in side[key])
                for side, factor in zip(sides, factors, strict=True)
            ]
            premise = held if (key[0], scale) == ("pull-back", "raw") else None
            yield Pair(
                about | {"reading": key[0], "form": key[1], "scale": scale},
                scaled[0],
                scaled[1],
                premise,
            )


def verdicts(models: Sequence[Probed]) -> list[Row]:
    """A row a comparison, in a fixed order."""
    rows = [row for pair in pairs(models) if (row := pair.row())]
    return sorted(rows, key=lambda row: [str(row[key]) for key in ("comparison", "model", "weights", "reading", "form", "scale")]
                  + [row[key] for key in ("t", "from")])  # fmt: skip


def in_short(models: Sequence[Probed]) -> list[Row]:
    """A row a comparison, model and reading over all levels, noise levels and points: how often the norm falls.

    Where there are several ranks (the pull-back) they must agree at a point, or it counts as undecided there; log_ratio is
    then their mean.
    """
    found: dict[tuple, dict[tuple, list[Pair]]] = {}
    for pair in pairs(models):
        a = pair.about
        form = "" if a["reading"] == "pull-back" else a["form"]
        group = (a["comparison"], a["model"], a["reading"], form, a["scale"], a["weights"])
        found.setdefault(group, {}).setdefault((a["t"], a["from"]), []).append(pair)
    return [
        _short(group, list(places.values()))
        for group, places in sorted(found.items(), key=lambda item: item[0])
    ]


def _short(group: tuple, places: list[list[Pair]]) -> Row:
    sides, held, ratios, refuted, told = [], [], [], 0, 0
    for forms in places:
        each = np.stack([pair.sides for pair in forms])
        sides.append(np.where(np.all(each == each[0], axis=0), each[0], 0))
        if (premise := forms[0].premise) is not None:
            held.append(premise)
            refuted += int((premise & (sides[-1] < 0)).sum())
            told += int((premise & (sides[-1] != 0)).sum())
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios += [np.log(pair.after[0] / pair.before[0]) for pair in forms]
    all_sides, log_ratios = np.concatenate(sides), np.concatenate(ratios)
    finite = log_ratios[np.isfinite(log_ratios)]
    names = ("comparison", "model", "reading", "form", "scale", "weights")
    down, up = int((all_sides > 0).sum()), int((all_sides < 0).sum())
    return dict(zip(names, group, strict=True)) | {
        "falls": down, "does not fall": up, "undecided": len(all_sides) - down - up,
        "falls, %": round(100 * down / (down + up), 1) if down + up else None,
        "log ratio": float(finite.mean()) if len(finite) else None,
        "premise holds": int(np.concatenate(held).sum()) if held else None, "of": sum(map(len, held)) if held else None,
        "premise holds, decided": told if held else None, "premise holds, does not fall": refuted if held else None,
    }  # fmt: skip


def table(models: Sequence[Probed]) -> list[Row]:
    """A row a model, weights, noise level, level and quantity: the median over points, the 10 and 90 % quantiles."""
    return [{"model": model.name, "depth": model.depth, "bottleneck, px": model.bottleneck, **results.of_points(row)}
            for model in models for row in model.rows]  # fmt: skip
