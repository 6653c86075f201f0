"""Stable Diffusion with the mid-block bypassed by a fraction, from files to files: how alike its pictures become.

Prompts that differ may begin to give the same picture because the text is no longer followed. So the same measures are
taken, without bypassing, at smaller scales of classifier-free guidance: the control.
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
from jaxtyping import ArrayLike, Float, UInt8
from PIL import Image

from jaxdiff import diffusers_scheduler, files, samplers
from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.estimates import mean_t
from jaxdiff.features import extractors as spaces
from jaxdiff.features.perceptual import SMALLEST
from jaxdiff.measures.lpips import LPIPS
from jaxdiff.progress import Progress
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pipeline import (
    Pipeline,
    TextToImagePipeline,
    check_size,
    image_size,
)
from jaxdiff.study import stages
from jaxdiff.unet import Bypassed

Row = dict[str, Any]
Pictures = UInt8[np.ndarray, "prompt seed height width channel"]
LARGE = 256  # pixels on a side from which on LPIPS takes two pairs at a time: its features are 30 million numbers an image


def points(s: Row) -> list[Row]:
    """Nothing bypassed, the control, then each form's fractions: so that one form's program is in memory at a time."""
    plain = [
        {"form": "", "p": 0.0, "guidance": float(g)}
        for g in dict.fromkeys((s["guidance"], *s["guidances"]))
    ]
    forms = [
        {"form": form, "p": p, "guidance": float(s["guidance"])}
        for form in s["forms"]
        for p in s["fractions"]
        if p > 0
    ]
    return plain + forms


def check(paths: Mapping[str, epath.Path], s: Row) -> None:
    """Raise ValueError where a folder is no whole Stable Diffusion 1 pipeline, or cannot draw what the settings ask for."""
    for path in paths.values():
        folders.check(path)
        _, unet, vae = folders.abstract(path)
        scheduler = folders.scheduler(path)
        size = s["size"] or max(image_size(unet, vae))
        check_size(unet, vae, (size, size))
        samplers.timesteps(diffusers_scheduler.schedule(scheduler), s["steps"])
        for form in s["forms"]:
            Bypassed(
                unet,
                0.0,
                scheduler["num_train_timesteps"],
                form=form,
                window=s["window"],
                ramp=s["ramp"],
            )
        if size < SMALLEST[s["lpips"]]:
            raise ValueError(
                f"config.lpips is {s['lpips']}, which needs {SMALLEST[s['lpips']]} px; the pictures have {size}"
            )


def run(
    paths: Mapping[str, epath.Path], settings: Row, workdir: epath.Path, progress: Progress
) -> dict[str, Row]:
    """What bypass.json has of each pipeline by name; every picture as a PNG under workdir/pictures."""
    todo, found = points(settings), {}
    for i, (name, path) in enumerate(paths.items()):
        progress("checksums", i, len(paths), name)
        inputs = {"model": _identity(path), "settings": _own(settings)}
        pipeline = functools.cache(functools.partial(Pipeline.load, path))
        painters: dict[str, TextToImagePipeline] = {}
        rows: list[Row] = []
        for j, point in enumerate(todo):
            note = f"{name} {point['form']} {point['p']:g} guidance {point['guidance']:g}"
            progress("pictures", i * len(todo) + j, len(paths) * len(todo), note)
            part = f"{name}-" + (
                f"{point['form']}-{point['p']:g}"
                if point["form"]
                else f"guidance-{point['guidance']:g}"
            )
            outputs = (
                f"parts/{part}.json",
                *(f"pictures/{part}/{png}" for png in _names(settings)),
            )
            make = functools.partial(_write, pipeline, painters, point, settings, workdir, part)
            stages.stage(workdir, part, inputs | point, outputs, make)
            rows += [point | row for row in files.read_json(workdir / outputs[0])["rows"]]
        found[name] = {"kind": "pictures", "rows": rows, "files": _names(settings), "points": todo,
                       **{key: settings[key] for key in ("prompts", "seeds", "guidance")}}  # fmt: skip
    if paths:
        progress("checksums", len(paths), len(paths), "")
        progress("pictures", len(paths) * len(todo), len(paths) * len(todo), "")
    return found


def _identity(path: epath.Path) -> dict[str, str]:
    """Checksums of the weights that are read, and of the parts' settings and words."""
    small = [
        file
        for part in folders.PARTS
        for file in files.walk(path / part)
        if file.suffix in (".json", ".txt")
    ]
    kept = [file.relative_to(path).as_posix() for file in (*folders.weights_files(path), *small)]
    return files.checksums(path, sorted(kept))


