"""Anybody's images as a dataset, in the convention of Hugging Face's ImageFolder.

A subfolder a class (`cats/1.png`, `dogs/2.jpg`); or a metadata.csv with the columns file_name and label, whose other
columns of 0 and 1 are attributes; or images alone, which are one class.
"""

import csv
import functools
import io
import os

import numpy as np
from etils import epath
from jaxtyping import Bool

from jaxdiff import files
from jaxdiff.datasets.base import Columns, Image, Source
from jaxdiff.datasets.image_io import SUFFIXES, decode

METADATA = "metadata.csv"
BINARY = {
    "0": False,
    "1": True,
    "-1": False,
    "false": False,
    "true": True,
    "False": False,
    "True": True,
}


def image_folder(folder: epath.PathLike, size: int, channels: int) -> Source:
    """The images of a folder, the middle square resized to `size`, in the order of their paths.

    Raises ValueError for an empty folder or class, and where metadata.csv and the images do not match.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; a folder of images is expected")
    lengths = {name: n for name, n in files.file_sizes(folder).items() if _is_image(name)}
    names = list(lengths)
    if not names:
        raise ValueError(
            f"{folder} holds 0 images; PNG, JPEG or any other kind that Pillow reads are expected"
        )
    columns = _listed(folder, names) if (folder / METADATA).exists() else _subfolders(folder, names)
    decoded = functools.partial(_decoded, os.fspath(folder), names, size, channels)
    identity = {"images": files.fingerprint(lengths), "columns": files.fingerprint([
        columns.labels.tolist(), columns.classes, np.asarray(columns.attributes).tolist()]), "size": size, "channels": channels}  # fmt: skip
    about = f"{len(names):,} images of {folder.name}, the middle square at {size} px"
    return Source(about, identity, len(names), lambda: columns, decoded)


def _decoded(folder: str, names: list[str], size: int, channels: int, index: int) -> Image:
    path = os.path.join(folder, names[index])
    with open(path, "rb") as file:
        return decode(file.read(), path, size, channels)


def _is_image(name: str) -> bool:
    stem, suffix = os.path.splitext(os.path.basename(name))
    return suffix.lower() in SUFFIXES and not stem.startswith(".")


def _subfolders(folder: epath.Path, names: list[str]) -> Columns:
    of = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(of))
    if "" in classes and len(classes) > 1:
        raise ValueError(
            f"{folder} holds images beside folders of images, as {names[of.index('')]}; put each into its class's folder"
        )
    for child in folder.iterdir():
        if child.is_dir() and not child.name.startswith(".") and child.name not in classes:
            raise ValueError(
                f"the class {child.name} of {folder} holds 0 images; fill or remove that folder"
            )
    labels = np.array([classes.index(name) for name in of])
    return Columns(
        labels, tuple(name or "images" for name in classes), np.zeros((len(names), 0), bool)
    )


def _listed(folder: epath.Path, names: list[str]) -> Columns:
    path = folder / METADATA
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    header = tuple(rows[0]) if rows else ()
    if "file_name" not in header or "label" not in header:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}; file_name and label are expected"
        )
    by_name = {row["file_name"]: row for row in rows}
    if missing := sorted(set(by_name) - set(names)):
        raise ValueError(
            f"{path} names {len(missing)} images that are not in {folder}, as {missing[0]}"
        )
    if more := sorted(set(names) - set(by_name)):
        raise ValueError(
            f"{folder} holds {len(more)} images that {path} does not name, as {more[0]}"
        )
    chosen = [by_name[name] for name in names]
    classes = sorted({row["label"] for row in chosen})
    labels = np.array([classes.index(row["label"]) for row in chosen])
    others = tuple(
        c
        for c in header
        if c not in ("file_name", "label") and all(row[c] in BINARY for row in chosen)
    )
    return Columns(labels, tuple(classes), _binary(chosen, others), others)


def _binary(
    rows: list[dict[str, str]], columns: tuple[str, ...]
) -> Bool[np.ndarray, "n attribute"]:
    return np.array([[BINARY[row[c]] for c in columns] for row in rows], bool).reshape(
        len(rows), len(columns)
    )
