"""How alike Stable Diffusion's pictures become when the mid-block is bypassed, beside what less guidance does."""

from collections.abc import Iterator
from typing import Any

from jaxdiff.estimates import mean_t

Row = dict[str, Any]
TITLES = {"lpips": "LPIPS", "cosine": "cosine similarity"}


def at(own: Row, between: str, name: str, form: str, p: float) -> Row | None:
    """The row of a form and fraction, at the guidance scale of the study."""
    where = {
        "between": between,
        "name": name,
        "form": form if p else "",
        "p": p,
        "guidance": own["guidance"],
    }
    return next((row for row in own["rows"] if where.items() <= row.items()), None)


def control(own: Row, between: str, name: str) -> list[Row]:
    """The rows with nothing bypassed, the largest guidance scale first."""
    where = {"between": between, "name": name, "form": ""}
    return sorted(
        (row for row in own["rows"] if where.items() <= row.items()),
        key=lambda row: -row["guidance"],
    )


def table(found: dict[str, Row]) -> list[Row]:
    """One row a model, point and measure."""
    keys = (
        "form",
        "p",
        "guidance",
        "between",
        "name",
        "space",
        "value",
        "low",
        "high",
        "n",
        "interval",
    )
    return [
        {"model": name, **{key: row[key] for key in keys}}
        for name, own in found.items()
        for row in own["rows"]
    ]


def summary(found: dict[str, Row]) -> Iterator[str]:
    """A sentence a model and form: whether prompts give more like pictures, whether seeds do too, and the guidance scale that
    makes prompts as alike with nothing bypassed."""
    for name, own in found.items():
        for form in dict.fromkeys(row["form"] for row in own["rows"] if row["form"]):
            most = max(row["p"] for row in own["rows"] if row["form"] == form)
            words = []
            for between in ("prompts", "seeds"):
                before, after = (
                    at(own, between, "lpips", "", 0.0),
                    at(own, between, "lpips", form, most),
                )
                if before and after:
                    words.append(
                        f"LPIPS between {between} {_told(before)} -> {_told(after)}{_change(before, after)}"
                    )
            if words:
                yield f"{name}, {form}, p = 0 to {most:g}: {'; '.join(words)}. {_as_guidance(own, form, most)}".strip()


def _told(row: Row) -> str:
    return f"{row['value']:.3g}" + (
        "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    )


def _change(before: Row, after: Row) -> str:
    """Over the same seeds (or prompts), in pairs."""
    found = mean_t([b - a for a, b in zip(before["values"], after["values"], strict=True)])
    if not found:
        return " (one pair has no interval)"
    return f" ({'alike more' if found[2] < 0 else 'alike less' if found[1] > 0 else 'undecided'}: {found[0]:+.3g} [{found[1]:+.3g}, {found[2]:+.3g}])"


def _as_guidance(own: Row, form: str, p: float) -> str:
    """The scale at which the control is as alike, at or below the study's own, between those that were drawn."""
    rows = [row for row in control(own, "prompts", "lpips") if row["guidance"] <= own["guidance"]]
    here, plain = at(own, "prompts", "lpips", form, p), at(own, "prompts", "lpips", "", 0.0)
    if here is None or plain is None or len(rows) < 2:
        return ""
    if here["value"] >= plain["value"]:
        return "Prompts are no more alike than with nothing bypassed."
    values = [row["value"] for row in rows]
    if here["value"] < min(values):
        return f"No guidance scale down to {rows[-1]['guidance']:g} makes prompts as alike ({min(values):.3g} at the least)."
    # the first that is as alike, coming down from the study's own
    i = next(i for i, value in enumerate(values) if value <= here["value"])
    above, below = rows[i - 1], rows[i]
    part = (above["value"] - here["value"]) / (above["value"] - below["value"])
    scale = above["guidance"] + part * (below["guidance"] - above["guidance"])
    return (f"A guidance scale of about {scale:.1f}, nothing bypassed, makes prompts as alike: so much of it may be that the text is "
            "followed less.")  # fmt: skip
