"""What a cell leaves behind: result.json and samples.npz, and the study's own files. No JAX.

result.json depends on the settings and the seed alone, never on time, host or path: equal runs, equal bytes.
"""

import dataclasses
import io
import json
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int, UInt8

from jaxdiff import files

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class CellResult:
    """A finished cell as the report reads it."""

    name: str
    result: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, Any]
    metrics: list[dict[str, float]]
    samples: UInt8[np.ndarray, "n height width channel"]
    labels: Int[np.ndarray, " n"]
    common: UInt8[
        np.ndarray, "m height width channel"
    ]  # from the bank that all seeds share; none, where none was drawn
    common_labels: Int[np.ndarray, " m"]
    nearest: UInt8[
        np.ndarray, "l k height width channel"
    ]  # the first samples' nearest training images
    probe: list[dict[str, Any]] = dataclasses.field(
        default_factory=list
    )  # the curvature at single points

    @property
    def own(self) -> dict[str, Any]:
        """What the cell is: model, depth, proportions, seed and so on."""
        return self.result["cell"]


def write_npz(path: epath.PathLike, **arrays: np.ndarray) -> None:
    """An .npz file, written atomically; equal arrays, equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    files.write(path, buffer.getvalue())


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; nothing but arrays is read."""
    with (
        epath.Path(path).open("rb") as file,
        np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays,
    ):
        return dict(arrays)


def write_samples(path: epath.PathLike, images: np.ndarray, seeds: np.ndarray) -> None:
    """samples.npz: arr_0 uint8 [N, H, W, C] (the key that ADM's evaluator reads) and each image's index in the noise bank."""
    write_npz(path, arr_0=np.asarray(images, np.uint8), seeds=np.asarray(seeds, np.int64))


def read_cells(workdir: epath.PathLike) -> list[CellResult]:
    """Every finished cell under a study's folder, by name. Raises ValueError where there is none."""
    root = epath.Path(workdir) / "cells"
    folders = sorted(root.iterdir(), key=lambda path: path.name) if root.exists() else []
    cells = [_read_cell(folder) for folder in folders if (folder / "result.json").exists()]
    if not cells:
        raise ValueError(
            f"{workdir} holds no finished cell; run python -m experiments.sweep there first"
        )
    return cells


def _read_cell(folder: epath.Path) -> CellResult:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    samples, classes = read_npz(folder / "samples.npz")["arr_0"], read_npz(folder / "classes.npz")
    common = (
        read_npz(folder / "common.npz")["arr_0"]
        if (folder / "common.npz").exists()
        else samples[:0]
    )
    return CellResult(
        folder.name, files.read_json(folder / "result.json"), files.read_json(folder / "config.json"),
        files.read_json(folder / "run.json"), [json.loads(line) for line in lines],
        samples, classes["label"], common, classes.get("common", classes["label"][:0]),
        read_npz(folder / "neighbors.npz")["images"] if (folder / "neighbors.npz").exists() else samples[:0, None],
        files.read_json(folder / "probe.json")["rows"] if (folder / "probe.json").exists() else [],
    )  # fmt: skip
