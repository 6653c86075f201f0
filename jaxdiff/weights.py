"""Arrays from weights files of any origin, without running what is in them. No JAX.

Pickles (NumPy's and PyTorch's) go through an unpickler that builds arrays, containers and numbers and refuses every
other name, so that a file from the network cannot run code.
"""

import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from jaxdiff import files

STORAGES = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16, "LongStorage": np.int64,
    "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_, "BFloat16Storage": ml_dtypes.bfloat16,
}  # fmt: skip
SAFETENSORS = {  # safetensors.numpy has no bfloat16
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's older file format


def read(path: epath.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors, .npz, .pth, .pt, .bin or .ckpt file, by dotted name.

    Raises ValueError where the checksum differs from `sha256`, where the file holds anything but arrays, or where it is
    of another kind.
    """
    path = epath.Path(path)
    if sha256 is not None and (found := files.sha256(path)) != sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found[:12]}..., {sha256[:12]}... was expected; get the file again"
        )
    try:
        return _read(path.read_bytes(), path)
    except (*_BROKEN, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} is no weights file that can be read ({error}); get a whole one that holds arrays alone"
        ) from None


def unpickle(data: bytes, name: epath.PathLike) -> Any:
    """The arrays, containers and numbers of a pickle; nothing in it is run. Raises ValueError, saying `name`, for others."""
    try:
        return _unpickle(data)
    except _BROKEN as error:
        raise ValueError(
            f"{name} is no pickle of arrays ({error}); get a whole one that holds arrays alone"
        ) from None


_BROKEN = (
    pickle.UnpicklingError, EOFError, IndexError, KeyError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error
)  # fmt: skip


def _read(data: bytes, path: epath.Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        tensors = safetensors.deserialize(data)
        return {
            n: np.frombuffer(t["data"], SAFETENSORS[t["dtype"]]).reshape(t["shape"])
            for n, t in tensors
        }
    if path.suffix == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    return _flat(_unpickle(data), path)


def _flat(tree: Any, path: epath.Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dictionaries as one, keys joined by dots."""
    if isinstance(tree, dict):
        return {
            k: v
            for key, child in tree.items()
            for k, v in _flat(child, path, f"{prefix}{key}.").items()
        }
    if not isinstance(tree, np.ndarray) or tree.dtype.hasobject:
        raise ValueError(
            f"{path} holds a {type(tree).__name__} at {prefix[:-1]!r} where only arrays are expected"
        )
    return {prefix[:-1]: tree}


def _unpickle(data: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _torch_zip(data)
    file = io.BytesIO(data)
    first = _Unpickler(file, _no_storage).load()
    return _torch_legacy(file, len(data)) if first == TORCH_MAGIC else first


def _torch_zip(data: bytes) -> Any:
    """PyTorch's format since 1.6: data.pkl, and one file a storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        main = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if main is None:
            raise pickle.UnpicklingError("no data.pkl in the archive")
        folder = main.removesuffix("data.pkl")

        def storage(kind: type, key: str, size: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), kind)

        return _Unpickler(io.BytesIO(archive.read(main)), storage).load()


def _torch_legacy(file: io.BytesIO, length: int) -> Any:
    """PyTorch's older format: version, system, the object, the storages' keys, then the storages one after another."""
    for _ in range(2):
        _Unpickler(file, _no_storage).load()
    storages: dict[str, np.ndarray] = {}

    def storage(kind: type, key: str, size: int) -> np.ndarray:
        if size * np.dtype(kind).itemsize > length:
            raise pickle.UnpicklingError(f"a storage of {size} numbers in a file of {length} bytes")
        return storages.setdefault(
            key, np.empty(size, kind)
        )  # filled below; tensors are views of it

    tree = _Unpickler(file, storage).load()
    for key in _Unpickler(file, _no_storage).load():
        size = int.from_bytes(file.read(8), "little")
        storages[key][:size] = np.frombuffer(
            file.read(size * storages[key].itemsize), storages[key].dtype
        )
    return tree


def _no_storage(kind: type, key: str, size: int) -> np.ndarray:
    raise pickle.UnpicklingError("a reference to a storage that the file does not have")


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2: a strided view, inside its storage."""
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min((offset, *stride, *size)) < 0 or (math.prod(size) and last >= len(storage)):
        raise pickle.UnpicklingError(
            f"a tensor of shape {size} that leaves its storage of {len(storage)} numbers"
        )
    steps = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


def _allowed() -> dict[tuple[str, str], Any]:
    reconstruct = np.empty(0).__reduce__()[0]
    names: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, _: text.encode(
            "latin1"
        ),  # bytes in pickles of protocol 2
    }
    names |= {
        (f"numpy.{core}.multiarray", "_reconstruct"): reconstruct for core in ("core", "_core")
    }
    return names | {("torch", name): kind for name, kind in STORAGES.items()}


class _Unpickler(pickle.Unpickler):
    """Arrays, containers, numbers and text; nothing else, by name."""

    ALLOWED = _allowed()

    def __init__(self, file: io.BytesIO, storage: Callable[[type, str, int], np.ndarray]):
        super().__init__(file, encoding="latin1")  # the bytes of Python 2's arrays
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are read")
        return self.ALLOWED[module, name]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, kind, key, _, size, *_ = pid
        return self.storage(kind, key, size)
