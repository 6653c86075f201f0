"""Stable Diffusion with the mid-block bypassed by a fraction: how alike its images become.

Prompts that differ may begin to give the same image because the text is no longer followed. So
the same similarities are taken, without bypassing, at smaller scales of classifier-free
guidance: the control.
"""

import dataclasses
import functools
import io
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import Image

from jaxdiff import diffusers_scheduler, files, samplers
from jaxdiff.bypass.config import BypassSettings, check_forms
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.estimates import Estimate
from jaxdiff.features.extractors import load_extractor
from jaxdiff.features.perceptual import SMALLEST
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.precision import sampling
from jaxdiff.progress import Progress, no_progress
from jaxdiff.setting_fields import to_json
from jaxdiff.source_code import code_digest
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pipeline import Pipeline, TextToImagePipeline, check_size, image_size
from jaxdiff.stage import NO_REDO, Redo, run_stage

Drawn = UInt8[np.ndarray, "prompt seed height width channel"]
# Pixels on a side from which LPIPS takes two pairs at a time: its features are 30 million
# numbers an image.
LARGE_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Point:
    """What is bypassed, and the guidance scale."""

    form: str
    fraction: float
    guidance: float

    @property
    def name(self) -> str:
        """Part of a file's name."""
        if self.form:
            return f"{self.form}-{self.fraction:g}"
        return f"guidance-{self.guidance:g}"

    def to_json(self) -> dict[str, Any]:
        """As bypass.json holds it."""
        return {"form": self.form, "p": self.fraction, "guidance": self.guidance}


def list_points(settings: BypassSettings) -> list[Point]:
    """Nothing bypassed, the control, then each form's fractions.

    In this order one form's program is in memory at a time.
    """
    scales = dict.fromkeys((settings.guidance, *settings.guidances))
    control = [Point("", 0.0, float(scale)) for scale in scales]
    bypassed = [
        Point(form, fraction, float(settings.guidance))
        for form in settings.forms
        for fraction in settings.fractions
        if fraction > 0
    ]
    return control + bypassed


def check(paths: Mapping[str, epath.Path], settings: BypassSettings) -> None:
    """Raise ValueError where a folder is no complete Stable Diffusion 1 pipeline.

    Or where it cannot draw what the settings ask for. No weights are read.
    """
    for path in paths.values():
        folders.check(path)
        _, unet, vae = folders.abstract(path)
        scheduler = folders.scheduler(path)
        size = settings.size or max(image_size(unet, vae))
        check_size(unet, vae, (size, size))
        samplers.timesteps(diffusers_scheduler.build_schedule(scheduler), settings.steps)
        check_forms(unet, scheduler["num_train_timesteps"], settings)
        smallest = SMALLEST[settings.lpips]
        if size < smallest:
            raise ValueError(
                f"config.lpips is {settings.lpips}, which needs {smallest} px; the images have "
                f"{size}"
            )


def run(
    paths: Mapping[str, epath.Path],
    settings: BypassSettings,
    workdir: epath.Path,
    progress: Progress = no_progress,
    redo: Redo = NO_REDO,
) -> dict[str, dict[str, Any]]:
    """Draw and compare every pipeline's images at every point; what is done is kept.

    Returns
    -------
    models
        What bypass.json has of each pipeline, by name. Images are PNG files under
        workdir/pictures.
    """
    points = list_points(settings)
    names = image_names(settings)
    total = len(paths) * len(points)
    content: dict[str, dict[str, Any]] = {}
    code = code_digest(Drawing, TextToImagePipeline)
    for name, path in paths.items():
        progress("checksums", len(content), len(paths), name)
        inputs = {
            "model": pipeline_digest(path),
            "settings": point_settings(settings),
            "code": code,
        }
        drawing = Drawing(path, settings, workdir)
        rows: list[dict[str, Any]] = []
        for point in points:
            part = f"{name}-{point.name}"
            outputs = (f"parts/{part}.json", *(f"pictures/{part}/{png}" for png in names))
            make = functools.partial(drawing.write_point, point, part)
            run_stage(workdir, part, inputs | point.to_json(), outputs, make, redo=redo)
            part_rows = files.read_json(workdir / outputs[0])["rows"]
            rows += [point.to_json() | row for row in part_rows]
            done = len(content) * len(points) + points.index(point) + 1
            progress("images", done, total, f"{name} {point.name}")
        content[name] = {
            "kind": "pictures",
            "rows": rows,
            "files": names,
            "points": [point.to_json() for point in points],
            "prompts": list(settings.prompts),
            "seeds": list(settings.seeds),
            "guidance": settings.guidance,
        }
    if paths:
        progress("checksums", len(paths), len(paths), "")
    return content


def pipeline_digest(path: epath.Path) -> dict[str, str]:
    """Checksums of the weights that are read, and of the parts' settings and vocabularies."""
    small_files = [
        file
        for part in folders.PARTS
        for file in files.walk(path / part)
        if file.suffix in (".json", ".txt")
    ]
    names = [
        file.relative_to(path).as_posix() for file in (*folders.weights_files(path), *small_files)
    ]
    return files.checksums(path, sorted(names))


