"""Files of arrays for `experiments.evaluate`: damaged, of another form, or of another size."""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.evaluation import check_sets
from tests.experiments.fuzz.boundary import Command, Input, Outcome, accept
from tests.experiments.fuzz.model_inputs import Call

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
FLIPS = 60  # bits of a good file, one at a time
CUTS = 20  # lengths at which a good file is cut
# What evaluate cannot measure, by what is wrong with it.
ARRAYS: dict[str, dict[str, Any]] = {
    "floats": {"arr_0": IMAGES / 255},
    "float32 of 0 to 255": {"arr_0": IMAGES.astype(np.float32)},
    "NaN": {"arr_0": np.full((6, 8, 8, 1), np.nan)},
    "int64": {"arr_0": IMAGES.astype(np.int64)},
    "int8": {"arr_0": IMAGES.astype(np.int8)},
    "uint16": {"arr_0": IMAGES.astype(np.uint16)},
    "bool": {"arr_0": IMAGES > 99},
    "complex": {"arr_0": IMAGES.astype(complex)},
    "text": {"arr_0": np.array(["a", "b"])},
    "bytes": {"arr_0": np.array([b"a", b"b"])},
    "times": {"arr_0": np.zeros((6, 8, 8, 1), "M8[s]")},
    "records": {"arr_0": np.zeros((6, 8, 8, 1), [("r", "u1"), ("g", "u1")])},
    "nothing in it": {"arr_0": np.zeros(0, np.uint8)},
    "a number": {"arr_0": np.uint8(5)},
    "labels": {"arr_0": np.arange(6)},
    "three axes": {"arr_0": IMAGES[..., 0]},
    "five axes": {"arr_0": IMAGES[None]},
    "two channels": {"arr_0": np.repeat(IMAGES, 2, -1)},
    "four channels": {"arr_0": np.repeat(IMAGES, 4, -1)},
    "no channel": {"arr_0": IMAGES[..., :0]},
    "channels first": {"arr_0": np.moveaxis(np.repeat(IMAGES, 3, -1), -1, 1)},
    "no images": {"arr_0": IMAGES[:0]},
    "one image": {"arr_0": IMAGES[:1]},
    "no rows": {"arr_0": IMAGES[:, :0]},
    "no columns": {"arr_0": IMAGES[:, :, :0]},
    "another size": {"arr_0": IMAGES[:, :4, :4]},
    "rows less": {"arr_0": IMAGES[:, :4]},
    "color": {"arr_0": np.repeat(IMAGES, 3, -1)},
    "no arrays": {},
    "two other names": {"images": IMAGES, "more": IMAGES},
    "labels alone": {"label": np.arange(6)},
}
ACCEPTED: dict[str, tuple[dict[str, Any], np.ndarray]] = {
    "one array of another name": ({"images": IMAGES}, IMAGES),
    "more arrays": ({"arr_0": IMAGES, "seeds": np.arange(6)}, IMAGES),
    "a column first": ({"arr_0": np.asfortranarray(IMAGES)}, IMAGES),
    "fewer images": ({"arr_0": IMAGES[:2]}, IMAGES[:2]),
    "equal images": ({"arr_0": np.zeros_like(IMAGES)}, np.zeros_like(IMAGES)),
}
GOOD_HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 8, 8, 1), }"
# Headers of an array of uint8, whose data are 384 bytes.
HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 1, 1, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, 8, 8, -1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (7, 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': 384, }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': ('6', 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (6.0, 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': 5, 'shape': (6, 8, 8, 1), }",
    "{'descr': '|u9', 'fortran_order': False, 'shape': (6, 8, 8, 1), }",
    "{'descr': 'zz', 'fortran_order': False, 'shape': (6, 8, 8, 1), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (6, 8, 8, 1), }",
    "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (6, 8, 8, 1), }",
    "{'descr': [('a', '|u1')] * 9, 'fortran_order': False, 'shape': (6, 8, 8, 1), }",
    "{'descr': '|u1', 'shape': (6, 8, 8, 1), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 8, 8, 1), 'more': 1, }",
    "{}",
    "5",
    "",
    "(" * 3000,
    "__import__('os').system('touch headers_were_run')",
    "\0",
)


def patch(evaluate: Command, monkeypatch: Any) -> None:
    """End evaluate where the images are read and checked, with the sets."""

    def check_and_accept(sets: Any, reference: Any, settings: Any, *_: Any) -> None:
        check_sets(sets, reference, settings)
        accept(sets)

    monkeypatch.setattr(evaluate.module, "evaluate", check_and_accept)


def build(evaluate: Command, folder: Path) -> Iterator[Input]:
    """All inputs of the area, as samples and as the reference in turn."""
    good = folder / "good.npz"
    good.write_bytes(to_npz(arr_0=IMAGES))
    path = folder / "samples.npz"
    flags = ("--lpips=none", "--spaces=pixels", "--k=1", f"--workdir={folder / 'out'}")

    def run(data: bytes, is_reference: bool) -> Outcome:
        path.write_bytes(data)
        names = (good, path) if is_reference else (path, good)
        outcome = evaluate.run(f"--samples={names[0]}", f"--reference={names[1]}", *flags)
        assert not (folder / "out").exists()
        return outcome

    for position, (title, data, images) in enumerate(_files()):
        # Damage need not change what a file says.
        may_be_refused = "byte" in title
        is_reference = position % 2 == 1 and images is None
        yield Input(
            title,
            lambda d=data, r=is_reference: run(d, r),
            None if images is None else lambda sets, i=images: _is_equal(sets, i),
            may_be_refused=may_be_refused,
            names=("samples",),
        )


def _is_equal(sets: dict[str, np.ndarray], images: np.ndarray) -> bool:
    return np.array_equal(sets["samples"], images)


def _files() -> Iterator[tuple[str, bytes, np.ndarray | None]]:
    """What a file holds, its bytes, and the images that it says; None where it says none."""
    for title, arrays in ARRAYS.items():
        yield title, to_npz(**arrays), None
    for title, (arrays, images) in ACCEPTED.items():
        yield title, to_npz(**arrays), images
    yield "stored without compression", to_npz(np.savez, arr_0=IMAGES), IMAGES
    for header in HEADERS:
        yield f"a header {header[:90]!r}", to_zip(to_npy(header)), None
    yield "objects", to_npz(arr_0=np.array([Call(), None], object)), None
    for title, data in _archives():
        yield title, data, None
    npy = to_npy(GOOD_HEADER)
    yield "bytes of 4 GB", _with_field(to_zip(npy), 22, 24, 0xFFFFFF00, "<I"), IMAGES
    for save in (np.savez_compressed, np.savez):
        good = to_npz(save, arr_0=IMAGES)
        for length in np.linspace(0, len(good) - 1, CUTS // 2).astype(int):
            yield f"{save.__name__} cut at {length}", good[:length], None
        # the ends describe the archive, the middle is the images'
        ends = np.concatenate([RNG.integers(0, 200, FLIPS // 4), -RNG.integers(1, 80, FLIPS // 4)])
        for place in ends.tolist():
            changed = bytearray(good)
            bit = int(RNG.integers(0, 8))
            changed[place] ^= 1 << bit
            yield f"{save.__name__} with bit {bit} of byte {place}", bytes(changed), IMAGES


def _archives() -> Iterator[tuple[str, bytes]]:
    npy = to_npy(GOOD_HEADER)
    yield "text", b"no archive"
    yield "an .npy", npy
    yield "an empty archive", to_zip()
    yield "no .npy in it", to_zip(b"text", name="arr_0.txt")
    yield "an .npy that is text", to_zip(b"text")
    yield "an .npy of nothing", to_zip(b"")
    yield "an .npy of another version", to_zip(npy[:6] + b"\x09\x00" + npy[8:])
    yield "half an .npy", to_zip(npy[:200])
    yield "zeros", bytes(500)
    yield "an unknown compression", _with_field(to_zip(npy), 8, 10, 99)
    yield "an encrypted member", _with_field(to_zip(npy), 6, 8, 1)


def to_npz(save: Callable[..., None] = np.savez_compressed, **arrays: Any) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def to_zip(*members: bytes, name: str = "arr_0.npy") -> bytes:
    """An archive of members under one name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def to_npy(header: str) -> bytes:
    """The bytes of an .npy file with this header."""
    text = (header + "\n").encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + IMAGES.tobytes()


def _with_field(data: bytes, local: int, central: int, value: int, kind: str = "<H") -> bytes:
    """An archive with another value in a field of its only member's two headers."""
    changed = bytearray(data)
    struct.pack_into(kind, changed, local, value)
    struct.pack_into(kind, changed, data.index(b"PK\x01\x02") + central, value)
    return bytes(changed)
