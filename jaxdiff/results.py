"""Results on disk, as the report and the comparisons between models read them. No JAX.

result.json depends on the settings and the seed alone, never on time, host or path: equal runs
write equal bytes. Each of its sections is described by measures/NAME.json beside it.
"""

import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxdiff import files
from jaxdiff import result_schema as schema
from jaxdiff.estimates import Estimate
from jaxdiff.npz import read_npz
from jaxdiff.records import check_records
from jaxdiff.result_types import (
    CellInfo,
    CellResult,
    CheckpointLosses,
    DataKey,
    DepthFigure,
    Result,
    Section,
    SetInfo,
    SetResult,
    StudyResults,
    data_key,
    mixture_key,
)

__all__ = [
    "DIVERGED",
    "SCHEMA",
    "CellInfo",
    "CellResult",
    "CheckpointLosses",
    "DataKey",
    "DepthFigure",
    "Result",
    "Section",
    "SetInfo",
    "SetResult",
    "StudyResults",
    "check_study",
    "collect_sections",
    "data_key",
    "has_diverged_since",
    "list_estimates",
    "mixture_key",
    "read_cells",
    "read_npz",
    "read_sets",
    "read_study",
    "write_npz",
    "write_samples",
]

SCHEMA = 1
NUM_ARCHIVED = 16  # images of each kind in an archive: as many as the report's grids show
DIVERGED = "diverged.json"  # in the folder of a cell whose training ended without a finite loss
Info = TypeVar("Info", CellInfo, SetInfo)
PRECISION = "matmul_precision"  # of the measures; older results have none
NOT_SECTIONS = ("schema", "cell", "set", PRECISION)  # keys of result.json that hold no estimates


