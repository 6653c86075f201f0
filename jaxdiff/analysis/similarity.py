"""How similar Stable Diffusion's images become when the mid-block is bypassed.

Images of different prompts may become more alike because the text is followed less. So the
control is less guidance without bypassing: the scale at which prompts are as alike.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from jaxdiff.analysis.bypass import PLAIN, Point, read_models
from jaxdiff.estimates import Estimate

TITLES = {"lpips": "LPIPS", "cosine": "cosine similarity"}


@dataclasses.dataclass(frozen=True)
class Similarity:
    """A measured similarity: between what, at which point and guidance scale."""

    name: str
    between: str
    point: Point
    guidance: float
    estimate: Estimate


@dataclasses.dataclass(frozen=True)
class DrawnModel:
    """A pipeline of bypass.json: what was drawn, and how similar the images are."""

    name: str
    guidance: float
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    image_files: tuple[str, ...]
    points: tuple[tuple[Point, float], ...]  # with its guidance scale
    similarities: tuple[Similarity, ...]

    @classmethod
    def from_json(cls, name: str, content: Mapping[str, Any]) -> "DrawnModel":
        """Read a pipeline of bypass.json."""
        similarities = []
        for row in content["rows"]:
            entry = dict(row)
            point = Point(entry.pop("form"), entry.pop("p"))
            guidance = entry.pop("guidance")
            estimate = Estimate.from_json(entry)
            between = estimate.labels["between"]
            similarities.append(Similarity(estimate.name, between, point, guidance, estimate))
        points = [
            (Point(point["form"], point["p"]), point["guidance"])
            for point in content.get("points", ())
        ]
        return cls(
            name,
            content["guidance"],
            tuple(content["prompts"]),
            tuple(content["seeds"]),
            tuple(content.get("files", ())),
            tuple(points),
            tuple(similarities),
        )

    @property
    def forms(self) -> list[str]:
        """The forms of bypassing that were drawn."""
        return list(dict.fromkeys(s.point.form for s in self.similarities if s.point.form))

    def fractions(self, form: str) -> list[float]:
        """The fractions of a form, with 0."""
        return sorted({s.point.fraction for s in self.similarities if s.point.form in ("", form)})

    def find(self, between: str, name: str, point: Point) -> Estimate | None:
        """A similarity at a point and the study's guidance scale."""
        point = point if point.fraction else PLAIN
        for similarity in self.similarities:
            key = (similarity.between, similarity.name, similarity.point, similarity.guidance)
            if key == (between, name, point, self.guidance):
                return similarity.estimate
        return None

    def control(self, between: str, name: str) -> list[tuple[float, Estimate]]:
        """Guidance scales and similarities without bypassing, the largest scale first."""
        rows = [
            (similarity.guidance, similarity.estimate)
            for similarity in self.similarities
            if (similarity.between, similarity.name) == (between, name)
            and not similarity.point.form
        ]
        return sorted(rows, key=lambda row: -row[0])


def read_drawn(workdir: epath.PathLike) -> list[DrawnModel]:
    """The pipelines of bypass.json."""
    models = read_models(workdir, "pictures")
    return [DrawnModel.from_json(name, content) for name, content in models.items()]


def table(models: Sequence[DrawnModel]) -> list[dict[str, Any]]:
    """The rows of likeness.csv: one a pipeline, point and similarity."""
    return [
        {
            "model": model.name,
            "form": similarity.point.form,
            "p": similarity.point.fraction,
            "guidance": similarity.guidance,
            "between": similarity.between,
            "name": similarity.name,
            "space": similarity.estimate.labels["space"],
            "value": similarity.estimate.value,
            "low": similarity.estimate.low,
            "high": similarity.estimate.high,
            "n": similarity.estimate.n,
            "interval": similarity.estimate.method,
        }
        for model in models
        for similarity in model.similarities
    ]


def summarize(models: Sequence[DrawnModel]) -> list[dict[str, str]]:
    """One row per pipeline and form for the terminal: LPIPS before and after, and the control."""
    rows = []
    for model in models:
        for form in model.forms:
            largest = Point(form, max(model.fractions(form)))
            row = {"model": model.name, "form": form, "p": f"0 to {largest.fraction:g}"}
            for between in ("prompts", "seeds"):
                row[f"LPIPS between {between}"] = _format_change(model, between, largest)
            row["as alike without bypassing"] = equal_guidance(model, largest)
            rows.append(row)
    return rows


def _format_change(model: DrawnModel, between: str, point: Point) -> str:
    before = model.find(between, "lpips", PLAIN)
    after = model.find(between, "lpips", point)
    if before is None or after is None:
        return ""
    text = f"{float(before):.3g} -> {float(after):.3g}"
    change = paired_change(before, after)
    if change.low is None or change.high is None:
        return f"{text} (one pair has no interval)"
    verdict = "undecided"
    if change.high < 0:
        verdict = "more alike"
    elif change.low > 0:
        verdict = "less alike"
    return f"{text} ({verdict}: {float(change):+.3g} [{change.low:+.3g}, {change.high:+.3g}])"


def paired_change(before: Estimate, after: Estimate) -> Estimate:
    """The mean change over the same seeds, or prompts."""
    differences = [b - a for a, b in zip(before.values or (), after.values or (), strict=True)]
    return Estimate.mean(differences, "pairs")


def equal_guidance(model: DrawnModel, point: Point) -> str:
    """The guidance scale at which the control is as alike, between those that were drawn.

    Scales above the study's own are no control.
    """
    control = [
        (scale, float(estimate))
        for scale, estimate in model.control("prompts", "lpips")
        if scale <= model.guidance
    ]
    bypassed = model.find("prompts", "lpips", point)
    plain = model.find("prompts", "lpips", PLAIN)
    if bypassed is None or plain is None or len(control) < 2:
        return ""
    target = float(bypassed)
    if target >= float(plain):
        return "prompts are no more alike"
    if target < min(value for _, value in control):
        return f"no guidance scale down to {control[-1][0]:g}"
    # The first scale that is as alike, coming down from the study's own.
    i = next(i for i, (_, value) in enumerate(control) if value <= target)
    # i is not 0: the first scale is the study's own, whose value is above the target.
    high_scale, high_value = control[i - 1]
    low_scale, low_value = control[i]
    fraction = (high_value - target) / (high_value - low_value)
    return f"a guidance scale of about {high_scale + fraction * (low_scale - high_scale):.1f}"
