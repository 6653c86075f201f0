"""CelebA (Liu et al. 2015) as published: aligned faces of 178 x 218 pixels with 40 attributes.

In `data_dir`, or in folders of it as Img/, Anno/ and Eval/: img_align_celeba (a folder, or
img_align_celeba.zip), list_attr_celeba and list_eval_partition (.txt as published, or .csv as on
Kaggle). The names of images are the lists' in either case: 000001.JPG is 000001.jpg.
"""

import csv
import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, DatasetRequest, Image, Source, register_dataset
from jaxdiff.datasets.image_files import (
    check_on_disk,
    contents_fingerprint,
    is_hidden,
    is_image_path,
    list_images,
    say_once,
)
from jaxdiff.datasets.image_io import DECODING_VERSION, decode_image

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba"
PARTITION = "list_eval_partition"
SEARCHED_LEVELS = 2  # below data_dir: the authors' are CelebA/Img, CelebA/Anno and CelebA/Eval
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
    check_on_disk(data_dir)
    attributes = _read_table(data_dir, ATTRIBUTES)
    # Its rows are read later, with the annotations; that it exists is checked now.
    partition_path = _find_list(data_dir, PARTITION)
    images = _open_images(data_dir)
    names = list(attributes.rows)  # image i is row i of the list
    _check_names_match(attributes.path, names, images)
    identity = {
        "lists": [files.sha256(path) for path in (attributes.path, partition_path)],
        "images": images.fingerprint(),
        "size": size,
        "channels": channels,
        "decoding": DECODING_VERSION,
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
    """Images in a folder: the path of each in it, by its name in lower case."""

    path: str
    members: dict[str, str]

    def fingerprint(self) -> str:
        """Of the names and bytes."""
        return contents_fingerprint(self.path, self.members.values())

    def read(self, name: str) -> bytes:
        with open(self.locate(name), "rb") as file:
            return file.read()

    def locate(self, name: str) -> str:
        """Where an image is, in words."""
        return os.path.join(self.path, self.members[name.lower()])


@dataclasses.dataclass(frozen=True)
class _Archive:
    """Images in a zip file: the path of each in it, by its name in lower case, and their CRCs."""

    path: str
    members: dict[str, str]
    crcs: dict[str, int]

    def fingerprint(self) -> str:
        """Of the names and the CRCs, which the archive lists."""
        return files.fingerprint(self.crcs)

    def read(self, name: str) -> bytes:
        return _open_zip(self.path).read(self.members[name.lower()])

    def locate(self, name: str) -> str:
        """Where an image is, in words."""
        return f"{self.path}/{self.members[name.lower()]}"


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
    parts = [_read_part(partition, name) for name in attributes.rows]
    return Annotations(
        labels=np.zeros(len(parts), np.int64),
        classes=("face",),
        attributes=np.array(list(attributes.rows.values())) == "1",
        attribute_names=attributes.columns,
        partition=np.array(parts),
    )


def _read_part(partition: _Table, name: str) -> int:
    values = partition.rows[name]
    if len(values) != 1 or values[0] not in ("0", "1", "2"):
        raise ValueError(
            f"{partition.path} must hold 0, 1 or 2 for {name}, got {' '.join(values)!r}; get it "
            "again"
        )
    return int(values[0])


def _check_names_match(path: epath.Path, names: Iterable[str], images: _Folder | _Archive) -> None:
    listed = {name.lower() for name in names}
    missing = sorted(listed - images.members.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} images of {path} are not in {images.path}, as {missing[0]}; unpack "
            f"all of {IMAGES}.zip, or take the list that belongs to the images"
        )
    unlisted = sorted(images.members.keys() - listed)
    if unlisted:
        raise ValueError(
            f"{len(unlisted)} images of {images.path} are not in {path}, as "
            f"{images.members[unlisted[0]]}; take the list that belongs to the images"
        )


def _find_list(data_dir: epath.Path, name: str) -> epath.Path:
    path = _find(data_dir, (f"{name}.txt", f"{name}.csv"))
    if path is None:
        raise ValueError(f"{data_dir} holds neither {name}.txt nor {name}.csv; {HELP}")
    return path


def _find(data_dir: epath.Path, names: Sequence[str]) -> epath.Path | None:
    """The first of these files that is there, at the highest level where one is."""
    folders = [data_dir]
    for level in range(SEARCHED_LEVELS + 1):
        paths = [path for folder in folders for path in _list_first(folder, names)]
        if len(paths) > 1:
            raise ValueError(
                f"{data_dir} holds {paths[0]} and {paths[1]}; name the folder of one of them as "
                "data_dir"
            )
        if paths:
            if level:
                say_once(f"{paths[0]} is taken, of the folders in {data_dir}")
            return paths[0]
        folders = [child for folder in folders for child in _list_folders(folder)]
    return None


def _list_first(folder: epath.Path, names: Sequence[str]) -> list[epath.Path]:
    return [folder / name for name in names if (folder / name).exists()][:1]


def _list_folders(folder: epath.Path) -> list[epath.Path]:
    """The folders in a folder, but of images, which are many."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return [folder / name for name in names if name != IMAGES and not is_hidden(name)]


def _read_table(data_dir: epath.Path, name: str) -> _Table:
    path = _find_list(data_dir, name)
    text = path.read_text()
    if path.suffix == ".csv":
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        head = 1
        columns = rows[0][1:] if rows else []
    else:
        rows = [line.split() for line in text.splitlines() if line.strip()]
        # the published list begins with the number of images and the attributes' names
        head = 2 if name == ATTRIBUTES else 0
        columns = rows[1] if head and len(rows) > 1 else ["partition"]
    rows = rows[head:]
    if not rows:
        raise ValueError(f"{path} lists no image; get it again")
    return _Table(path, tuple(columns), {row[0]: row[1:] for row in rows})


def _open_images(data_dir: epath.Path) -> _Folder | _Archive:
    path = _find(data_dir, (IMAGES, f"{IMAGES}.zip"))
    if path is None:
        raise ValueError(f"{data_dir} holds neither {IMAGES}/ nor {IMAGES}.zip; {HELP}")
    if not path.is_dir():
        return _open_archive(path)
    # Kaggle's archive unpacks to a folder in a folder of the same name
    folder = path / IMAGES if (path / IMAGES).is_dir() else path
    return _Folder(os.fspath(folder), _index_by_name(folder, list_images(folder)))


def _open_archive(path: epath.Path) -> _Archive:
    _open_zip.cache_clear()  # the file may have been replaced
    archive = _open_zip(os.fspath(path))
    for member in archive.namelist():
        if _leaves_folder(member):
            raise ValueError(
                f"{path} holds {member!r}, a path that leaves its folder; do not use this archive"
            )
    members = _index_by_name(path, filter(is_image_path, archive.namelist()))
    crcs = {member.rpartition("/")[2]: archive.getinfo(member).CRC for member in members.values()}
    return _Archive(os.fspath(path), members, crcs)


def _index_by_name(place: epath.Path, members: Iterable[str]) -> dict[str, str]:
    """Paths by the names of the images, in lower case: tools and disks change the suffix's."""
    index: dict[str, str] = {}
    for member in members:
        name = member.rpartition("/")[2].lower()
        if name in index:
            raise ValueError(
                f"{place} holds {index[name]} and {member}, and the lists know one of that name; "
                "remove one"
            )
        index[name] = member
    return index


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