def write_npz(path: epath.PathLike, **arrays: np.ndarray) -> None:
    """Write an .npz file atomically; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    files.write(path, buffer.getvalue())


def write_samples(path: epath.PathLike, images: np.ndarray, seeds: np.ndarray) -> None:
    """Write samples.npz.

    Parameters
    ----------
    images
        uint8 [n, height, width, channel], under ``arr_0``, the key that ADM's evaluator reads.
    seeds
        Index of each image in the noise bank.
    """
    write_npz(path, arr_0=np.asarray(images, np.uint8), seeds=np.asarray(seeds, np.int64))


def read_study(workdir: epath.PathLike) -> StudyResults:
    """Read the sets of a folder where it has any, otherwise its finished cells.

    Raises
    ------
    ValueError
        Where neither a set nor a cell is finished, or a file is damaged.
    """
    workdir = epath.Path(workdir)
    check_study(workdir)
    # Older code wrote sets as cells of the same folder, which may still lie there.
    has_sets = bool(_finished_folders(workdir / "sets"))
    return StudyResults(
        cells=() if has_sets else read_cells(workdir),
        sets=read_sets(workdir) if has_sets else (),
        diverged=_read_diverged(workdir),
        settings=schema.read_json(
            workdir / "study.json", schema.SETS_TYPES if has_sets else schema.STUDY_TYPES
        ),
        comparisons=_read_or_nothing(
            workdir / "shared" / "comparisons.json", schema.COMPARISON_TYPES
        ),
        confusion=_read_or_nothing(workdir / "shared" / "confusion.json", schema.CONFUSION_TYPES),
    )


def list_estimates(result: Mapping[str, Any]) -> list[tuple[str, Estimate]]:
    """Every estimate of a result.json, with the name of its section."""
    return [
        (section, Estimate.from_json(entry))
        for section in result
        if section not in NOT_SECTIONS
        for entry in result[section]
    ]


def check_study(workdir: epath.PathLike) -> None:
    """Check that the files of a folder's results are as the run wrote them.

    Raises
    ------
    ValueError
        Naming the first file that was changed or is gone.
    """
    workdir = epath.Path(workdir)
    finished = (_finished_folders(workdir / name) for name in ("cells", "sets"))
    for folder in (workdir, workdir / "shared", *itertools.chain(*finished)):
        check_records(folder)


def read_cells(workdir: epath.PathLike) -> list[CellResult]:
    """Read every finished cell of a study, by name.

    Raises
    ------
    ValueError
        Where no cell is finished, or a file is damaged.
    """
    folders = _finished_folders(epath.Path(workdir) / "cells")
    if not folders:
        raise ValueError(
            f"{workdir} holds no finished cell; run python -m experiments.sweep there first"
        )
    return [_read_cell(folder) for folder in folders]


def read_sets(workdir: epath.PathLike) -> list[SetResult]:
    """Read every set of images that experiments.evaluate has measured, in their order.

    Raises
    ------
    ValueError
        Where there is none, or a file is damaged.
    """
    folders = _finished_folders(epath.Path(workdir) / "sets")
    if not folders:
        raise ValueError(
            f"{workdir} holds no measured set; run python -m experiments.evaluate there first"
        )
    return sorted(map(_read_set, folders), key=lambda result: result.info.position)


def collect_sections(results: Sequence[Result]) -> list[Section]:
    """Every section of some results with its estimates, by name.

    Raises
    ------
    ValueError
        Where a result has estimates without a description of them.
    """
    sections: dict[str, Section] = {}
    for result in results:
        for name, estimates in result.sections.items():
            if not estimates:  # undefined for these images, such as a share without classes
                continue
            if name not in result.descriptions:
                raise ValueError(_describe_missing_section(result, name))
            section = sections.setdefault(name, result.descriptions[name])
            by_result = {**section.estimates, result.name: estimates}
            sections[name] = dataclasses.replace(section, estimates=by_result)
    return [sections[name] for name in sorted(sections)]


def _describe_missing_section(result: Result, section: str) -> str:
    return (
        f"{result.name} must describe {section!r} in measures/{section}.json, which older code did "
        "not; run the command that wrote it again: a sweep keeps the training and measures anew"
    )


def _finished_folders(root: epath.Path) -> list[epath.Path]:
    return [folder for folder in _list_folders(root) if (folder / "result.json").exists()]


def _list_folders(root: epath.Path) -> list[epath.Path]:
    return sorted(root.iterdir(), key=lambda path: path.name) if root.exists() else []


def _read_diverged(workdir: epath.Path) -> tuple[CellInfo, ...]:
    """The cells that have diverged and were not trained since."""
    return tuple(
        _read_info(CellInfo, folder / DIVERGED, files.read_json(folder / DIVERGED).get("cell"))
        for folder in _list_folders(workdir / "cells")
        if (folder / DIVERGED).exists() and not (folder / "result.json").exists()
    )


def has_diverged_since(folder: epath.Path, begun: float) -> bool:
    """Whether a cell's training has ended without a finite loss after a time, in Unix seconds."""
    path = folder / DIVERGED
    return path.exists() and files.read_json(path).get("written", 0.0) > begun


def _read_or_nothing(path: epath.Path, types: Mapping[str, Any]) -> dict[str, Any]:
    return schema.read_json(path, types) if path.exists() else {}


def _read_cell(folder: epath.Path) -> CellResult:
    result = files.read_json(folder / "result.json")
    probe_file = folder / "probe.json"
    return CellResult(
        info=_read_info(CellInfo, folder / "result.json", result.get("cell", {})),
        config=schema.read_json(folder / "config.json", schema.CONFIG_TYPES),
        metrics=schema.read_metrics(folder / "metrics.jsonl"),
        probe=schema.read_probe(probe_file) if probe_file.exists() else [],
        losses=_read_losses(folder / "losses.npz"),
        run=schema.read_json(folder / "run.json", schema.CELL_RUN_TYPES),
        **_read_common_fields(folder, result),
    )


def _read_set(folder: epath.Path) -> SetResult:
    result = files.read_json(folder / "result.json")
    info = _read_info(SetInfo, folder / "result.json", result.get("set", {}))
    run = schema.read_json(folder / "run.json", schema.RUN_TYPES)
    return SetResult(info=info, run=run, **_read_common_fields(folder, result))


