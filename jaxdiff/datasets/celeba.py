"""CelebA (Liu et al. 2015) as it is published: aligned faces of 178 x 218 pixels with 40 attributes.

In `data_dir`: img_align_celeba (a folder, or img_align_celeba.zip), list_attr_celeba and list_eval_partition (.txt as
published, or .csv as on Kaggle).
"""

import csv
import functools
import io
import os
import zipfile
from collections.abc import Callable

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.datasets.base import Columns, Image, Source
from jaxdiff.datasets.image_io import decode as decode_image

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba", "list_eval_partition"
HELP = (
    "put img_align_celeba (folder or zip), list_attr_celeba and list_eval_partition (.txt or .csv) of "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into one folder, or have TensorFlow Datasets prepare celeb_a with "
    'file_format="array_record"'
)
# What the paper says of the training data, %: the classes, and the two groups that it names.
PAPER = {"Male": 41.68, "not Male": 58.32, "Male, Blond_Hair": 0.86, "Male, not Blond_Hair": 40.81}


def celeba(data_dir: epath.PathLike, size: int, channels: int) -> Source:
    """The faces, the middle square resized to `size`, with all attributes and the partition (train, validation, test).

    Raises ValueError where a file is missing, or the lists and the images do not belong together.
    """
    data_dir = epath.Path(data_dir)
    header, rows = _table(data_dir, ATTRIBUTES)
    lists = [_list(data_dir, name) for name in (ATTRIBUTES, PARTITION)]
    names = [row[0] for row in rows]
    lengths, read = _images(data_dir)
    _match(lists[0], set(names), data_dir / IMAGES, set(lengths))
    decode = functools.partial(_decoded, read, names, size, channels)
    # the names and lengths of the files stand for their bytes, which would take a minute to read
    identity = {
        "lists": [files.sha256(path) for path in lists],
        "images": files.fingerprint(lengths),
    }
    about = f"{len(names):,} faces of CelebA, the middle square at {size} px"

    def describe():
        return _columns(lists, header, rows, _table(data_dir, PARTITION)[1])

    return Source(
        about, identity | {"size": size, "channels": channels}, len(names), describe, decode
    )


def _decoded(
    read: Callable[[str], tuple[str, bytes]], names: list[str], size: int, channels: int, index: int
) -> Image:
    place, data = read(names[index])
    return decode_image(data, place, size, channels)


def _columns(
    lists: list[epath.Path], header: list[str], rows: list[list[str]], parts: list[list[str]]
) -> Columns:
    known = {row[0]: row[1] for row in parts}
    for row in rows:
        if row[0] not in known:
            raise ValueError(
                f"{lists[1]} does not know {row[0]}; take the two lists of one release"
            )
        if len(row) != len(header) + 1 or not set(row[1:]) <= {"1", "-1"}:
            raise ValueError(
                f"{lists[0]} holds for {row[0]} something else than -1 or 1 for each of {len(header)} attributes"
            )
    values = np.array([row[1:] for row in rows]) == "1"
    partition = np.array([int(known[row[0]]) for row in rows])
    return Columns(np.zeros(len(rows), np.int64), ("face",), values, tuple(header), partition)


def _match(path: epath.Path, listed: set[str], folder: epath.Path, there: set[str]) -> None:
    if missing := sorted(listed - there):
        raise ValueError(
            f"{len(missing)} images of {path} are not in {folder}, as {missing[0]}; unpack all of {IMAGES}.zip, or take "
            "the list that belongs to the images"
        )
    if more := sorted(there - listed):
        raise ValueError(
            f"{len(more)} images of {folder} are not in {path}, as {more[0]}; take the list that belongs to the images"
        )


def _list(data_dir: epath.Path, name: str) -> epath.Path:
    for path in (data_dir / f"{name}.txt", data_dir / f"{name}.csv"):
        if path.exists():
            return path
    raise ValueError(f"{data_dir} holds neither {name}.txt nor {name}.csv; {HELP}")


def _table(data_dir: epath.Path, name: str) -> tuple[list[str], list[list[str]]]:
    """The names of the columns after the first one, and the rows."""
    path = _list(data_dir, name)
    if path.suffix == ".csv":
        header, *rows = (row for row in csv.reader(io.StringIO(path.read_text())) if row)
        return header[1:], rows
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return (rows[1], rows[2:]) if name == ATTRIBUTES else (["partition"], rows)


def _images(data_dir: epath.Path) -> tuple[dict[str, int], Callable[[str], tuple[str, bytes]]]:
    """The length of each image by name, and a function that reads one: where it is, and its bytes."""
    folder, archive = data_dir / IMAGES, data_dir / f"{IMAGES}.zip"
    if folder.is_dir():
        inner = (
            folder / IMAGES if (folder / IMAGES).is_dir() else folder
        )  # as Kaggle's archive unpacks
        lengths = {
            name: length
            for name, length in files.file_sizes(inner).items()
            if name.endswith(".jpg")
        }
        return lengths, functools.partial(_from_folder, os.fspath(inner))
    if archive.exists():
        return _archive(archive)
    raise ValueError(f"{data_dir} holds neither {IMAGES}/ nor {IMAGES}.zip; {HELP}")


def _from_folder(folder: str, name: str) -> tuple[str, bytes]:
    path = os.path.join(folder, name)
    with open(path, "rb") as file:
        return path, file.read()


def _from_archive(path: str, members: dict[str, str], name: str) -> tuple[str, bytes]:
    return f"{path}/{members[name]}", _opened(path).read(members[name])


@functools.lru_cache(maxsize=1)
def _opened(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} cannot be read as a zip ({error}); fetch it again") from None


def _archive(path: epath.Path) -> tuple[dict[str, int], Callable[[str], tuple[str, bytes]]]:
    _opened.cache_clear()  # the file may be another one by now
    opened = _opened(os.fspath(path))
    for name in opened.namelist():
        if (
            name.startswith(("/", "\\"))
            or ".." in name.replace("\\", "/").split("/")
            or name[1:2] == ":"
        ):
            raise ValueError(
                f"{path} holds {name!r}, a path that leaves its folder; do not use this archive"
            )
    members = {name.rpartition("/")[2]: name for name in opened.namelist() if name.endswith(".jpg")}
    lengths = {short: opened.getinfo(name).file_size for short, name in members.items()}
    return lengths, functools.partial(_from_archive, os.fspath(path), members)
