"""Arrays of .npz files, each checked before memory is asked for. No JAX."""

import contextlib
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from jaxdiff import files

FIRST_HEADER = np.lib.format.read_array_header_1_0
LATER_HEADER = np.lib.format.read_array_header_2_0
SUFFIX = ".npy"  # of an array in the archive
# What NumPy and zipfile raise for a damaged file, whose bytes may say anything.
DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # encrypted, or an unknown compression
    SyntaxError,
    TypeError,
    ValueError,
)


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an open archive by name, each read when it is asked for."""

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._members = {
            member.filename.removesuffix(SUFFIX): member
            for member in archive.infolist()
            if member.filename.endswith(SUFFIX)
        }

    def __getitem__(self, name: str) -> np.ndarray:
        member = self._members[name]
        self._check_header(member, name)
        with self._archive.open(member) as file:
            # Arrays of objects are pickles, which can run code.
            return np.lib.format.read_array(file, allow_pickle=False)

    def _check_header(self, member: zipfile.ZipInfo, name: str) -> None:
        """Compare what an array's header asks for with the bytes that follow."""
        with self._archive.open(member) as file:
            is_first = np.lib.format.read_magic(file) == (1, 0)
            read = FIRST_HEADER if is_first else LATER_HEADER
            shape, _, dtype = read(file)
            actual = member.file_size - file.tell()
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        expected = math.prod(shape) * dtype.itemsize
        if expected != actual:
            raise ValueError(f"{name} has {actual:,} bytes, and its header asks for {expected:,}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


@contextlib.contextmanager
def open_npz(path: epath.PathLike) -> Iterator[Mapping[str, np.ndarray]]:
    """Open an .npz file to read some of its arrays, and nothing but arrays.

    Raises
    ------
    ValueError
        Where the file is damaged, or an array's header asks for more or less than is there.
    """
    try:
        with _open(epath.Path(path)) as file, zipfile.ZipFile(file) as archive:
            yield Arrays(archive)
    except MemoryError as error:
        raise MemoryError(f"{path}: {error}") from None
    except DAMAGES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} must be a whole .npz file of arrays ({reason}); write or copy it again"
        ) from None


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file; errors are those of `open_npz`."""
    with open_npz(path) as arrays:
        return dict(arrays)


def _open(path: epath.Path) -> io.BufferedIOBase:
    # zipfile seeks in the file, which a bucket's files cannot do.
    return io.BytesIO(path.read_bytes()) if files.is_in_bucket(path) else open(path, "rb")
