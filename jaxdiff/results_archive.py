"""The results of a study in one small file, to publish or to merge with those of another machine.

Unpacked, the archive is a folder from which experiments.report draws the claims, figures and tables
of the study. It has no weights, the first NUM_IMAGES images of each kind, and no name or path of
the machine. No JAX.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.npz import read_npz
from jaxdiff.results import DIVERGED, check_study

NUM_IMAGES = 16  # of a cell and kind: as many as the report's grids show
JSON_FILES = ("config.json", "result.json", "run.json", "probe.json")
WHOLE_FILES = ("metrics.jsonl", "losses.npz", "classes.npz")
IMAGE_FILES = ("samples.npz", "common.npz", "neighbors.npz")
PLACES = ("dir", "cache", "weights_dir", "host")  # keys of JSON files that name a machine's own
COMPARISONS = "shared/comparisons.json"
PAIR = ("kind", "a", "b")  # what tells compared pairs apart
FIRST_TIME = (1980, 1, 1, 0, 0, 0)  # of zip: equal results give equal bytes

Members = dict[str, bytes]


def add_to_archive(workdir: epath.PathLike, path: epath.PathLike) -> int:
    """Write the results of a folder into an archive, beside those that it holds already.

    Cells that the archive has already are replaced. What was measured over the seeds of a whole
    study is left out where the archive has other cells than the folder.

    Parameters
    ----------
    workdir
        Folder of a study or an evaluation.
    path
        The .zip file, which may exist.

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
    new = dict(_collect_members(workdir))
    if not _find_finished(new):
        raise ValueError(
            f"{workdir} holds no finished cell or set; run python -m experiments.sweep there first"
        )
    members = _merge(_read_archive(path), new, path) if path.exists() else new
    files.write(path, _pack(members))
    return len(_find_finished(members))


def _collect_members(workdir: epath.Path) -> Iterator[tuple[str, bytes]]:
    """What the report reads of a folder, by path."""
    for name in ("study.json", "shared/confusion.json", COMPARISONS):
        if (workdir / name).exists():
            yield name, _read_json(workdir / name)
    for kind in ("cells", "sets"):
        for result in sorted(workdir.glob(f"{kind}/*/result.json")):
            for name, content in _collect_result(result.parent):
                yield f"{kind}/{result.parent.name}/{name}", content
    for path in sorted(workdir.glob(f"cells/*/{DIVERGED}")):
        yield f"cells/{path.parent.name}/{DIVERGED}", _read_json(path)


def _collect_result(folder: epath.Path) -> Iterator[tuple[str, bytes]]:
    for name in (
        *JSON_FILES,
        *(f"measures/{path.name}" for path in folder.glob("measures/*.json")),
    ):
        if (folder / name).exists():
            yield name, _read_json(folder / name)
    for name in WHOLE_FILES:
        if (folder / name).exists():
            yield name, (folder / name).read_bytes()
    for name in IMAGE_FILES:
        if (folder / name).exists():
            yield name, _cut_arrays(folder / name)


def _read_json(path: epath.Path) -> bytes:
    content = _without_places(files.read_json(path))
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _without_places(value: Any) -> Any:
    """The same, with an empty text for what names a folder or a machine."""
    if isinstance(value, Mapping):
        return {k: "" if k in PLACES else _without_places(value[k]) for k in value}
    return [_without_places(item) for item in value] if isinstance(value, list) else value


def _cut_arrays(path: epath.Path) -> bytes:
    arrays: Any = {name: array[:NUM_IMAGES] for name, array in read_npz(path).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _merge(old: Members, new: Members, path: epath.Path) -> Members:
    if old.get("study.json") != new.get("study.json"):
        raise ValueError(
            f"{path} holds the results of a study with other settings; choose another --archive"
        )
    replaced = _find_finished(new)
    kept = {name: content for name, content in old.items() if _folder_of(name) not in replaced}
    if _find_finished(kept) and COMPARISONS in kept.keys() | new.keys():
        new = new | {COMPARISONS: _merge_comparisons(kept, new)}
    return kept | new


def _merge_comparisons(old: Members, new: Members) -> bytes:
    """The compared pairs of both."""
    earlier, later = (json.loads(members.get(COMPARISONS, b"{}")) for members in (old, new))
    merged: dict[str, list[Any]] = {"bias_variance": []}
    for section in ("flips", "similarity"):
        rows = later.get(section, [])
        pairs = {tuple(row[key] for key in PAIR) for row in rows}
        kept = [
            row for row in earlier.get(section, []) if tuple(row[key] for key in PAIR) not in pairs
        ]
        merged[section] = [*kept, *rows]
    return (json.dumps(merged, indent=1, sort_keys=True) + "\n").encode()


def _find_finished(members: Mapping[str, bytes]) -> set[str]:
    """The folders of cells and sets with a result."""
    return {_folder_of(name) for name in members if name.endswith("/result.json")}


def _folder_of(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[:2])


def _read_archive(path: epath.Path) -> Members:
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"{path} must be an archive of results that can be read ({error}); remove it or choose "
            "another --archive"
        ) from None


def _pack(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, FIRST_TIME)
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