def point_settings(settings: BypassSettings) -> dict[str, Any]:
    """The settings that every point depends on."""
    keys = (
        "window",
        "ramp",
        "prompts",
        "negative",
        "seeds",
        "steps",
        "size",
        "lpips",
        "space",
    )
    values = to_json(settings)
    inception = files.sha256(settings.inception) if settings.inception else ""
    return {key: values[key] for key in keys} | {"inception": inception}


def image_names(settings: BypassSettings) -> list[str]:
    """One file per prompt and seed, prompts first."""
    names = []
    for i, prompt in enumerate(settings.prompts):
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "nothing"
        names += [f"{i}-{slug}-seed{seed}.png" for seed in settings.seeds]
    return names


class Drawing:
    """Draws one pipeline's images; its weights are read when the first image is drawn."""

    def __init__(self, path: epath.Path, settings: BypassSettings, workdir: epath.Path):
        self.settings = settings
        self.workdir = workdir
        self._load: Callable[[], Pipeline] = functools.cache(functools.partial(Pipeline.load, path))
        self._form = ""
        self._drawer: TextToImagePipeline | None = None

    def _text_to_image(self, form: str) -> TextToImagePipeline:
        """The pipeline of a form; that of another form is let go first."""
        if self._drawer is None or self._form != form:
            self._drawer = None
            settings = self.settings
            size = (settings.size, settings.size) if settings.size else None
            self._form = form
            self._drawer = TextToImagePipeline(
                self._load(),
                steps=settings.steps,
                form=form or None,  # type: ignore[arg-type]
                window=settings.window,
                ramp=settings.ramp,
                size=size,
                batch=settings.batch,
            )
        return self._drawer

    def write_point(self, point: Point, part: str) -> None:
        """Draw every prompt from every seed's noise, and write images and similarities."""
        settings = self.settings
        draw = self._text_to_image(point.form)
        # All seeds of a prompt, then of the next: as `image_names` and the reshape below have them.
        latents = np.tile(draw.latents(settings.seeds), (len(settings.prompts), 1, 1, 1))
        prompts = [prompt for prompt in settings.prompts for _ in settings.seeds]
        with sampling():
            images = to_uint8(
                draw(
                    prompts,
                    latents,
                    guidance=point.guidance,
                    fraction=point.fraction,
                    negative=settings.negative,
                )
            )
        for name, image in zip(image_names(settings), images, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            files.write(self.workdir / "pictures" / part / name, buffer.getvalue())
        shape = (len(settings.prompts), len(settings.seeds), *images.shape[1:])
        similarities = measure_similarity(
            images.reshape(shape), settings.lpips, settings.space, settings.inception or None
        )
        rows = [{"measure": "likeness"} | estimate.to_json() for estimate in similarities]
        files.write_json(self.workdir / "parts" / f"{part}.json", {"rows": rows})


def measure_similarity(
    images: Drawn, network: str, space: str, inception: str | None = None
) -> list[Estimate]:
    """How alike images are between prompts at one seed, and between seeds at one prompt.

    Parameters
    ----------
    images
        uint8 [prompt, seed, height, width, channel].
    network
        Network of LPIPS: vgg or alex.
    space
        Feature space of the cosine similarities.
    inception
        Weights file, for the space inception.

    Returns
    -------
    estimates
        Mean LPIPS (smaller is more alike) and mean cosine (larger is more alike) over pairs,
        with t intervals over the seeds (the prompts); none where there is but one.
    """
    is_large = max(images.shape[2:4]) >= LARGE_SIZE
    batch = 2 if is_large else 16
    lpips = LPIPS.load(network)
    extractor = dataclasses.replace(load_extractor(space, inception), batch=batch)
    features = extractor(images.reshape(-1, *images.shape[2:]))
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    features = features.reshape(*images.shape[:2], -1)
    estimates = []
    for between in ("prompts", "seeds"):
        # Groups first: the seeds whose prompts are compared, or the prompts whose seeds are.
        groups = images.swapaxes(0, 1) if between == "prompts" else images
        vectors = features.swapaxes(0, 1) if between == "prompts" else features
        pairs = list(itertools.combinations(range(groups.shape[1]), 2))
        if not pairs:
            continue
        left = [i for i, _ in pairs]
        right = [j for _, j in pairs]
        cosines = np.einsum("gpd,gpd->gp", vectors[:, left], vectors[:, right]).mean(axis=1)
        distances = [
            lpips.distance(to_float(group[left]), to_float(group[right]), batch).mean()
            for group in groups
        ]
        estimates.append(_estimate("lpips", between, lpips.space, np.array(distances)))
        estimates.append(_estimate("cosine", between, extractor.name, cosines))
    return estimates


def _estimate(name: str, between: str, space: str, values: Float[np.ndarray, " group"]) -> Estimate:
    groups = "seeds" if between == "prompts" else "prompts"
    numbers = np.asarray(values, np.float64).tolist()
    estimate = Estimate.mean(numbers, groups, name, between=between, space=space)
    return dataclasses.replace(estimate, values=numbers)
