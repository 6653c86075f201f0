import gzip
import io
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiff.datasets import mnist
from jaxdiff.datasets.base import DatasetRequest
from jaxdiff.datasets.mnist import embedded, open_digits
from tests.datasets import published

TRAIN = slice(0, 40)
TEST = slice(40, 60)


def open_folder(folder):
    return open_digits(DatasetRequest(28, 1, str(folder)))


def write_idx(folder):
    """The images gzipped, the labels not."""
    images, labels = embedded()
    folder.mkdir()
    for stem, rows in (("train", TRAIN), ("t10k", TEST)):
        count = len(labels[rows])
        image_bytes = struct.pack(">4B3i", 0, 0, 8, 3, count, 28, 28) + images[rows].tobytes()
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(image_bytes))
        label_bytes = struct.pack(">4Bi", 0, 0, 8, 1, count)
        label_bytes += labels[rows].astype(np.uint8).tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(label_bytes)


def write_pickle(folder):
    images, labels = embedded()
    folder.mkdir()
    parts = []
    for rows in (TRAIN, slice(40, 55), slice(55, 60)):
        pixels = images[rows].reshape(-1, 784).astype(np.float32) / 256.0
        parts.append((pixels, labels[rows]))
    data = gzip.compress(pickle.dumps(tuple(parts), protocol=2))
    (folder / "mnist.pkl.gz").write_bytes(data)


def write_kaggle(folder):
    """Each file in a folder of its name, beside files of other names."""
    write_idx(folder)
    for path in sorted(folder.iterdir()):
        path.rename(folder / "moved")
        path.mkdir()
        (folder / "moved").rename(path / path.name)


def write_torchvision(folder):
    folder.mkdir()
    write_idx(folder / "raw")
    (folder / "MNIST").mkdir()
    (folder / "raw").rename(folder / "MNIST" / "raw")


def keras_arrays():
    images, labels = embedded()
    return {
        "x_train": images[TRAIN, ..., 0],
        "y_train": labels[TRAIN].astype(np.uint8),
        "x_test": images[TEST, ..., 0],
        "y_test": labels[TEST].astype(np.uint8),
    }


def write_keras(folder, **changes):
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "mnist.npz", **(keras_arrays() | changes))


def write_keras_pickle(folder):
    folder.mkdir()
    arrays = list(keras_arrays().values())
    save_pickle(folder, (tuple(arrays[:2]), tuple(arrays[2:])))


def save_pickle(folder, parts):
    (folder / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps(parts, protocol=2)))


def write_pickle_of_255(folder):
    images, labels = embedded()
    folder.mkdir()
    save_pickle(folder, [(images[:60].reshape(-1, 784) / np.float32(255), labels[:60])])


def write_tfds(folder):
    """A mnist as TFDS prepares it in array_record files (its own features, without TensorFlow)."""
    images, labels = embedded()
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }

    def examples(rows):
        return [
            {"image": to_png(image), "label": int(label)}
            for image, label in zip(images[rows], labels[rows], strict=True)
        ]

    splits = {"train": examples(TRAIN), "test": examples(TEST)}
    published.tfds_folder(folder / "mnist" / "3.0.1", "mnist", features, splits)


def to_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(file, "PNG")
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_idx, "idx files"),
        (write_kaggle, "idx files"),
        (write_torchvision, "idx files"),
        (write_pickle, "mnist.pkl.gz"),
        (write_pickle_of_255, "mnist.pkl.gz"),
        (write_keras_pickle, "mnist.pkl.gz"),
        (write_keras, "mnist.npz"),
        (write_tfds, "TFDS"),
    ],
)
def test_every_published_form_gives_the_same(tmp_path, write, words):
    folder = tmp_path / "mnist"
    write(folder)
    source = open_folder(folder)
    assert source.about.startswith("60 MNIST digits")
    assert words in source.about
    images, labels = embedded()
    decoded = np.stack([source.decode(i) for i in range(60)])
    np.testing.assert_array_equal(decoded, images[:60])
    np.testing.assert_array_equal(source.annotations.labels, labels[:60])


def test_files_that_are_no_digits_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no digits; put MNIST's four idx files"):
        open_folder(tmp_path)
    idx = tmp_path / "train-images-idx3-ubyte"
    idx.write_bytes(b"\0\0\x08\x03\0\0")
    message = r"train-images-idx3-ubyte is not one of MNIST's idx files, or is cut short"
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)
    idx.unlink()
    classic = tmp_path / "mnist.pkl.gz"
    classic.write_bytes(gzip.compress(pickle.dumps(print)))
    with pytest.raises(ValueError, match=r"mnist.pkl.gz .*\(it asks for builtins.print"):
        open_folder(tmp_path)
    classic.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="is not a complete gzip file"):
        open_folder(tmp_path)


