"""Image files and .npz files as uint8 arrays of one size. No JAX."""

import io
import struct
import warnings

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxdiff.datasets.base import Images
from jaxdiff.datasets.image_files import FORMATS, is_regular_file, list_images, say_once
from jaxdiff.npz import open_npz

Pixels = UInt8[np.ndarray, "_height _width _channel"]
EXPECTED_IMAGES = "PNG, JPEG, WebP or another common kind of image"
# Part of the identity of datasets of image files, since it changes what the same bytes decode to.
DECODING_VERSION = 2

# What Pillow raises for a file that is cut short, damaged, or of a kind that it does not know.
BROKEN_IMAGE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    RuntimeError,  # of a damaged AVIF
    Image.DecompressionBombError,
)


def read_images(path: epath.PathLike, size: int | None = None) -> UInt8[np.ndarray, "n h w c"]:
    """Read all images of a folder or of an .npz file.

    Parameters
    ----------
    path
        A folder, whose images are read in the order of their paths (2.png before 10.png),
        subfolders included; or an .npz that holds uint8 [n, h, w, c] under arr_0 (as ADM's
        evaluator reads) or as its only array.
    size
        Side of the squares to which the middle of each image is resized; None keeps the size.

    Returns
    -------
    numpy.ndarray
        uint8 [n, h, w, 1 or 3]: gray where all images are gray, RGB otherwise.

    Raises
    ------
    ValueError
        Naming the file, for a broken image, images of different sizes, fewer than two images, or
        another kind of file.
    """
    path = epath.Path(path)
    if not path.exists():
        raise ValueError(
            f"there is no file or folder {path}; a folder of images or an .npz is expected"
        )
    images = _read_folder(path, size) if path.is_dir() else _read_npz(path, size)
    if len(images) < 2:
        plural = "" if len(images) == 1 else "s"
        raise ValueError(f"{path} holds {len(images)} image{plural}; at least two are expected")
    return images


def _read_folder(folder: epath.Path, size: int | None) -> np.ndarray:
    paths = [folder / name for name in list_images(folder)]
    if not paths:
        raise ValueError(f"{folder} holds 0 images; {EXPECTED_IMAGES} is expected")
    images = [decode_image(path.read_bytes(), str(path), size) for path in paths]
    # np.stack would refuse other sizes too, without naming a file
    height, width = images[0].shape[:2]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"{paths[0]} is {width} x {height} and {path} is "
                f"{image.shape[1]} x {image.shape[0]}; give --size to resize all to one size"
            )
    channels = max(image.shape[-1] for image in images)
    return np.stack([_to_channels(image, channels) for image in images])


def _to_channels(image: Pixels, channels: int) -> Pixels:
    return image if image.shape[-1] == channels else np.repeat(image, channels, axis=-1)


def decode_image(
    data: bytes, name: str, size: int | None = None, channels: int | None = None
) -> Pixels:
    """Decode an image file: turned as its EXIF orientation says, transparency over white.

    Parameters
    ----------
    data
        Bytes of the file.
    name
        What errors call it.
    size
        Side of the square to which the image's middle is resized; None keeps its size.
    channels
        1 (gray) or 3 (RGB); None keeps what the file has.

    Raises
    ------
    ValueError
        Where the bytes are not an image, or have no fixed range.
    """
    try:
        with (
            # of tags beside the pixels, as of EXIF that is cut short
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=FORMATS) as file,
        ):
            picture = _to_eight_bits(ImageOps.exif_transpose(file))
            if channels is not None and len(picture.getbands()) != channels:
                picture = picture.convert("L" if channels == 1 else "RGB")
            array = np.asarray(picture if size is None else _crop_and_resize(picture, size))
    except BROKEN_IMAGE as error:
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = f"of no kind among {', '.join(FORMATS)}" if is_unknown else error
        raise ValueError(
            f"{name} cannot be read as an image ({reason}); repair or remove it"
        ) from None
    return array[..., None] if array.ndim == 2 else array


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Gray or RGB of 8 bits; 16-bit gray is scaled, modes without a fixed range are refused."""
    if picture.mode.startswith("I;16"):
        # 65535 = 257 x 255
        return Image.fromarray((np.asarray(picture) / 257.0).round().astype(np.uint8))
    if picture.mode in ("I", "F"):
        # 32-bit integers and floats: nothing says which value is white
        raise ValueError(f"mode {picture.mode} has no fixed range; save it with 8 bits")
    # palettes and single bits cannot be interpolated, so that this comes before any resizing
    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        # An alpha of 255 throughout needs neither the white ground nor the remark.
        if rgba.getchannel("A").histogram()[255] < rgba.width * rgba.height:
            # the color below a transparent pixel is whatever a tool left there
            say_once("transparent parts of images are drawn as white")
            white = Image.new("RGBA", rgba.size, "white")
            picture = Image.alpha_composite(white, rgba)
    return picture if picture.mode == mode else picture.convert(mode)


def _crop_and_resize(picture: Image.Image, size: int) -> Image.Image:
    """The middle square, resized where it has another size."""
    side = min(picture.size)
    # cropped before it is resized: faces and objects keep their proportions
    left = (picture.width - side) // 2
    top = (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BICUBIC) if side != size else square


def _read_npz(path: epath.Path, size: int | None) -> np.ndarray:
    if path.suffix != ".npz" or not is_regular_file(path):
        raise ValueError(f"{path} is neither a folder of images nor an .npz file")
    images = _read_npz_array(path)
    if images is None:
        raise ValueError(
            f"{path} holds no array arr_0; uint8 [n, height, width, 1 or 3] under arr_0 is expected"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{path} holds {images.dtype} {list(images.shape)}; "
            "uint8 [n, height, width, 1 or 3] under arr_0 is expected"
        )
    if size is None or not len(images):
        return images
    squares = [np.asarray(_crop_and_resize(_to_picture(image), size)) for image in images]
    return np.stack(squares).reshape(len(images), size, size, -1)


def _read_npz_array(path: epath.Path) -> np.ndarray | None:
    """The array arr_0, else the only one; None where there are several others or none."""
    with open_npz(path) as arrays:
        # ADM's evaluator reads arr_0; np.savez of other tools may use another name
        if "arr_0" in arrays:
            return arrays["arr_0"]
        return next(iter(arrays.values())) if len(arrays) == 1 else None


def _to_picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def pad_or_resize(images: Images, size: int, channels: int) -> Images:
    """Convert images to squares of `size` pixels with 1 (gray) or 3 (RGB) channels.

    Images that are smaller than `size` by at most an eighth are padded with black, as MNIST's
    28 px are to 32; others are resized with an anti-aliased bilinear filter.
    """
    height, width = images.shape[1:3]
    # color is given up by the plain mean of the channels, before any resizing
    if images.shape[-1] != channels:
        gray = images.mean(axis=-1, keepdims=True).round().astype(np.uint8)
        images = gray if channels == 1 else np.repeat(gray, channels, axis=-1)
    if (height, width) == (size, size):
        return images
    if height == width and size * 7 // 8 <= height < size:
        before = (size - height) // 2
        padding = (before, size - height - before)
        return np.pad(images, ((0, 0), padding, padding, (0, 0)))
    shape = (size, size)
    resized = [_to_picture(image).resize(shape, Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(picture) for picture in resized]).reshape(-1, *shape, channels)
