"""Reading .npz files of any origin: arrays alone, or one sentence. No JAX."""

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
from etils import epath

from jaxdiff import files

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
    MemoryError,
    OSError,
    RuntimeError,  # encrypted, an unknown compression, or nested too deeply
    SyntaxError,
    TypeError,
    ValueError,
)
Select = Callable[[Sequence[str]], Sequence[str]]


def read_npz(path: epath.PathLike, select: Select = list) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, and nothing but arrays.

    Parameters
    ----------
    path
        The file.
    select
        Chooses which arrays are read, of their names; by default all.

    Raises
    ------
    ValueError
        Where the file is damaged, or holds something else.
    """
    path = epath.Path(path)
    try:
        with _open(path) as file:
            arrays = _load(file, select)
    except DAMAGES as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} must be an .npz file, but {reason}; write it again") from None
    return arrays


def _open(path: epath.Path) -> BinaryIO:
    # NumPy seeks in the file, which a bucket's files cannot do.
    return io.BytesIO(path.read_bytes()) if files.is_in_bucket(path) else path.open("rb")


def _load(file: BinaryIO, select: Select) -> dict[str, np.ndarray]:
    # Arrays of objects are pickles, which can run code.
    archive = np.load(file, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError("it is an .npy file, of one array")
    with archive:
        arrays = {name: archive[name] for name in select(archive.files)}
    for name, array in arrays.items():
        # NumPy returns the bytes of a member that is no .npy file.
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} in it is no array")
    return arrays
