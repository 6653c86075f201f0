"""Folders of images for `experiments.evaluate` and `experiments.dataset`."""

import dataclasses
import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdiff.datasets.dataset import Dataset
from tests.experiments.fuzz import npz_inputs
from tests.experiments.fuzz.boundary import Command, Input, accept

SIZE = 8
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
FLIPS = 8  # bits of the first bytes of an image of each format
CUTS = (1, 9, 30, 50)  # bytes that are left of an image of each format
Content = bytes | Callable[[Path], object]
Files = Mapping[str, Content]


def image(value: int = 0, kind: str = "PNG", size: tuple[int, int] = (SIZE, SIZE)) -> bytes:
    """An image file of one gray everywhere."""
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, kind)
    return buffer.getvalue()


def noise(kind: str) -> bytes:
    """An image file of random pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def other_format(kind: str, mode: str = "L") -> bytes:
    """An image file that is not read."""
    buffer = io.BytesIO()
    Image.new(mode, (SIZE, SIZE)).save(buffer, kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says a size and holds no pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + crc


def link(target: str) -> Callable[[Path], object]:
    """A link in place of a file."""
    return lambda path: path.symlink_to(target)


@dataclasses.dataclass(frozen=True)
class Case:
    """A folder, and what the two commands have to read in it; None is a refusal.

    Parameters
    ----------
    samples
        The gray of each image, in order.
    classes
        The class of each image, in the same order.
    is_damage
        Whether it may be refused as well, and what an image shows is not known.
    """

    title: str
    files: Files
    samples: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    is_damage: bool = False


TWO = {"1.png": image(10), "2.png": image(20)}
CLASSES = {"cat/1.png": image(10), "cat/2.png": image(20), "dog/1.png": image(30)}
GRAYS = (10, 20, 30)
NAMES = ("cat", "cat", "dog")
LONG = "x" * 250
ONE_CLASS = ("images", "images")
# A file that nobody can read as an image, beside two good ones.
BROKEN: dict[str, Content] = {
    "text": b"no image",
    "nothing": b"",
    "HTML": b"<!DOCTYPE html><title>404</title>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "EPS": other_format("EPS"),
    "PCX": other_format("PCX"),
    "PDF": other_format("PDF", "RGB"),
    "TGA": other_format("TGA"),
    "32 bits": other_format("TIFF", "I"),
    "floats": other_format("TIFF", "F"),
    "100,000 px": png_header(100_000, 100_000),
    "2^31 px": png_header(2**31 - 1, 2**31 - 1),
    "0 px": png_header(0, 0),
    "no pixels": png_header(SIZE, SIZE),
    "a pipe": os.mkfifo,
    "a link to nothing": link("nowhere.png"),
    "a link to itself": link("0.png"),
    "a device": link("/dev/zero"),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
}
EMPTY: dict[str, Files] = {
    "nothing": {},
    "text alone": {"notes.txt": b"text"},
    "hidden images": {".1.png": image(), "._2.png": image()},
    "hidden folders": {".cache/1.png": image(), "__MACOSX/1.png": image()},
    "an archive": {"images.zip": b"PK\x05\x06" + bytes(18)},
    "empty folders": {"cat/notes.txt": b"", "dog/notes.txt": b""},
    "a link to itself": {"loop": link(".")},
}
READ: tuple[Case, ...] = (
    Case("classes", CLASSES, GRAYS, NAMES),
    Case("no classes", TWO, (10, 20), ONE_CLASS),
    Case("numbers", {"10.png": image(20), "2.png": image(10)}, (10, 20), ONE_CLASS),
    Case("a loop", {**CLASSES, "cat/loop": link("..")}, GRAYS, NAMES),
    Case("two loops", {**CLASSES, "cat/a": link("../dog"), "dog/b": link("../cat")}, GRAYS, NAMES),
    Case("a link up", {**CLASSES, "cat/up": link("../..")}, GRAYS, NAMES),
    Case("hidden ones", {**CLASSES, "cat/._1.png": b"", ".x/1.png": b""}, GRAYS, NAMES),
    Case("a wrapping folder", {f"all/{k}": v for k, v in CLASSES.items()}, GRAYS, NAMES),
    Case("other files", {**CLASSES, "README": b"", "cat/Thumbs.db": b"x"}, GRAYS, NAMES),
    Case("suffixes", {"1.PNG": image(10), "2.jpeg": image(20)}, (10, 20), ONE_CLASS),
    Case(
        "odd names",
        {"[x]/1.png": image(10), "a b/:smile:.png": image(20), "ü/=1.png": image(30)},
        GRAYS,
        ("[x]", "a b", "ü"),
    ),
    Case(
        "bytes that are no text",
        {os.fsdecode(b"\xff/1.png"): image(10), os.fsdecode(b"\xff/2.png"): image(20)},
        (10, 20),
        (os.fsdecode(b"\xff"),) * 2,
    ),
    Case("line ends", {"a\nb/1.png": image(10), "c/2.png": image(20)}, (10, 20), ("a\nb", "c")),
    Case("long names", {f"{LONG}/{i}.png": image(i) for i in (1, 2)}, (1, 2), (LONG, LONG)),
    Case(
        "deep folders",
        {f"{'d/' * 60}cat/1.png": image(10), f"{'d/' * 60}dog/1.png": image(20)},
        (10, 20),
        ("cat", "dog"),
    ),
    Case("a folder named as an image", {"1.png/1.png": image(10), "2.png/1.png": image(20)},
         (10, 20), ("1.png", "2.png")),
    Case("several sizes", {"1.png": image(10), "2.png": image(20, size=(9, 12))}, None, ONE_CLASS),
    Case("parts", {f"{part}/{name}/1.png": image(10) for part in ("train", "test")
                   for name in ("cat", "dog")}, (10,) * 4, ("cat", "dog", "cat", "dog")),
    Case("a part beside a class", {"train/1.png": image(10), "cat/1.png": image(20)}, (20, 10)),
    Case("images beside folders", {"1.png": image(10), "cat/1.png": image(20)}, (10, 20)),
    Case("an empty class", {**CLASSES, "bird": Path.mkdir}, GRAYS),
)  # fmt: skip
ROWS = "1.png,a\n2.png,b\n"
TABLES: dict[str, tuple[str, Content, tuple[str, ...] | None]] = {
    "plain": ("csv", b"file_name,label\n1.png,a\n2.png,b\n", ("a", "b")),
    "a BOM": ("csv", f"file_name,label\n{ROWS}".encode("utf-8-sig"), ("a", "b")),
    "UTF-16": ("csv", f"file_name,label\n{ROWS}".encode("utf-16"), ("a", "b")),
    "semicolons": ("csv", b"label;file_name\nb;2.png\na;1.png\n", ("a", "b")),
    "formulas": ("csv", b"file_name,label\n1.png,=1+1\n2.png,+1\n", ("=1+1", "+1")),
    "nothing": ("csv", b"", None),
    "a header": ("csv", b"file_name,label\n", None),
    "zeros": ("csv", bytes(100), None),
    "other columns": ("csv", b"name,class\n1.png,a\n", None),
    "an image that is not there": ("csv", b"file_name,label\n1.png,a\n3.png,b\n", None),
    "a path outside": ("csv", b"file_name,label\n../1.png,a\n2.png,b\n", None),
    "a full path": ("csv", b"file_name,label\n/1.png,a\n2.png,b\n", None),
    "an image less": ("csv", b"file_name,label\n1.png,a\n", None),
    "rows twice": ("csv", f"file_name,label\n{ROWS}{ROWS}".encode(), None),
    "columns twice": ("csv", b"file_name,label,label\n1.png,a,b\n2.png,b,a\n", None),
    "an empty label": ("csv", b"file_name,label\n1.png,\n2.png,b\n", None),
    "a short row": ("csv", b"file_name,label\n1.png\n2.png,b\n", None),
    "a long row": ("csv", b"file_name,label\n1.png,a,b\n2.png,b\n", None),
    "an open quote": ("csv", b'file_name,label\n1.png,"a\n2.png,b\n', None),
    "a cell of 1 MB": ("csv", b"file_name,label\n1.png," + b"x" * 10**6 + b"\n2.png,b\n", None),
    "Latin-1": ("csv", "file_name,label\n1.png,é\n2.png,b\n".encode("latin-1"), None),
    "half of UTF-16": ("csv", f"file_name,label\n{ROWS}".encode("utf-16")[:-1], None),
    "a NUL": ("csv", b"file_name,label\n1.png,a\0\n2.png,b\n", None),
    "a pipe": ("csv", os.mkfifo, None),
    "a folder": ("csv", Path.mkdir, None),
    "lines": ("jsonl", b'{"file_name": "1.png", "label": 1}\n{"file_name": "2.png", "label": 0}',
              ("1", "0")),
    "a list": ("jsonl", b"[1]\n", None),
    "a number": ("jsonl", b"5\n", None),
    "half a line": ("jsonl", b'{"file_name": "1.png", "la', None),
    "null": ("jsonl", b'{"file_name": "1.png", "label": null}\n', None),
    "numbers as names": ("jsonl", b'{"file_name": 1, "label": 1}\n', None),
    "lists as names": ("jsonl", b'{"file_name": ["1.png"], "label": 1}\n', None),
    "nested lines": ("jsonl", b'{"a":' * 100_000, None),
    "5,000 digits": ("jsonl", b'{"file_name": "1.png", "label": ' + b"1" * 5000 + b"}\n", None),
    "a table of Parquet": ("parquet", b"PAR1", None),
}  # fmt: skip


def patch(evaluate: Command, monkeypatch: Any) -> None:
    """End evaluate with its sets, and dataset with the classes of the images and their pixels."""
    npz_inputs.patch(evaluate, monkeypatch)

    def decode_and_accept(dataset: Dataset, *_: Any) -> None:
        pixels = [dataset.source.decode(i) for i in range(len(dataset.labels))]
        assert {image.shape for image in pixels} == {(SIZE, SIZE, 1)}
        accept([dataset.classes[label] for label in dataset.labels])

    monkeypatch.setattr(Dataset, "prepare", decode_and_accept)


def build(evaluate: Command, dataset: Command, folder: Path) -> Iterator[Input]:
    """All inputs of the area."""
    reference = folder / "reference.npz"
    reference.write_bytes(npz_inputs.to_npz(arr_0=npz_inputs.IMAGES))
    flags = ("--lpips=none", "--spaces=pixels", "--k=1", f"--workdir={folder / 'out'}")
    samples = folder / "samples"

    def run(files: Files, command: Command, *arguments: object) -> Any:
        shutil.rmtree(samples, ignore_errors=True)
        write(samples, files)
        outcome = command.run(*arguments)
        assert not (folder / "out").exists()
        return outcome

    for case in _cases():
        damage = {"may_be_refused": case.is_damage, "names": ("samples",)}
        yield Input(
            f"evaluate: {case.title}",
            lambda c=case: run(
                c.files, evaluate, f"--samples={samples}", f"--reference={reference}", *flags
            ),
            _compare(case, case.samples, lambda sets: sets["samples"][:, 0, 0, 0].tolist()),
            **damage,
        )
        name = f"--name=folder:{samples}"
        yield Input(
            f"dataset: {case.title}",
            lambda c=case, n=name: run(
                c.files, dataset, n, f"--size={SIZE}", "--channels=1", f"--cache={folder / 'out'}"
            ),
            _compare(case, case.classes, lambda read: read),
            **damage,
        )


def _compare(
    case: Case, expected: tuple | None, read: Callable[[Any], list]
) -> Callable[[Any], bool] | None:
    if case.is_damage:
        return lambda value: True
    return None if expected is None else lambda value: tuple(read(value)) == expected


def _cases() -> Iterator[Case]:
    yield from READ
    for title, content in BROKEN.items():
        yield Case(f"an image of {title}", {**TWO, "0.png": content})
    for title, files in EMPTY.items():
        yield Case(f"a folder of {title}", files)
    for title, (suffix, content, classes) in TABLES.items():
        # evaluate reads no table
        files = {**TWO, f"metadata.{suffix}": content}
        yield Case(f"a table of {title}", files, (10, 20), classes)
    both = {**TWO, "metadata.csv": b"", "metadata.jsonl": b""}
    yield Case("both tables", both, (10, 20))
    for kind in FORMATS:
        data = noise(kind)
        for length in CUTS:
            yield Case(f"{kind} cut at {length}", {**TWO, "0.png": data[:length]})
    rng = np.random.default_rng(0)
    for kind in FORMATS:
        for place in rng.integers(0, 60, FLIPS).tolist():
            changed = bytearray(noise(kind))
            changed[place] ^= 1 << int(rng.integers(0, 8))
            title = f"{kind} with a flipped bit in byte {place}"
            yield Case(title, {**TWO, "0.png": bytes(changed)}, is_damage=True)


def write(folder: Path, files: Files) -> None:
    """Write a folder's files."""
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
