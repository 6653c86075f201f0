"""Images that people bring: a folder of image files or an .npz, as one uint8 array."""

import io
import zipfile
import zlib

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxdiff.files import walk

Pixels = UInt8[np.ndarray, "_height _width _channel"]
SUFFIXES = frozenset(Image.registered_extensions())


def read_images(path: epath.PathLike, size: int | None = None) -> UInt8[np.ndarray, "n h w c"]:
    """All images of a folder (and the folders in it, in the order of their paths) or of an .npz, [n, h, w, 1 or 3].

    Grey where all are grey, RGB otherwise; `size` resizes to squares after cropping the middle. An .npz holds uint8
    [n, h, w, c] under arr_0 (as ADM's evaluator reads) or as its only array. Raises ValueError, naming the file, for a
    broken image, images of different sizes, fewer than two images, or another kind of file.
    """
    path = epath.Path(path)
    if not path.exists():
        raise ValueError(
            f"there is no file or folder {path}; a folder of images or an .npz is expected"
        )
    images = _folder(path, size) if path.is_dir() else _npz(path, size)
    if len(images) < 2:
        raise ValueError(
            f"{path} holds {len(images)} image{'' if len(images) == 1 else 's'}; at least two are expected"
        )
    return images


def _folder(folder: epath.Path, size: int | None) -> np.ndarray:
    names = [p for p in walk(folder) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not names:
        raise ValueError(
            f"{folder} holds 0 images; PNG, JPEG or any other kind that Pillow reads are expected"
        )
    images = [_read(name, size) for name in names]
    for name, image in zip(names, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            one, other = (f"{i.shape[1]} x {i.shape[0]}" for i in (images[0], image))
            raise ValueError(
                f"{names[0]} is {one} and {name} is {other}; give --size to resize all to one size"
            )
    if any(image.shape[-1] == 3 for image in images):
        images = [np.repeat(i, 3, axis=-1) if i.shape[-1] == 1 else i for i in images]
    return np.stack(images)


def _read(path: epath.Path, size: int | None) -> Pixels:
    return decode(path.read_bytes(), str(path), size)


def decode(data: bytes, name: str, size: int | None = None, channels: int | None = None) -> Pixels:
    """A file's image, the middle square resized to `size`, with so many channels (as it is where None); errors say `name`."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            plain = _eight_bit(picture)
            if channels is not None and len(plain.getbands()) != channels:
                plain = plain.convert("L" if channels == 1 else "RGB")
            array = np.asarray(plain if size is None else _square(plain, size))
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        why = "of no kind that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"{name} cannot be read as an image ({why}); repair or remove it"
        ) from None
    return array[..., None] if array.ndim == 2 else array


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey or RGB of 8 bits; 16-bit grey is scaled, and modes without a fixed range are refused."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) / 257.0).round().astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"mode {picture.mode} has no fixed range; save it with 8 bits")
    wanted = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    return picture if picture.mode == wanted else picture.convert(wanted)


def _square(picture: Image.Image, size: int) -> Image.Image:
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    middle = picture.crop((left, top, left + side, top + side))
    return middle.resize((size, size), Image.Resampling.BICUBIC) if side != size else middle


def _npz(path: epath.Path, size: int | None) -> np.ndarray:
    if path.suffix != ".npz":
        raise ValueError(f"{path} is neither a folder of images nor an .npz file")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            key = (
                "arr_0"
                if "arr_0" in arrays.files
                else arrays.files[0]
                if len(arrays.files) == 1
                else None
            )
            images = None if key is None else arrays[key]
    except (
        ValueError,
        OSError,
        KeyError,
        EOFError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz of images ({error}); write it again"
        ) from None
    if (
        images is None
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[-1] not in (1, 3)
    ):
        found = "no array arr_0" if images is None else f"{images.dtype} {list(images.shape)}"
        raise ValueError(
            f"{path} holds {found}; uint8 [n, height, width, 1 or 3] under arr_0 is expected"
        )
    if size is None:
        return images
    squares = [
        np.asarray(
            _square(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), size)
        )
        for image in images
    ]
    return np.stack(squares).reshape(len(images), size, size, -1)
