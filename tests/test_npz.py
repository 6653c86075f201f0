"""An .npz file is read where it is whole; no memory is asked for that a header makes up."""

import io
import struct
import zipfile

import numpy as np
import pytest

from jaxdiff import weights
from jaxdiff.datasets.image_io import read_images
from jaxdiff.npz import open_npz, read_npz

ZEROS = np.zeros((4, 8), np.uint8)


def make_header(shape, descr="|u1"):
    file = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, fields)
    return file.getvalue()


def write_archive(path, data):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data)


def read(path):
    with open_npz(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [ZEROS, ZEROS.T, np.float64(3), ZEROS[:0], np.array(["ab"])])
def test_arrays_are_read_as_they_were_written(tmp_path, save, array):
    path = tmp_path / "a.npz"
    save(path, array, other=ZEROS)
    arrays = read(path)
    assert list(arrays) == ["other", "arr_0"]
    np.testing.assert_array_equal(arrays["arr_0"], array)
    assert arrays["arr_0"].dtype == np.asarray(array).dtype


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ((10**7, 1000, 1000, 1), "|u1"),
        ((10**30, 8), "|u1"),
        ((3000, 1000, 1000), "|u1"),
        ((33,), "|u1"),
        ((31,), "|u1"),
        ((-1,), "|u1"),
        ((32,), "<f8"),
        ((4,), "|O"),
        ("abc", "|u1"),
        ((32,), "zz"),
    ],
)
def test_a_header_that_does_not_fit_its_bytes_is_refused(tmp_path, shape, descr):
    path = tmp_path / "a.npz"
    write_archive(path, make_header(shape, descr) + bytes(32))
    with pytest.raises(
        ValueError, match=r"a.npz must be a whole .npz file of arrays \(.+\); write"
    ):
        read(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"no zip at all, but long enough to be something",
        lambda data: data[: len(data) // 2],
        lambda data: data[:150] + b"x" + data[151:],
        lambda data: data.replace(b"NUMPY", b"numpy"),
    ],
    ids=["empty", "text", "cut", "flipped", "magic"],
)
def test_a_damaged_file_is_one_sentence_without_advice_of_numpys(tmp_path, change):
    path = tmp_path / "a.npz"
    np.savez(path, ZEROS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a.npz must be a whole .npz file of arrays \(") as error:
        read(path)
    assert "pickle" not in str(error.value)
    assert "\n" not in str(error.value)


def test_memory_that_does_not_suffice_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, ZEROS)

    def refuse(*_, **__):
        raise MemoryError("Unable to allocate 4 GiB")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    with pytest.raises(MemoryError, match=r"a.npz: Unable to allocate 4 GiB"):
        read(path)


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"


def to_npy(header: str) -> bytes:
    """An .npy file with this header and 4 bytes of data."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(4)


def write_zip(path, data, compression=0, flags=0):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", data)
    content = bytearray(path.read_bytes())
    for start, flag_offset in ((0, 6), (content.index(b"PK\x01\x02"), 8)):
        struct.pack_into("<HH", content, start + flag_offset, flags, compression)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (to_npy(HEADER % "(100000000000000, 8)"), {}, "its header asks for"),
        (to_npy(HEADER % "(5,)"), {}, "its header asks for 5"),
        (to_npy("(" * 3000), {}, r"\(.+\)"),
        (to_npy("\0"), {}, r"\(.+\)"),
        (b"text", {}, "magic"),
        (b"", {}, "magic"),
        (to_npy(HEADER % "(4,)"), {"compression": 99}, "compression method is not supported"),
        (to_npy(HEADER % "(4,)"), {"flags": 1}, "is encrypted"),
    ],
)
@pytest.mark.parametrize("read", [read_npz, read_images, weights.read])
def test_a_damaged_file_is_named(data, options, reason, read, tmp_path):
    path = tmp_path / "a.npz"
    write_zip(path, data, **options)
    with pytest.raises(ValueError, match=rf"a.npz must be a whole .npz file of arrays .*{reason}"):
        read(path)