def _own(settings: Row) -> Row:
    """What every point depends on."""
    keys = ("window", "ramp", "prompts", "negative", "seeds", "steps", "size", "lpips", "space")
    return {key: settings[key] for key in keys} | {
        "inception": files.sha256(settings["inception"]) if settings["inception"] else ""
    }


def _names(settings: Row) -> list[str]:
    """A file a prompt and seed, prompts first."""
    slugs = [
        re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "nothing"
        for prompt in settings["prompts"]
    ]
    return [
        f"{i}-{slug}-seed{seed}.png" for i, slug in enumerate(slugs) for seed in settings["seeds"]
    ]


def _painter(
    pipeline: Callable[[], Pipeline], painters: dict[str, TextToImagePipeline], s: Row, form: str
) -> TextToImagePipeline:
    """Of this form; that of another is let go first."""
    if form not in painters:
        painters.clear()
        size = (s["size"], s["size"]) if s["size"] else None
        chosen: Any = form or None
        painters[form] = TextToImagePipeline(
            pipeline(),
            steps=s["steps"],
            form=chosen,
            window=s["window"],
            ramp=s["ramp"],
            size=size,
            batch=s["batch"],
        )
    return painters[form]


def _write(
    pipeline: Callable[[], Pipeline],
    painters: dict[str, TextToImagePipeline],
    point: Row,
    s: Row,
    workdir: epath.Path,
    part: str,
) -> None:
    paint, shape = (
        _painter(pipeline, painters, s, point["form"]),
        (len(s["prompts"]), len(s["seeds"])),
    )
    latents = np.tile(paint.latents(s["seeds"]), (shape[0], 1, 1, 1))
    prompts = [prompt for prompt in s["prompts"] for _ in s["seeds"]]
    drawn = to_uint8(
        paint(
            prompts,
            latents,
            guidance=point["guidance"],
            fraction=point["p"],
            negative=s["negative"],
        )
    )
    for name, picture in zip(_names(s), drawn, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        files.write(workdir / "pictures" / part / name, buffer.getvalue())
    rows = likeness(
        drawn.reshape(*shape, *drawn.shape[1:]), s["lpips"], s["space"], s["inception"] or None
    )
    files.write_json(workdir / "parts" / f"{part}.json", {"rows": rows})


def likeness(pictures: Pictures, net: str, space: str, inception: str | None = None) -> list[Row]:
    """Mean LPIPS and mean cosine similarity of features over the pairs of prompts at one seed, and of seeds at one prompt.

    Intervals are over the seeds (the prompts): t, 95 %; there is none where there is but one.
    """
    batch = 2 if max(pictures.shape[2:4]) >= LARGE else 16
    lpips, features = (
        LPIPS.load(net),
        dataclasses.replace(spaces.space(space, inception), batch=batch),
    )
    flat = features(pictures.reshape(-1, *pictures.shape[2:]))
    flat = (flat / np.linalg.norm(flat, axis=1, keepdims=True)).reshape(*pictures.shape[:2], -1)
    rows = []
    for between, images, vectors in (
        ("prompts", pictures.swapaxes(0, 1), flat.swapaxes(0, 1)),
        ("seeds", pictures, flat),
    ):
        pairs = list(itertools.combinations(range(images.shape[1]), 2))
        if not pairs:
            continue
        left, right = (list(side) for side in zip(*pairs, strict=True))
        cosines = np.einsum("gpd,gpd->gp", vectors[:, left], vectors[:, right]).mean(axis=1)
        apart = np.array(
            [lpips.distance(to_float(g[left]), to_float(g[right]), batch).mean() for g in images]
        )
        rows.append(_row("lpips", between, apart) | {"space": lpips.space})
        rows.append(_row("cosine", between, cosines) | {"space": features.name})
    return rows


def _row(name: str, between: str, found: Float[ArrayLike, " group"]) -> Row:
    values = np.asarray(found, np.float64).tolist()
    mean, low, high = mean_t(values) or (values[0], None, None)
    over = "seeds" if between == "prompts" else "prompts"
    return {"measure": "likeness", "name": name, "between": between, "value": mean, "low": low, "high": high, "n": len(values),
            "values": values, "interval": f"t 95 % over {over}" if low is not None else "none"}  # fmt: skip
