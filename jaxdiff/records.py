"""Records of what a run wrote: the checksums of files by which changed ones are noticed. No JAX.

A record is stages/NAME.json in the folder of the files: {"inputs": ..., "outputs": {path:
SHA-256}, "written": time}, and of a stage the "seconds" that it took. It is removed, or names no
outputs, before its files are written anew and is written after them, so that files without a record
are unfinished, and no process takes them for changed ones.
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from jaxdiff import files

COMMAND = "the command that wrote it"  # the reports' own command writes none of these files
CHECKPOINTS = "checkpoints/"  # large, checked by their own manifests, and often left behind


def write_record(
    folder: epath.Path,
    name: str,
    outputs: Sequence[str],
    inputs: str = "",
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Record the checksums of files and folders, by their path in `folder`.

    Parameters
    ----------
    seconds
        What making them took, by part (see `jaxdiff.timing`).
    """
    path = folder / "stages" / f"{name}.json"
    record: dict[str, Any] = {
        "inputs": inputs,
        "outputs": files.checksums(folder, outputs),
        "written": time.time(),
    }
    if seconds is not None:
        record["seconds"] = {part: round(value, 2) for part, value in seconds.items()}
    files.write_json(path, record)


def remove_record(folder: epath.Path, name: str) -> None:
    """Remove a record, before its files are written anew."""
    (folder / "stages" / f"{name}.json").unlink(missing_ok=True)


def read_record(folder: epath.Path, name: str) -> dict[str, Any]:
    """The record of this name; empty where there is none, or a damaged one."""
    try:
        return files.read_json(folder / "stages" / f"{name}.json")
    except (FileNotFoundError, ValueError):
        return {}


def is_written_since(folder: epath.Path, name: str, begun: float) -> bool:
    """Whether there is a record of outputs that was written after a time, in seconds since 1970."""
    record = read_record(folder, name)
    return bool(record.get("outputs")) and _read_time(record) > begun


def _read_time(record: Mapping[str, Any]) -> float:
    """When a record was written; 0 in older ones, which do not say it."""
    written = record.get("written", 0.0)
    return float(written) if isinstance(written, int | float) else 0.0


def read_seconds(folder: epath.Path, name: str) -> dict[str, float]:
    """What a stage took, by part; empty where its record does not say."""
    seconds = read_record(folder, name).get("seconds")
    if not isinstance(seconds, dict):
        return {}
    is_number = all(isinstance(value, int | float) for value in seconds.values())
    return seconds if is_number and math.isfinite(sum(seconds.values())) else {}


def check_records(folder: epath.Path, names: Sequence[str] | None = None) -> None:
    """Check that files are as the run wrote them.

    Parameters
    ----------
    folder
        Holds the files and their records.
    names
        Names of the records; by default all that there are.

    Raises
    ------
    ValueError
        Naming the first file that was changed or is gone.
    """
    digests = _read_digests(folder, names)
    for output, known in digests.items():
        change = _find_change(folder / output, known)
        # Another process may have begun to write the file anew, with another record or none.
        if change and _read_digests(folder, names).get(output) == known:
            raise ValueError(change)


def _find_change(path: epath.Path, known: Collection[str]) -> str:
    """What has become of a file that had one of these checksums; empty where nothing has."""
    try:
        if files.sha256(path) in known:
            return ""
    except FileNotFoundError:
        return f"{path} is gone; put it back, or run {COMMAND} again"
    return (
        f"{path} was changed after the run wrote it; put it back, or delete it and run "
        f"{COMMAND} again, which writes it anew"
    )


def _read_digests(folder: epath.Path, names: Sequence[str] | None) -> dict[str, set[str]]:
    """The checksums that records know of each file, but of checkpoints."""
    if names is None:
        root = folder / "stages"
        paths = sorted(root.iterdir(), key=lambda path: path.name) if root.exists() else []
        names = [path.stem for path in paths if path.suffix == ".json"]
    digests: dict[str, set[str]] = {}
    # Where a stage was renamed two records name a file, and the older one is of no account.
    for name in names:
        for output, digest in _read_outputs(folder, name).items():
            if not output.startswith(CHECKPOINTS):
                digests.setdefault(output, set()).add(digest)
    return digests


def _read_outputs(folder: epath.Path, name: str) -> dict[str, str]:
    """The checksums of a record, of which a damaged one is named."""
    path = folder / "stages" / f"{name}.json"
    try:
        outputs: Any = files.read_json(path).get("outputs")
    except FileNotFoundError:
        return {}
    is_record = isinstance(outputs, dict) and all(
        isinstance(digest, str) and _is_inside(output) for output, digest in outputs.items()
    )
    if not is_record:
        raise ValueError(
            f"{path} must hold the checksums of files beside it under 'outputs'; delete it and run "
            f"{COMMAND} again"
        )
    return outputs


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
