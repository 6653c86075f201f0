"""A folder of images as a dataset, in the convention of Hugging Face's ImageFolder.

A subfolder a class (`cats/1.png`, `dogs/2.jpg`); or a metadata.csv with the columns file_name and
label, whose other columns of 0 and 1 are attributes; or images alone, which are one class.
"""

import csv
import functools
import io
import os

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, DatasetRequest, Image, Source, register_dataset
from jaxdiff.datasets.image_io import decode_image, is_image_name

METADATA = "metadata.csv"
REQUIRED_COLUMNS = ("file_name", "label")
BINARY = {
    "0": False,
    "1": True,
    "-1": False,
    "false": False,
    "true": True,
    "False": False,
    "True": True,
}


@register_dataset("folder:", argument="PATH")
def open_image_folder(request: DatasetRequest) -> Source:
    """The images of a folder, the middle square resized, in the order of their paths.

    Raises
    ------
    ValueError
        For an empty folder or class, and where metadata.csv and the images do not match.
    """
    folder = epath.Path(request.argument)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; a folder of images is expected")
    lengths = {
        name: length
        for name, length in files.file_sizes(folder).items()
        if is_image_name(os.path.basename(name))
    }
    names = list(lengths)
    if not names:
        raise ValueError(
            f"{folder} holds 0 images; PNG, JPEG or any other kind that Pillow reads is expected"
        )
    if (folder / METADATA).exists():
        annotations = _read_metadata(folder, names)
    else:
        annotations = _read_subfolders(folder, names)
    # the annotations are written with the pixels, so that a changed table is prepared anew
    columns = [
        annotations.labels.tolist(),
        annotations.classes,
        np.asarray(annotations.attributes).tolist(),
    ]
    # the names and lengths of the files stand for their bytes, which would take long to read
    identity = {
        "images": files.fingerprint(lengths),
        "columns": files.fingerprint(columns),
        "size": request.size,
        "channels": request.channels,
    }
    return Source(
        about=f"{len(names):,} images of {folder.name}, the middle square at {request.size} px",
        identity=identity,
        length=len(names),
        read_annotations=lambda: annotations,
        decode=functools.partial(_decode, os.fspath(folder), names, request.size, request.channels),
    )


def _decode(folder: str, names: list[str], size: int, channels: int, index: int) -> Image:
    path = os.path.join(folder, names[index])
    with open(path, "rb") as file:
        return decode_image(file.read(), path, size, channels)


def _read_subfolders(folder: epath.Path, names: list[str]) -> Annotations:
    """Classes from the first folder of each path; one class where there are no folders."""
    parents = [name.partition("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(parents))
    if "" in classes and len(classes) > 1:
        raise ValueError(
            f"{folder} holds images beside folders of images, as {names[parents.index('')]}; "
            "put each into its class's folder"
        )
    # an empty folder would silently be a class less
    for child in folder.iterdir():
        if child.is_dir() and not child.name.startswith(".") and child.name not in classes:
            raise ValueError(
                f"the class {child.name} of {folder} holds 0 images; fill or remove that folder"
            )
    return Annotations(
        labels=np.array([classes.index(parent) for parent in parents]),
        classes=tuple(name or "images" for name in classes),
        attributes=np.zeros((len(names), 0), bool),
    )


def _read_metadata(folder: epath.Path, names: list[str]) -> Annotations:
    """Classes and attributes from metadata.csv."""
    path = folder / METADATA
    table = list(csv.DictReader(io.StringIO(path.read_text())))
    header = tuple(table[0]) if table else ()
    if not set(REQUIRED_COLUMNS) <= set(header):
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}; "
            "file_name and label are expected"
        )
    by_name = {row["file_name"]: row for row in table}
    _check_names_match(path, set(by_name), folder, set(names))
    rows = [by_name[name] for name in names]
    labels = [row["label"] for row in rows]
    classes = sorted(set(labels))
    # other columns, as captions, are left out
    attributes = tuple(
        column
        for column in header
        if column not in REQUIRED_COLUMNS and all(row[column] in BINARY for row in rows)
    )
    values = [[BINARY[row[column]] for column in attributes] for row in rows]
    return Annotations(
        labels=np.array([classes.index(label) for label in labels]),
        classes=tuple(classes),
        attributes=np.array(values, bool).reshape(len(rows), len(attributes)),
        attribute_names=attributes,
    )


def _check_names_match(
    path: epath.Path, listed: set[str], folder: epath.Path, images: set[str]
) -> None:
    missing = sorted(listed - images)
    if missing:
        raise ValueError(
            f"{path} names {len(missing)} images that are not in {folder}, as {missing[0]}; "
            "add them, or remove their rows"
        )
    unlisted = sorted(images - listed)
    if unlisted:
        raise ValueError(
            f"{folder} holds {len(unlisted)} images that {path} does not name, as {unlisted[0]}; "
            "add their rows, or remove them"
        )
