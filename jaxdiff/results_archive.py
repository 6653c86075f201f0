"""The results of a study in one small file, to publish or to collect from several machines.

Unpacked, the archive is a folder from which experiments.report draws the claims, figures and tables
of the study. It is a .tar.xz file without weights, with the first NUM_ARCHIVED images of each
kind and, of the losses of single images, their means over noise levels. No JAX.
"""

import io
import json
import lzma
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, results
from jaxdiff.npz import DAMAGES, read_npz
from jaxdiff.results import DIVERGED, check_study

SUFFIX = ".tar.xz"
STUDY = "study.json"
COMPARISONS = "shared/comparisons.json"
CONFUSION = "shared/confusion.json"
JSON_FILES = ("config.json", "result.json", "run.json", "probe.json")
METRICS = "metrics.jsonl"
# Settings and facts that name a machine or its folders.
PLACES = ("data.dir", "data.cache", "measures.weights_dir", "measures.inception", "host")
# Settings in which the parts of one study may differ: seeds that were added, and how it is run.
FREE_SETTINGS = ("parallel", "plugins", "seeds", "track")
PAIR = ("kind", "a", "b")  # what tells compared pairs apart

Members = dict[str, bytes]
Arrays = Mapping[str, np.ndarray]


def add_to_archive(workdir: epath.PathLike, path: epath.PathLike) -> int:
    """Write the results of a folder into an archive, beside those that it holds already.

    Cells that the archive has already are replaced. Where it has others than the folder, only pairs
    of cells of one folder are compared on the same noise, what is measured over all seeds of a
    study is left out, and the classifiers' own figures are those of the folder that was added last.

    Parameters
    ----------
    workdir
        Folder of a study or an evaluation.
    path
        The file, which may exist.

    Returns
    -------
    count
        The number of cells or sets that the archive has now.

    Raises
    ------
    ValueError
        Where nothing is finished, a file is damaged, or the archive is of another study.
    """
    workdir = epath.Path(workdir)
    path = epath.Path(path)
    check_study(workdir)
    members = dict(_collect_members(workdir))
    if not _find_finished(members):
        raise ValueError(
            f"{workdir} holds no finished cell or set; run python -m experiments.sweep there first"
        )
    if path.exists():
        members = _merge(_read_archive(path), members, path)
    files.write(path, _pack(members))
    return len(_find_finished(members))


def _collect_members(workdir: epath.Path) -> Iterator[tuple[str, bytes]]:
    """What the report reads of a folder, by path."""
    for name in (STUDY, CONFUSION, COMPARISONS):
        if (workdir / name).exists():
            yield name, _read_json(workdir / name)
    for kind in ("cells", "sets"):
        for path in sorted(workdir.glob(f"{kind}/*/result.json")):
            for name, content in _collect_result(path.parent):
                yield f"{kind}/{path.parent.name}/{name}", content
    for path in sorted(workdir.glob(f"cells/*/{DIVERGED}")):
        yield f"cells/{path.parent.name}/{DIVERGED}", _read_json(path)


def _collect_result(folder: epath.Path) -> Iterator[tuple[str, bytes]]:
    measures = sorted(f"measures/{path.name}" for path in folder.glob("measures/*.json"))
    for name in (*JSON_FILES, *measures):
        if (folder / name).exists():
            yield name, _read_json(folder / name)
    if (folder / METRICS).exists():
        yield METRICS, (folder / METRICS).read_bytes()
    for name, reduce in REDUCED_FILES.items():
        if (folder / name).exists():
            yield name, _save_arrays(reduce(read_npz(folder / name)))


def _read_json(path: epath.Path) -> bytes:
    return files.to_json(_without_places(files.read_json(path))).encode()


