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
    [(write_idx, "idx files"), (write_pickle, "mnist.pkl.gz"), (write_tfds, "TFDS")],
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
