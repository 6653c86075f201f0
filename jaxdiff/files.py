"""Bytes on disk: atomic writes and checksums, for local paths and buckets; no JAX."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

BLOCK_BYTES = 1 << 20  # read at once when a file is hashed


def is_in_bucket(path: epath.PathLike) -> bool:
    """Whether a path is an address of an object store, such as gs:// or s3://.

    Its files are objects, which can neither grow nor be created exclusively.
    """
    return "://" in os.fspath(path)


def write(path: epath.PathLike, data: bytes | str) -> None:
    """Write a file atomically, and create its folder where that is missing.

    Parameters
    ----------
    path
        Local path, or anything else that etils.epath knows.
    data
        Bytes, or text that is written as UTF-8.

    Raises
    ------
    OSError
        Where the folder cannot be created or written.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A rename within one folder is atomic: readers see the old file or the new one.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_bytes(data if isinstance(data, bytes) else data.encode())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # The name that the caller gave, in place of the temporary one.
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise


def to_json(value: object) -> str:
    """JSON that has the same bytes for equal values: sorted keys, no NaN."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: epath.PathLike, value: object) -> None:
    """Write a value as `to_json` has it."""
    write(path, to_json(value))


def read_json(path: epath.PathLike) -> dict:
    """Read the object in a JSON file.

    Raises
    ------
    ValueError
        Where the file is no JSON or holds something else than an object.
    """
    try:
        value = json.loads(epath.Path(path).read_text())
    except (ValueError, RecursionError) as error:  # no text, no JSON, or nested too deeply
        raise ValueError(f"{path} is no JSON file ({error}); delete it or write it again") from None
    if not isinstance(value, dict):
        shown = json.dumps(value)[:60]
        raise ValueError(f"{path} must hold a JSON object, got {shown}; write it again")
    return value


def difference(before: Any, after: Any, key: str) -> str:
    """The first key at which two JSON values differ, in words; `key` names the values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return difference(before.get(name), after.get(name), f"{key}.{name}")
    return f"{key} is {json.dumps(before)} there and {json.dumps(after)} here"


def size(path: epath.PathLike) -> int:
    """Bytes of a file."""
    # epath asks for the owner's name too, which a container's user may lack (google/etils 790).
    return epath.Path(path).stat().length if is_in_bucket(path) else os.stat(path).st_size


def sha256(path: epath.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: object) -> str:
    """SHA-256 of a JSON-like value; equal values have equal fingerprints."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def walk(folder: epath.PathLike) -> Iterator[epath.Path]:
    """Every file below a folder, in the order of the paths."""
    for child in sorted(epath.Path(folder).iterdir(), key=lambda path: path.name):
        if child.is_dir():
            yield from walk(child)
        else:
            yield child


def checksums(folder: epath.PathLike, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files by relative path.

    Parameters
    ----------
    folder
        The folder that the paths are relative to.
    names
        Files, and folders of which every file is taken.
    """
    folder = epath.Path(folder)
    digests: dict[str, str] = {}
    for name in names:
        path = folder / name
        paths = walk(path) if path.is_dir() else [path]
        for file in paths:
            digests[file.relative_to(folder).as_posix()] = sha256(file)
    return digests


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 of the shapes, types and bytes of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