def _without_places(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with an empty text for what names a machine or its folders."""
    cleaned = dict(content)
    for place in PLACES:
        section, _, key = place.rpartition(".")
        part = cleaned.get(section) if section else cleaned
        if isinstance(part, Mapping) and key in part:
            blank = {**part, key: ""}
            cleaned = {**cleaned, section: blank} if section else blank
    return cleaned


def _take_first(arrays: Arrays) -> Arrays:
    return {name: array[: results.NUM_ARCHIVED] for name, array in arrays.items()}


def _take_nearest(arrays: Arrays) -> Arrays:
    """The nearest image of each of the first samples."""
    return {"images": arrays["images"][: results.NUM_ARCHIVED, :1]}


def _take_labels(arrays: Arrays) -> Arrays:
    return {name: arrays[name].astype(np.int16) for name in ("label", "common") if name in arrays}


def _average_levels(arrays: Arrays) -> Arrays:
    """The mean loss of each image over noise levels, by which alone models are compared."""
    means = {
        name: arrays[name].mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        for name in ("train", "unseen")
    }
    return {**arrays, **means}


# What is kept of the arrays of a file.
REDUCED_FILES: dict[str, Callable[[Arrays], Arrays]] = {
    "samples.npz": _take_first,
    "common.npz": _take_first,
    "neighbors.npz": _take_nearest,
    "classes.npz": _take_labels,
    "losses.npz": _average_levels,
}


def _save_arrays(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    # They are compressed with all others, which takes less space.
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _merge(old: Members, new: Members, path: epath.Path) -> Members:
    """The new results, and what an archive has of other cells or sets."""
    _check_same_study(old, new, path)
    replaced = _find_finished(new)
    kept = {
        name: content
        for name, content in old.items()
        if name.startswith(("cells/", "sets/")) and _folder_of(name) not in replaced
    }
    comparisons = {COMPARISONS: _merge_comparisons(old, new)} if _find_finished(kept) else {}
    return kept | new | comparisons


def _check_same_study(old: Members, new: Members, path: epath.Path) -> None:
    before, after = (_fixed_settings(members) for members in (old, new))
    if before != after:
        difference = files.difference(before, after, "study")
        raise ValueError(
            f"{path} holds the results of a study with other settings ({difference}); choose "
            "another --archive"
        )


def _fixed_settings(members: Members) -> dict[str, Any]:
    settings = json.loads(members[STUDY])
    return {key: settings[key] for key in settings if key not in FREE_SETTINGS}


def _merge_comparisons(old: Members, new: Members) -> bytes:
    """The compared pairs of both, of which the new ones replace those of the same cells."""
    earlier, later = (json.loads(members.get(COMPARISONS, b"{}")) for members in (old, new))
    replaced = {folder.partition("/")[2] for folder in _find_finished(new)}
    merged: dict[str, list[Any]] = {"bias_variance": []}
    for section in ("flips", "similarity"):
        pairs = earlier.get(section, [])
        kept = [row for row in pairs if not replaced & {row["a"], row["b"]}]
        rows = [*kept, *later.get(section, [])]
        merged[section] = sorted(rows, key=lambda row: [row[key] for key in PAIR])
    return files.to_json(merged).encode()


def _find_finished(members: Collection[str]) -> set[str]:
    """The folders of cells and sets with a result."""
    return {_folder_of(name) for name in members if name.endswith("/result.json")}


def _folder_of(name: str) -> str:
    return "/".join(name.split("/")[:2])


def _read_archive(path: epath.Path) -> Members:
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:xz") as archive:
            members = dict(_read_members(archive))
    except (*DAMAGES, lzma.LZMAError, tarfile.TarError) as error:
        raise ValueError(
            f"{path} must be an archive of results ({error}); choose another --archive"
        ) from None
    if STUDY not in members:
        raise ValueError(
            f"{path} must be an archive of results, and has no {STUDY}; choose another --archive"
        )
    return members


def _read_members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for entry in archive:
        file = archive.extractfile(entry)
        if file is not None:  # no folder
            yield entry.name, file.read()


def _pack(members: Members) -> bytes:
    """The file's bytes, which are equal for equal results: its entries have no time and owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            archive.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()