def _read_common_fields(folder: epath.Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that cells and sets share."""
    # measures/ may hold more than result.json: measures that the settings no longer ask for.
    names = [name for name in result if name not in NOT_SECTIONS]
    schema.check_types(folder / "result.json", result, {"schema": int, PRECISION: str})
    samples = _read_images(folder / "samples.npz", "arr_0", 4)
    common = _read_images(folder / "common.npz", "arr_0", 4, samples[:0])
    classes = _read_arrays(folder / "classes.npz")
    labels = classes.get("label", np.full(len(samples), -1))
    common_labels = classes.get("common", np.full(len(common), -1))
    for array, images in ((labels, samples), (common_labels, common)):
        # An archive of results has the classes of all images and only the first images.
        is_whole = array.shape == (len(images),)
        is_archived = array.ndim == 1 and len(images) == NUM_ARCHIVED < len(array)
        if not (is_whole or is_archived) or array.dtype.kind not in "iu":
            raise ValueError(
                f"{folder / 'classes.npz'} must hold a class for each of {len(samples)} samples "
                f"and {len(common)} common ones, got {array.dtype} {array.shape}; {schema.REPAIR}"
            )
    return {
        "name": folder.name,
        "sections": {name: _read_estimates(folder, name, result[name]) for name in names},
        "descriptions": _read_descriptions(folder / "measures", names),
        "samples": samples,
        "labels": labels,
        "common": common,
        "common_labels": common_labels,
        # Where the file is missing, none: an array [0, 1, height, width, channel].
        "nearest": _read_images(folder / "neighbors.npz", "images", 5, samples[:0, None]),
        "precision": result.get(PRECISION, ""),
    }


def _read_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    return read_npz(path) if path.exists() else {}


def _read_images(
    path: epath.Path, key: str, ndim: int, default: np.ndarray | None = None
) -> UInt8[np.ndarray, "..."]:
    """Images in an .npz file, which only those with a default may lack."""
    if default is not None and not path.exists():
        return default
    images = read_npz(path).get(key)
    is_images = images is not None and images.dtype == np.uint8 and images.ndim == ndim
    if images is None or not is_images or not images.size or images.shape[-1] not in (1, 3):
        about = "none" if images is None else f"{images.dtype} {images.shape}"
        raise ValueError(
            f"{path} must hold images (uint8, {ndim} axes, the last of 1 or 3) under {key}, got "
            f"{about}; {schema.REPAIR}"
        )
    if default is not None and images.shape[-3:] != default.shape[-3:]:
        raise ValueError(
            f"{path} must hold images like those of samples.npz, {default.shape[-3:]}, got "
            f"{images.shape[-3:]}; {schema.REPAIR}"
        )
    return images


def _read_losses(path: epath.Path) -> CheckpointLosses | None:
    if not path.exists():
        return None
    arrays = read_npz(path)
    names = {field.name for field in dataclasses.fields(CheckpointLosses)}
    if arrays.keys() == names:
        levels = (*arrays["steps"].shape, *arrays["t"].shape)
        losses = [arrays["train"], arrays["unseen"]]
        is_whole = all(arrays[name].dtype.kind in "iu" for name in ("steps", "t"))
        is_real = all(array.dtype.kind == "f" and array.ndim == 3 for array in losses)
        # An archive of results has the means over levels.
        shapes = (levels, (*arrays["steps"].shape, 1))
        if is_whole and is_real and all(array.shape[:2] in shapes for array in losses):
            return CheckpointLosses(**arrays)
    raise ValueError(
        f"{path} must hold {', '.join(sorted(names))}, losses by checkpoint, level and image; "
        f"{schema.REPAIR}"
    )


def _read_info(kind: type[Info], path: epath.Path, values: Any) -> Info:
    error = f"got {values!r}"
    if isinstance(values, Mapping):
        try:
            info = kind.from_json(values)
        except ValueError as type_error:
            error = str(type_error)
        else:
            shares = info.proportions
            if len(shares) in (0, 2) and all(0 <= share <= 1 for share in shares):
                return info
            error = f"the shares of its two classes are {shares}"
    raise ValueError(f"{path} must say what was measured ({error}); {schema.REPAIR}")


def _read_estimates(folder: epath.Path, section: str, entries: Any) -> tuple[Estimate, ...]:
    schema.check_estimates(folder / "result.json", section, entries)
    return tuple(Estimate.from_json(entry) for entry in entries)


def _read_descriptions(folder: epath.Path, names: Sequence[str]) -> dict[str, Section]:
    descriptions = {}
    for name in names:
        values = _read_or_nothing(folder / f"{name}.json", schema.SECTION_TYPES)
        if "title" in values:
            descriptions[name] = Section.from_json({"name": name, **values})
    return descriptions
