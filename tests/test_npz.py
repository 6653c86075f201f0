"""Files of arrays from anywhere: what they hold, or one sentence that names them."""

import struct
import zipfile

import numpy as np
import pytest

from jaxdiff import weights
from jaxdiff.datasets.image_io import read_images
from jaxdiff.npz import read_npz

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
        (to_npy(HEADER % "(100000000000000, 8)"), {}, "Unable to allocate"),
        (to_npy(HEADER % "(5,)"), {}, "EOF: reading array data"),
        (to_npy("(" * 3000), {}, "nested parentheses"),
        (to_npy("\0"), {}, "null bytes"),
        (b"text", {}, "arr_0 in it is no array"),
        (b"", {}, "arr_0 in it is no array"),
        (to_npy(HEADER % "(4,)"), {"compression": 99}, "compression method is not supported"),
        (to_npy(HEADER % "(4,)"), {"flags": 1}, "is encrypted"),
    ],
)
@pytest.mark.parametrize("read", [read_npz, read_images, weights.read])
def test_a_damaged_file_is_named(data, options, reason, read, tmp_path):
    path = tmp_path / "a.npz"
    write_zip(path, data, **options)
    with pytest.raises(ValueError, match=rf"a.npz must be an .npz file, but .*{reason}"):
        read(path)


@pytest.mark.parametrize("read", [read_npz, read_images, weights.read])
def test_what_is_no_archive_is_named(read, tmp_path):
    path = tmp_path / "a.npz"
    for data, reason in ((b"no zip", "pickled|not .* zip"), (to_npy(HEADER % "(4,)"), "an .npy")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"a.npz must be an .npz file, but .*({reason})"):
            read(path)


def test_only_selected_arrays_are_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=np.arange(3), names=np.array(["a", None], object))
    assert read_npz(path, lambda names: ["arr_0"])["arr_0"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="allow_pickle"):
        read_npz(path)
