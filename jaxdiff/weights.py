"""Arrays from weights files of any origin, without running what is in them; no JAX.

Pickles (NumPy's and PyTorch's) go through an unpickler that builds arrays, containers and numbers
and refuses every other name, so that a downloaded file cannot run code.
"""

import io
import math
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath

from jaxdiff import files
from jaxdiff.npz import read_npz

TORCH_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# safetensors.numpy has no bfloat16.
SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LARGEST = float(np.finfo(np.float32).max)
LEGACY_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's format before 1.6
UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    TypeError,
    UnicodeDecodeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
Storage = Callable[[type, str, int], np.ndarray]  # its type, key and number of elements


def read(path: epath.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a weights file by dotted name.

    Parameters
    ----------
    path
        A .safetensors, .npz, .pth, .pt, .bin or .ckpt file.
    sha256
        Expected checksum; None accepts any.

    Raises
    ------
    ValueError
        Where the checksum differs, or the file holds anything but arrays of finite numbers.
    """
    path = epath.Path(path)
    if sha256 is not None:
        actual = files.sha256(path)
        if actual != sha256:
            raise ValueError(
                f"{path} has the SHA-256 {actual[:12]}..., {sha256[:12]}... was expected; get the "
                "file again"
            )
    data = path.read_bytes()
    if data.startswith(LFS_POINTER):
        raise ValueError(
            f"{path} is a Git LFS pointer in place of the weights; run git lfs pull in its folder, "
            "or get the file again"
        )
    try:
        arrays = _read(data, path)
    except (*UNPICKLING_ERRORS, safetensors.SafetensorError) as error:
        raise ValueError(
            f"cannot read weights from {path} ({error}); get a complete file that holds only arrays"
        ) from None
    check_finite(arrays, path)
    return arrays


def check_finite(arrays: Mapping[str, np.ndarray], path: epath.PathLike) -> None:
    """Check that every number is one of float32.

    Parameters
    ----------
    arrays
        Arrays by name; those of other types than floating point are left out.
    path
        Where they are from, for error messages.

    Raises
    ------
    ValueError
        For the first array that has NaN, infinity, or what float32 turns into infinity.
    """
    for name, array in arrays.items():
        if not is_floating(array.dtype) or not array.size:
            continue
        # Some versions warn of NaN in bfloat16.
        with np.errstate(invalid="ignore"):
            ends = (float(array.min()), float(array.max()))
        # NaN is in no order, so that it is refused as well.
        if not max(map(abs, ends)) <= LARGEST:
            raise ValueError(
                f"weights must be finite float32 numbers, and {name} in {path} has others; take "
                "another checkpoint, or get the file again"
            )


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers are floating point, of NumPy's types or bfloat16."""
    return np.issubdtype(dtype, np.floating) or dtype == ml_dtypes.bfloat16


def unpickle(data: bytes, name: epath.PathLike) -> Any:
    """The arrays, containers and numbers of a pickle; nothing in it is run.

    Parameters
    ----------
    data
        The pickle.
    name
        Where it is from, for error messages.

    Raises
    ------
    ValueError
        Where it holds anything else.
    """
    try:
        return _unpickle(data)
    except UNPICKLING_ERRORS as error:
        raise ValueError(
            f"{name} is no pickle of arrays ({error}); get a complete file that holds only arrays"
        ) from None


def _read(data: bytes, path: epath.Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return _read_safetensors(data)
    if path.suffix == ".npz":
        return read_npz(path)
    return _flatten(_unpickle(data), path)


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in safetensors.deserialize(data):
        flat = np.frombuffer(tensor["data"], SAFETENSORS_DTYPES[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    return arrays


def _flatten(tree: Any, path: epath.Path, name: str = "") -> dict[str, np.ndarray]:
    """Nested dictionaries as one, with keys joined by dots."""
    if isinstance(tree, dict):
        arrays: dict[str, np.ndarray] = {}
        for key, child in tree.items():
            arrays |= _flatten(child, path, f"{name}.{key}" if name else str(key))
        return arrays
    if not isinstance(tree, np.ndarray) or tree.dtype.hasobject:
        raise ValueError(f"{path} must hold only arrays, got a {type(tree).__name__} at {name!r}")
    return {name: tree}


def _unpickle(data: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _read_torch_zip(data)
    file = io.BytesIO(data)
    first = RestrictedUnpickler(file, _no_storage).load()
    if first == LEGACY_TORCH_MAGIC:
        return _read_torch_legacy(file, len(data))
    return first


def _read_torch_zip(data: bytes) -> Any:
    """PyTorch's format since 1.6: data.pkl, and one file a storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        main = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if main is None:
            raise pickle.UnpicklingError("no data.pkl in the archive")
        folder = main.removesuffix("data.pkl")

        def read_storage(dtype: type, key: str, size: int) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)

        return RestrictedUnpickler(io.BytesIO(archive.read(main)), read_storage).load()


def _read_torch_legacy(file: io.BytesIO, length: int) -> Any:
    """PyTorch's format before 1.6, which published EfficientNet and Inception weights have.

    Version, system, the object, the storages' keys, then the storages one after the other.
    """
    for _ in ("version", "system"):
        RestrictedUnpickler(file, _no_storage).load()
    storages: dict[str, np.ndarray] = {}

    def allocate_storage(dtype: type, key: str, size: int) -> np.ndarray:
        # A crafted file could otherwise ask for more memory than the machine has.
        if size * np.dtype(dtype).itemsize > length:
            raise pickle.UnpicklingError(f"a storage of {size} numbers in a file of {length} bytes")
        return storages.setdefault(key, np.empty(size, dtype))

    # Its tensors are views of the storages, which are filled afterwards.
    tree = RestrictedUnpickler(file, allocate_storage).load()
    for key in RestrictedUnpickler(file, _no_storage).load():
        storage = storages[key]
        # Each storage begins with its number of elements.
        size = int.from_bytes(file.read(8), "little")
        data = file.read(size * storage.itemsize)
        if size != len(storage) or len(data) != storage.nbytes:
            raise EOFError(f"the file ends within the storage {key}")
        storage[:] = np.frombuffer(data, storage.dtype)
    return tree


def _no_storage(dtype: type, key: str, size: int) -> np.ndarray:
    raise pickle.UnpicklingError("a reference to a storage that the file does not have")


def _rebuild_tensor(
    storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_: Any
) -> np.ndarray:
    """torch._utils._rebuild_tensor_v2: a strided view, inside its storage."""
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    is_negative = min((offset, *stride, *shape)) < 0
    # A crafted file could otherwise read memory that is not its own.
    if is_negative or (math.prod(shape) and last >= len(storage)):
        raise pickle.UnpicklingError(
            f"a tensor of shape {shape} that leaves its storage of {len(storage)} numbers"
        )
    strides = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)


def _rebuild_parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as pickles of protocol 2 have them."""
    return text.encode("latin1")


# What NumPy's arrays are rebuilt by; its module was renamed in NumPy 2.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("_codecs", "encode"): _encode,
}
ALLOWED |= {("torch", name): dtype for name, dtype in TORCH_STORAGES.items()}


class RestrictedUnpickler(pickle.Unpickler):
    """Builds arrays, containers, numbers and text, and refuses everything else by name."""

    def __init__(self, file: io.BytesIO, storage: Storage):
        super().__init__(file, encoding="latin1")  # the bytes of Python 2's arrays
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are read")
        return ALLOWED[module, name]

    def persistent_load(self, pid: tuple) -> np.ndarray:
        # ("storage", type, key, device, size), and before 1.6 what the storage is a view of.
        _, dtype, key, _, size, *_ = pid
        return self.storage(dtype, key, size)
