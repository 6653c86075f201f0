"""CelebA (Liu et al. 2015) as published: aligned faces of 178 x 218 pixels with 40 attributes.

In `data_dir`: img_align_celeba (a folder, or img_align_celeba.zip), list_attr_celeba and
list_eval_partition (.txt as published, or .csv as on Kaggle).
"""

import csv
import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Iterable

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, DatasetRequest, Image, Source, register_dataset
from jaxdiff.datasets.image_files import contents_fingerprint, is_image_path, list_images
from jaxdiff.datasets.image_io import decode_image

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba"
PARTITION = "list_eval_partition"
HELP = (
    "put img_align_celeba (folder or zip), list_attr_celeba and list_eval_partition (.txt or .csv) "
    "of https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into one folder, or have TensorFlow "
    'Datasets prepare celeb_a with file_format="array_record"'
)
# What the paper says of the training data: the classes, and the two groups that it names.
REPORTED_PERCENT = {
    "Male": 41.68,
    "not Male": 58.32,
    "Male, Blond_Hair": 0.86,
    "Male, not Blond_Hair": 40.81,
}


@register_dataset("celeba", reported_percent=REPORTED_PERCENT)
def open_celeba(request: DatasetRequest) -> Source:
    """CelebA as TFDS has prepared it, where it has, else as published in ``data_dir``.

    Raises
    ------
    ValueError
        Where neither is there.
    """
    # Processes that only decode faces import this module, and need not wait for TFDS.
    from jaxdiff.datasets.tfds import find_prepared, open_tfds

    if find_prepared("celeb_a", request.data_dir):
        return open_tfds(dataclasses.replace(request, argument="celeb_a"))
    if not request.data_dir:
        raise ValueError(
            f"CelebA is not here and cannot be downloaded; {HELP}, and name that folder as data_dir"
        )
    return open_published(request.data_dir, request.size, request.channels)


def open_published(data_dir: epath.PathLike, size: int, channels: int) -> Source:
    """The faces of the published files, with all attributes and the partition.

    The middle square is resized to `size`; the partition is train, validation, test.

    Raises
    ------
    ValueError
        Where a file is missing, or the lists and the images do not belong together.
    """
    data_dir = epath.Path(data_dir)
    attributes = _read_table(data_dir, ATTRIBUTES)
    # Its rows are read later, with the annotations; that it exists is checked now.
    partition_path = _find_list(data_dir, PARTITION)
    images = _open_images(data_dir)
    names = list(attributes.rows)  # image i is row i of the list
    _check_names_match(attributes.path, set(names), data_dir / IMAGES, set(images.names))
    identity = {
        "lists": [files.sha256(path) for path in (attributes.path, partition_path)],
        "images": images.fingerprint(),
        "size": size,
        "channels": channels,
    }

    def read_annotations() -> Annotations:
        return _make_annotations(attributes, _read_table(data_dir, PARTITION))

    return Source(
        about=f"{len(names):,} faces of CelebA, the middle square at {size} px",
        identity=identity,
        length=len(names),
        read_annotations=read_annotations,
        decode=functools.partial(_decode, images, names, size, channels),
    )


@dataclasses.dataclass(frozen=True)
class _Folder:
    """Images in a folder."""

    path: str
    names: list[str]

    def fingerprint(self) -> str:
        """Of the names and bytes."""
        return contents_fingerprint(self.path, self.names)

    def read(self, name: str) -> bytes:
        with open(self.locate(name), "rb") as file:
            return file.read()

    def locate(self, name: str) -> str:
        """Where an image is, in words."""
        return os.path.join(self.path, name)


@dataclasses.dataclass(frozen=True)
class _Archive:
    """Images in a zip file: the path of each in the archive, and the CRC of its bytes."""

    path: str
    members: dict[str, str]
    crcs: dict[str, int]

    @property
    def names(self) -> Iterable[str]:
        """Names of the images, without their folder."""
        return self.members.keys()

    def fingerprint(self) -> str:
        """Of the names and the CRCs, which the archive lists."""
        return files.fingerprint(self.crcs)

    def read(self, name: str) -> bytes:
        return _open_zip(self.path).read(self.members[name])

    def locate(self, name: str) -> str:
        """Where an image is, in words."""
        return f"{self.path}/{self.members[name]}"


