"""What the probe found, in sentences."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdiff.analysis.smoothness import SCALES, WEIGHTS, Norms, Probed, Row, in_short


def summary(models: Sequence[Probed]) -> list[str]:
    """Premise, conclusion from level to level, and the models beside each other at the bottleneck and at the pixels."""
    short = in_short(models)
    found = [*_premise(models), *_levels(short)]
    found += _across(_where(short, comparison="bottleneck with bottleneck"), "At the bottleneck")
    return [
        *found,
        *_across(_where(short, comparison="level 0 with level 0"), "At the pixels, the same x_t"),
        *_pinned(models),
    ]


def _where(rows: Sequence[Row], **where: Any) -> list[Row]:
    return [row for row in rows if where.items() <= row.items()]


def _distinct(rows: Sequence[Row], *keys: str) -> list[dict[str, Any]]:
    """The values of these keys that occur, in order."""
    return [
        dict(zip(keys, values, strict=True))
        for values in dict.fromkeys(tuple(row[k] for k in keys) for row in rows)
    ]


def _everywhere(models: Sequence[Probed], **where: Any) -> tuple[Norms, Norms] | None:
    """Values and errors of a quantity at all levels and noise levels of all models."""
    places = [model.values(**where | {"level": a, "t": t}) for model in models
              for a in model.entries("level") for t in model.entries("t")]  # fmt: skip
    known = [place for place in places if place is not None]
    return (
        (np.concatenate([v for v, _ in known]), np.concatenate([e for _, e in known]))
        if known
        else None
    )


def _premise(models: Sequence[Probed]) -> Iterator[str]:
    parts = []
    for weights in WEIGHTS:
        if found := _everywhere(models, weights=weights, reading="maps", name="from_pixels"):
            values, errors = found
            share = 100 * np.mean(values + errors < 1)
            parts.append(f"with {weights} weights at {share:.0f} % of points and levels (|J| is {np.median(values):.3g} in the middle, "
                         f"from {values.min():.3g} to {values.max():.3g})")  # fmt: skip
    if parts:
        yield f"Premise: x -> z is a contraction (|J| < 1) {', and '.join(parts)}."


def _levels(short: Sequence[Row]) -> Iterator[str]:
    levels = _where(short, comparison="level with level")
    for reading in _distinct(levels, "reading", "form"):
        rows, words = _where(levels, **reading), []
        for scale, weights in itertools.product(SCALES, WEIGHTS):
            mine = _where(rows, scale=scale, weights=weights)
            down, up = (sum(row[key] for row in mine) for key in ("falls", "does not fall"))
            if down + up:
                words.append(f"{100 * down / (down + up):.0f} % ({weights}, {scale})")
        if words:
            name = " ".join(filter(None, reading.values()))
            yield f"From level to level, {name}: the norm falls in {', '.join(words)} of decided steps{_refuted(rows)}."


def _refuted(rows: Sequence[Row]) -> str:
    """What the trained models say of the theorem itself, whose premise has to hold."""
    mine = [row for row in _where(rows, weights="trained", scale="raw") if row["of"] is not None]
    if not mine:
        return ""
    held, of, decided, against = (
        sum(row[key] for row in mine)
        for key in ("premise holds", "of", "premise holds, decided", "premise holds, does not fall")
    )
    if not held:
        return "; the premise holds at no point, so that nothing is confirmed or refuted"
    if not decided:
        return f"; the premise holds at {held} of {of} points, at none of which it is decided"
    verdict = "the theorem is refuted in this reading" if against else "not refuted"
    return f"; where the premise holds ({held} of {of} points) it does not fall at {against} of {decided} that are decided: {verdict}"


def _across(rows: Sequence[Row], where: str) -> Iterator[str]:
    """A sentence a pair of models: by what factor each norm differs, with trained and with random weights."""
    for pair in _distinct(rows, "model"):
        words = []
        for key in _distinct(_where(rows, **pair), "reading", "form", "scale"):
            found = {row["weights"]: row["log ratio"] for row in _where(rows, **pair, **key)}
            ratios = [
                f"x {np.exp(found[w]):.2g} ({w})" for w in WEIGHTS if found.get(w) is not None
            ]
            if ratios and (key["reading"] != "pixels" or key["scale"] == "raw"):
                names = (key["reading"], key["form"], key["scale"] if key["scale"] != "raw" else "")
                words.append(
                    f"{' '.join(n for n in names if n and n != 'pixels')} {' and '.join(ratios)}"
                )
        if words:
            yield f"{where}, {pair['model']}: {'; '.join(words)}."


def _pinned(models: Sequence[Probed]) -> Iterator[str]:
    """|H| as the theorem reads it, of which the largest seen is a lower bound of L (Eqs. 7, 25)."""
    parts, seen = [], []
    for model in models:
        if found := _everywhere(
            [model], weights="trained", reading="hessian", name="spectral_norm"
        ):
            middle, high = np.quantile(found[0], [0.5, 0.9])
            parts.append(f"{model.name} {middle:.3g}, {high:.3g}")
            seen.append(float(found[0].max()))
    if parts:
        yield (f"|H| itself at the pixels, the middle and the 90 % quantile: {'; '.join(parts)}. It is 2 wherever a model removes a direction "
               f"whole, so M is what is compared; and the largest that was seen (up to {max(seen):.3g}) bounds L from below, so whose L is "
               "larger is not decidable.")  # fmt: skip