def with_value(array, value, dtype):
    changed = array.astype(dtype)
    changed.flat[7] = value
    return changed


IMAGES, LABELS = (array[:20] for array in embedded())
SMALL = IMAGES.reshape(-1, 784) / np.float32(256)


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        pytest.param(
            SMALL[:19],
            LABELS,
            r"each of 20 labels, got float32 of shape \[19, 784\]",
            id="fewer images",
        ),
        pytest.param(
            SMALL,
            LABELS[:19],
            r"each of 19 labels, got float32 of shape \[20, 784\]",
            id="fewer labels",
        ),
        pytest.param(
            with_value(SMALL, np.nan, float), LABELS, "pixels .* from nan to nan", id="NaN"
        ),
        pytest.param(with_value(SMALL, np.inf, float), LABELS, "pixels .* from 0 to inf", id="inf"),
        pytest.param(
            with_value(SMALL, 0.3, float), LABELS, "pixels .* divided by 256", id="no byte"
        ),
        pytest.param(
            with_value(SMALL, -0.5, float), LABELS, "pixels .* from -0.5 to", id="negative"
        ),
        pytest.param(SMALL * 256, LABELS, "pixels .* from 0 to 255", id="0 to 255"),
        pytest.param(SMALL + 0j, LABELS, "pixels .* got complex64", id="complex"),
        pytest.param(SMALL > 0, LABELS, "pixels .* got bool", id="binary"),
        pytest.param(SMALL, np.eye(10)[LABELS], r"got float64 of shape \[20, 10\]", id="one-hot"),
        pytest.param(
            SMALL, np.eye(10, dtype=int)[LABELS], r"got int64 of shape \[20, 10\]", id="ints"
        ),
        pytest.param(SMALL, with_value(LABELS, 10, int), r"label .* from 0 to 10", id="ten"),
        pytest.param(SMALL, with_value(LABELS, -1, int), r"label .* from -1 to", id="minus one"),
        pytest.param(
            SMALL, LABELS + 0.0, r"label .* got float64 of shape \[20\]", id="labels in floats"
        ),
        pytest.param(SMALL[:, :729], LABELS, r"image of 28 x 28 .* \[20, 729\]", id="27 pixels"),
    ],
)
def test_digits_that_are_wrong_are_refused(tmp_path, pixels, labels, message):
    save_pickle(tmp_path, [(SMALL, LABELS), (pixels, labels)])
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)
    (tmp_path / "mnist.pkl.gz").unlink()
    write_keras(tmp_path, x_test=pixels, y_test=labels)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_labels_over_nine_in_idx_files_are_refused(tmp_path):
    folder = tmp_path / "mnist"
    write_idx(folder)
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([10]))
    with pytest.raises(
        ValueError,
        match=r"the t10k files in .* a whole number from 0 to 9, got uint8 .* from 0 to 10",
    ):
        open_folder(folder)


@pytest.mark.parametrize("write", [write_idx, write_pickle, write_keras])
def test_a_flipped_byte_changes_no_digit(tmp_path, write):
    folder = tmp_path / "mnist"
    write(folder)
    images, labels = embedded()
    packed = [path for path in folder.iterdir() if path.suffix in (".gz", ".npz")]
    for path in packed:
        data = path.read_bytes()
        for position in np.random.default_rng(0).integers(0, len(data), 40):
            damaged = bytearray(data)
            damaged[position] ^= 255
            path.write_bytes(damaged)
            try:
                digits = mnist.read_digits(folder)[1]
            except ValueError:  # a sentence
                continue
            # bytes that hold no data, as a time
            np.testing.assert_array_equal(digits.images, images[:60])
            np.testing.assert_array_equal(digits.labels, labels[:60])
        path.write_bytes(data)


@pytest.mark.parametrize("module", ["mnist", "colored_mnist", "celeba", "image_folder"])
def test_decoding_needs_neither_jax_nor_tfds(module):
    code = (
        f"import sys, jaxdiff.datasets.{module}, jaxdiff.datasets.record_writer\n"
        "print([name for name in ('jax', 'tensorflow_datasets') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout == "[]\n"