@dataclasses.dataclass(frozen=True)
class _Table:
    """A published list: the columns after the first, and by image name its row's values."""

    path: epath.Path
    columns: tuple[str, ...]
    rows: dict[str, list[str]]


def _decode(
    images: _Folder | _Archive, names: list[str], size: int, channels: int, index: int
) -> Image:
    name = names[index]
    return decode_image(images.read(name), images.locate(name), size, channels)


def _make_annotations(attributes: _Table, partition: _Table) -> Annotations:
    count = len(attributes.columns)
    for name, values in attributes.rows.items():
        if name not in partition.rows:
            raise ValueError(
                f"{partition.path} does not list {name}; take the two lists of one release"
            )
        if len(values) != count or not set(values) <= {"1", "-1"}:
            raise ValueError(
                f"{attributes.path} must hold -1 or 1 for each of {count} attributes of {name}; "
                "get it again"
            )
    # CelebA has no classes: an attribute of the study's choice makes them
    parts = [int(partition.rows[name][0]) for name in attributes.rows]
    return Annotations(
        labels=np.zeros(len(parts), np.int64),
        classes=("face",),
        attributes=np.array(list(attributes.rows.values())) == "1",
        attribute_names=attributes.columns,
        partition=np.array(parts),
    )


def _check_names_match(
    path: epath.Path, listed: set[str], folder: epath.Path, images: set[str]
) -> None:
    missing = sorted(listed - images)
    if missing:
        raise ValueError(
            f"{len(missing)} images of {path} are not in {folder}, as {missing[0]}; unpack all of "
            f"{IMAGES}.zip, or take the list that belongs to the images"
        )
    unlisted = sorted(images - listed)
    if unlisted:
        raise ValueError(
            f"{len(unlisted)} images of {folder} are not in {path}, as {unlisted[0]}; take the "
            "list that belongs to the images"
        )


def _find_list(data_dir: epath.Path, name: str) -> epath.Path:
    for path in (data_dir / f"{name}.txt", data_dir / f"{name}.csv"):
        if path.exists():
            return path
    raise ValueError(f"{data_dir} holds neither {name}.txt nor {name}.csv; {HELP}")


def _read_table(data_dir: epath.Path, name: str) -> _Table:
    path = _find_list(data_dir, name)
    text = path.read_text()
    if path.suffix == ".csv":
        header, *rows = [row for row in csv.reader(io.StringIO(text)) if row]
        columns = header[1:]
    else:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        columns = ["partition"]
        if name == ATTRIBUTES:
            # the published list begins with the number of images and the attributes' names
            columns = rows[1]
            rows = rows[2:]
    return _Table(path, tuple(columns), {row[0]: row[1:] for row in rows})


def _open_images(data_dir: epath.Path) -> _Folder | _Archive:
    folder = data_dir / IMAGES
    archive = data_dir / f"{IMAGES}.zip"
    if folder.is_dir():
        # Kaggle's archive unpacks to a folder in a folder of the same name
        folder = folder / IMAGES if (folder / IMAGES).is_dir() else folder
        return _Folder(os.fspath(folder), list_images(folder))
    if archive.exists():
        return _open_archive(archive)
    raise ValueError(f"{data_dir} holds neither {IMAGES}/ nor {IMAGES}.zip; {HELP}")


def _open_archive(path: epath.Path) -> _Archive:
    _open_zip.cache_clear()  # the file may have been replaced
    archive = _open_zip(os.fspath(path))
    members = {}
    crcs = {}
    for member in archive.namelist():
        if _leaves_folder(member):
            raise ValueError(
                f"{path} holds {member!r}, a path that leaves its folder; do not use this archive"
            )
        name = member.rpartition("/")[2]
        if is_image_path(member):
            members[name] = member
            crcs[name] = archive.getinfo(member).CRC
    return _Archive(os.fspath(path), members, crcs)


def _leaves_folder(member: str) -> bool:
    """Whether a path is absolute, has a drive, or goes up."""
    parts = member.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or member[1:2] == ":"


@functools.lru_cache(maxsize=1)
def _open_zip(path: str) -> zipfile.ZipFile:
    # opened once in each process, since the list of 202,599 members takes seconds to read
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} cannot be read as a zip ({error}); fetch it again") from None
