"""A folder of images as a dataset, in the convention of Hugging Face's ImageFolder.

One subfolder per class (`cats/1.png`, `dogs/2.jpg`), in train/ and test/ or not; or a metadata.csv
or metadata.jsonl with the columns file_name and label, whose other columns of yes and no are
attributes; or images alone, which are one class.
"""

import dataclasses
import functools
import os
from pathlib import PurePosixPath

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, DatasetRequest, Image, Source, register_dataset
from jaxdiff.datasets.image_files import (
    check_on_disk,
    contents_fingerprint,
    is_hidden,
    list_images,
    say_once,
    sort_classes,
)
from jaxdiff.datasets.image_io import DECODING_VERSION, EXPECTED_IMAGES, decode_image
from jaxdiff.datasets.metadata import LABEL, find_table, read_table

# Folders of a published partition, and their part in Annotations.partition.
SPLITS = {
    "train": 0,
    "training": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "dev": 1,
    "test": 2,
    "testing": 2,
    "eval": 2,
    "evaluation": 2,
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
    check_on_disk(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; a folder of images is expected")
    folder, names = _unwrap(folder, list_images(folder))
    if not names:
        raise ValueError(f"{folder} holds 0 images; {EXPECTED_IMAGES} is expected")
    table = find_table(folder)
    if table is not None:
        annotations = _read_metadata(table, folder, names)
    else:
        annotations = _read_subfolders(folder, names)
    # the annotations are written with the pixels, so that a changed table is prepared anew
    columns = [
        annotations.labels.tolist(),
        annotations.classes,
        np.asarray(annotations.attributes).tolist(),
    ]
    identity = {
        # an image can be edited in place, at the same length
        "images": contents_fingerprint(folder, names),
        "decoding": DECODING_VERSION,
        "columns": files.fingerprint(columns),
        "size": request.size,
        "channels": request.channels,
    }
    return Source(
        about=f"{len(names):,} images of {folder.name}, the middle square at {request.size} px, "
        "transparency over white",
        identity=identity,
        length=len(names),
        read_annotations=lambda: annotations,
        decode=functools.partial(_decode, os.fspath(folder), names, request.size, request.channels),
    )


def _decode(folder: str, names: list[str], size: int, channels: int, index: int) -> Image:
    path = os.path.join(folder, names[index])
    with open(path, "rb") as file:
        return decode_image(file.read(), path, size, channels)


def _unwrap(folder: epath.Path, names: list[str]) -> tuple[epath.Path, list[str]]:
    """Go down into a folder that alone holds all others, as archives unpack to."""
    while find_table(folder) is None:
        tops = {name.partition("/")[0] for name in names}
        inner = [name.partition("/")[2] for name in names]
        if len(tops) != 1 or not all(inner):
            break
        child = folder / tops.pop()
        if not all("/" in name for name in inner) and find_table(child) is None:
            break
        say_once(f"{folder} holds {child.name}/ alone, whose folders are taken as the classes")
        folder, names = child, inner
    return folder, names


def _read_subfolders(folder: epath.Path, names: list[str]) -> Annotations:
    """Classes from the first folder of each path; one class where there are no folders."""
    _check_no_inner_table(folder, names)
    tops = sort_classes({_first_folder(name) for name in names})
    splits = [top for top in tops if top.casefold() in SPLITS]
    if not splits:
        return _classes_of_parents(folder, [folder], [_first_folder(name) for name in names], names)
    if len(splits) < len(tops):
        other = next(top for top in tops if top not in splits)
        beside = f"the folder {other}/" if other else "images"
        raise ValueError(
            f"{folder} holds {splits[0]}/ beside {beside}, so that it can be a part of the data or "
            f"a class; give folder:{folder}/{splits[0]} alone, move it away, or rename it"
        )
    say_once(
        f"{folder}: {', '.join(f'{split}/' for split in splits)} are taken as parts of one "
        "dataset, and the folders in them as its classes"
    )
    inner = [name.partition("/")[2] for name in names]
    parents = [_first_folder(name) for name in inner]
    annotations = _classes_of_parents(folder, [folder / split for split in splits], parents, names)
    partition = np.array([SPLITS[_first_folder(name).casefold()] for name in names])
    # without all three parts there would be pools without images
    if set(partition.tolist()) != {0, 1, 2}:
        return annotations
    return dataclasses.replace(annotations, partition=partition)


def _first_folder(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""


def _classes_of_parents(
    folder: epath.Path, roots: list[epath.Path], parents: list[str], names: list[str]
) -> Annotations:
    """Annotations by the class folder of each image; `roots` hold these folders."""
    classes = sort_classes(set(parents))
    if "" in classes and len(classes) > 1:
        raise ValueError(
            f"{folder} holds images beside folders of images, as {names[parents.index('')]}; "
            "put each into its class's folder"
        )
    # an empty folder would silently be a class less
    for child in (child for root in roots for child in root.iterdir()):
        is_class = child.is_dir() and not is_hidden(child.name)
        if is_class and not os.path.islink(child) and child.name not in classes:
            raise ValueError(
                f"the class {child.name} of {folder} holds 0 images; fill or remove that folder"
            )
    index = {name: i for i, name in enumerate(classes)}
    return Annotations(
        labels=np.array([index[parent] for parent in parents]),
        classes=tuple(name or "images" for name in classes),
        attributes=np.zeros((len(names), 0), bool),
    )


def _check_no_inner_table(folder: epath.Path, names: list[str]) -> None:
    parents = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for parent in sorted(parents):
        table = find_table(folder / parent)
        if table is not None:
            raise ValueError(
                f"{table} is not read, since it describes a part of {folder}; write one for all "
                f"images as {folder}/{table.name}, or remove it"
            )


def _read_metadata(path: epath.Path, folder: epath.Path, names: list[str]) -> Annotations:
    """Classes and attributes from the folder's table."""
    table = read_table(path)
    _check_names_match(path, set(table.rows), folder, set(names))
    labels = [table.rows[name][LABEL] for name in names]
    classes = sort_classes(set(labels))
    index = {name: i for i, name in enumerate(classes)}
    attributes = table.attributes()
    values = [[attributes[column][name] for column in attributes] for name in names]
    return Annotations(
        labels=np.array([index[label] for label in labels]),
        classes=tuple(classes),
        attributes=np.array(values, bool).reshape(len(names), len(attributes)),
        attribute_names=tuple(attributes),
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
