"""The image files of a folder: which count, and in which order. No JAX."""

import functools
import hashlib
import logging
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator

from etils import epath
from PIL import Image

from jaxdiff import files

log = logging.getLogger(__name__)

# Pillow opens a file by its contents, whatever its name. Of its other formats some start programs
# (EPS starts Ghostscript), and others are seldom used and little tested.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = frozenset(
    suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS
)
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
MACOS_COMPANIONS = "__MACOSX"  # of a zip file that macOS wrote


@functools.cache
def say_once(sentence: str) -> None:
    """Log what is assumed of the files, once; worker processes leave it to the first one."""
    if multiprocessing.parent_process() is None:
        log.warning("%s", sentence)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is an image: not hidden, of a suffix that is read."""
    return not is_hidden(name) and os.path.splitext(name)[1].lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether tools left this file or folder, as .thumbnails, ._1.png or __MACOSX."""
    return name.startswith(".") or name == MACOS_COMPANIONS


def is_regular_file(path: epath.PathLike) -> bool:
    """Whether this is a file that can be read to its end, and no pipe that waits for a writer."""
    return epath.Path(path).is_file() if files.is_in_bucket(path) else os.path.isfile(path)


def check_on_disk(folder: epath.PathLike) -> None:
    """Raise ValueError for a folder of images in a bucket: they are read one by one, many times."""
    if files.is_in_bucket(folder):
        raise ValueError(
            f"{folder} is in a bucket, and images are read from a disk; copy it to a disk of this "
            "machine"
        )


def sort_naturally(paths: Iterable[str]) -> list[str]:
    """Sort paths with each number in them as a number: 2.png stands before 10.png."""
    return sorted(paths, key=lambda path: [_natural_key(part) for part in path.split("/")])


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sort class names: by value where all are numbers, naturally otherwise."""
    names = sort_naturally(names)
    return sorted(names, key=float) if all(map(NUMBER.fullmatch, names)) else names


def _natural_key(text: str) -> tuple:
    # Text and digits alternate. More digits make a larger number, once leading zeros are gone.
    parts: list = re.split(r"([0-9]+)", text)
    for i in range(1, len(parts), 2):
        digits = parts[i].lstrip("0")
        parts[i] = (len(digits), digits)
    # The text itself orders what is equal as numbers, such as 1 and 01.
    return (*parts, text)


def list_images(folder: epath.PathLike) -> list[str]:
    """Relative paths of the images below a folder, in natural order, each folder counted once.

    Hidden folders are left out, and links to folders that are counted elsewhere.

    Raises
    ------
    ValueError
        For an image that is no regular file, as a pipe or a link to nothing.
    """
    if files.is_in_bucket(folder):
        paths = [path.relative_to(folder).as_posix() for path in files.walk(folder)]
        return sort_naturally(path for path in paths if is_image_path(path))
    root = os.fspath(folder)
    images = []
    for parent in _walk_folders(root):
        inner = os.path.relpath(parent, root)
        prefix = "" if inner == os.curdir else f"{inner}{os.sep}"
        for name in filter(is_image_name, os.listdir(parent)):
            path = os.path.join(parent, name)
            if os.path.isfile(path):
                images.append(prefix + name)
            elif not os.path.isdir(path):
                raise ValueError(
                    f"{path} is a pipe, a device or a link to nothing; an image file is expected, "
                    "so remove it or put the image there"
                )
    return sort_naturally(path.replace(os.sep, "/") for path in images)


def contents_fingerprint(folder: epath.PathLike, names: Iterable[str]) -> str:
    """SHA-256 of the names and bytes of files in a local folder.

    A process reads them again where a size or a time of change differs.
    """
    stats = {name: os.stat(os.path.join(folder, name)) for name in names}
    states = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
    return _contents_fingerprint(os.fspath(folder), states)


@functools.lru_cache(maxsize=4)
def _contents_fingerprint(folder: str, states: tuple[tuple[str, int, int], ...]) -> str:
    digests = {}
    for name, _, _ in states:
        with open(os.path.join(folder, name), "rb") as file:
            digests[name] = hashlib.sha256(file.read()).hexdigest()
    return files.fingerprint(digests)


def is_image_path(path: str) -> bool:
    """Whether a file of this path is an image, and in no hidden folder."""
    *parents, name = path.split("/")
    return is_image_name(name) and not any(map(is_hidden, parents))


def _walk_folders(root: str) -> Iterator[str]:
    """Yield the folder and every one below, links last, none twice."""
    folders = [root]
    links: list[str] = []
    visited: set[str] = set()
    while folders or links:
        # Links come last, so that an image is named by its folder's own path and not by a link's.
        is_link = not folders
        folder = links.pop(0) if is_link else folders.pop()
        target = os.path.realpath(folder)
        # a link to a folder above would take in everything beside the root too
        leads_up = is_link and os.path.realpath(root).startswith(os.path.join(target, ""))
        if target in visited or leads_up:
            say_once(f"{folder} leads to {target}, whose images are not counted again")
            continue
        visited.add(target)
        yield folder
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if not os.path.isdir(path):
                continue
            if is_hidden(name):
                say_once(f"{path} is left out, as hidden folders and {MACOS_COMPANIONS} are")
            else:
                (links if os.path.islink(path) else folders).append(path)
