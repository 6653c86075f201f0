import gzip
import io
import pickle
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiff.cells.cell import expand
from jaxdiff.cells.data import check
from jaxdiff.datasets import colored_mnist as coloured
from jaxdiff.datasets import registry as sources
from jaxdiff.datasets.mixtures import group_counts
from jaxdiff.datasets.mnist import digits, embedded
from jaxdiff.datasets.registry import POOLS, describe, raw, splits, training_set
from jaxdiff.study.config import default_config
from tests.datasets import published

GROUPS = (12, 13, 18, 19)  # sixes in red and in green, nines likewise


def test_pools_are_fixed_and_disjoint():
    dataset = describe("digits", size=16, channels=1)
    assert len(np.unique(np.concatenate(list(dataset.pools.values())))) == 5000
    for name, size in zip(POOLS, (240, 160, 50, 50), strict=True):
        assert (np.bincount(dataset.labels[dataset.pools[name]]) == size).all()
    assert sources.most(dataset, (6, 9), (0.8, 0.2), 1) == 300


def test_splits_have_exact_proportions(tmp_path):
    dataset = describe("digits", size=28, channels=3)
    chosen = training_set(dataset, {6: 40, 9: 10}, part=0, parts=1, seed=0)
    found = splits(dataset, tmp_path, chosen)
    assert found["train"].images.shape == (50, 28, 28, 3)
    assert list(np.bincount(found["train"].labels)[[6, 9]]) == [40, 10]
    assert {name: len(s) for name, s in found.items()} == {
        "train": 50, "classifier": 1600, "classifier_test": 500, "held_out": 500,
    }  # fmt: skip
    images, labels = embedded()
    np.testing.assert_array_equal(found["train"].images[..., :1], images[chosen])
    np.testing.assert_array_equal(found["train"].labels, labels[chosen])
    np.testing.assert_array_equal(found["train"][3], found["train"].images[3])


def test_coloured_digits_have_celebas_groups():
    dataset = describe("coloured_digits", size=32, channels=3)
    assert dataset.group_names[12:14] == ("6, not green", "6, green")
    counts = dict(zip(GROUPS, group_counts(400, coloured.CELEBA_GROUPS), strict=True))
    chosen = training_set(dataset, counts, part=0, parts=1, seed=0, grouped=True)
    assert {g: int((dataset.groups[chosen] == g).sum()) for g in GROUPS} == {
        12: 178,
        13: 56,
        18: 163,
        19: 3,
    }
    assert len(set(chosen % 5000)) == 400, "no digit is there in both inks"
    fewer = dict(zip(GROUPS, (100, 20, 50, 2), strict=True))
    assert set(training_set(dataset, fewer, part=0, parts=1, seed=0, grouped=True)) < set(chosen)
    parts = [training_set(dataset, {6: 80, 9: 20}, part=i, parts=3, seed=0) for i in range(3)]
    assert len(set(np.concatenate(parts) % 5000)) == 300
    with pytest.raises(
        ValueError, match=r"241 images of class 6 were asked for and 240 can be had"
    ):
        training_set(dataset, {12: 200, 13: 41}, part=0, parts=1, seed=0, grouped=True)
    red, green = (dataset.source.decode(i).astype(int) for i in (3001, 8001))
    stroke = embedded()[0][3001, ..., 0] > 200
    for image, channel in ((red, 0), (green, 1)):
        ink = image[2:-2, 2:-2][stroke].mean(axis=0)
        assert ink.argmax() == channel


def test_an_attribute_makes_the_classes_and_another_the_groups(tmp_path):
    has = published.celeba(tmp_path)
    dataset = describe(
        "celeba", size=8, channels=3, data_dir=tmp_path, attribute="Male", group="Blond_Hair"
    )
    assert dataset.classes == ("not Male", "Male")
    np.testing.assert_array_equal(dataset.labels, has[:, 2])
    np.testing.assert_array_equal(dataset.groups, 2 * has[:, 2] + has[:, 1])
    assert dataset.group_names[3] == "Male, Blond_Hair"
    assert [len(dataset.pools[name]) for name in POOLS] == [12, 6, 3, 3]


def test_digits_of_the_published_files_and_of_tfds(tmp_path):
    images, labels = embedded()
    train, test = slice(0, 40), slice(40, 60)
    idx, classic, prepared = tmp_path / "idx", tmp_path / "classic", tmp_path / "tfds"
    idx.mkdir()
    for stem, rows in (("train", train), ("t10k", test)):
        pixels = (
            struct.pack(">4B3i", 0, 0, 8, 3, len(images[rows]), 28, 28) + images[rows].tobytes()
        )
        (idx / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        named = (
            struct.pack(">4Bi", 0, 0, 8, 1, len(images[rows]))
            + labels[rows].astype(np.uint8).tobytes()
        )
        (idx / f"{stem}-labels-idx1-ubyte").write_bytes(named)
    classic.mkdir()
    parts = [
        (images[r].reshape(-1, 784).astype(np.float32) / 256.0, labels[r])
        for r in (train, slice(40, 55), slice(55, 60))
    ]
    (classic / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps(tuple(parts), protocol=2)))
    tfds_mnist(prepared, {"train": train, "test": test})
    for folder, words in ((idx, "idx files"), (classic, r"mnist.pkl.gz"), (prepared, "TFDS")):
        source = digits(folder, 28, 1)
        assert source.about.startswith("60 MNIST digits")
        assert words in source.about
        np.testing.assert_array_equal(np.stack([source.decode(i) for i in range(60)]), images[:60])
        np.testing.assert_array_equal(source.columns.labels, labels[:60])


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def tfds_mnist(folder, rows):
    """A mnist as TFDS prepares it in array_record files (its own features, without TensorFlow)."""
    images, labels = embedded()
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    parts = {split: [{"image": png(x), "label": int(y)} for x, y in zip(images[r], labels[r], strict=True)]
             for split, r in rows.items()}  # fmt: skip
    published.tfds_folder(folder / "mnist" / "3.0.1", "mnist", features, parts)


def test_celeba_as_tfds_prepares_it(tmp_path):
    has = published.celeba(tmp_path / "raw")
    features = {"image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
                "attributes": dict.fromkeys(published.NAMES, np.bool_)}  # fmt: skip
    folder = tmp_path / "raw" / "img_align_celeba"

    def row(i):
        return {
            "image": io.BytesIO((folder / f"{i + 1:06d}.jpg").read_bytes()),
            "attributes": dict(zip(published.NAMES, map(bool, has[i]), strict=True)),
        }

    places = {"test": range(18, 24), "train": range(12), "validation": range(12, 18)}
    parts = {split: [row(i) for i in chosen] for split, chosen in places.items()}
    published.tfds_folder(tmp_path / "tfds" / "celeb_a" / "2.1.0", "celeb_a", features, parts)
    ours, theirs = (
        raw("celeba", size=16, channels=3, data_dir=str(tmp_path / p)) for p in ("raw", "tfds")
    )
    assert theirs.about == "24 images of TFDS's celeb_a/2.1.0"
    np.testing.assert_array_equal(theirs.columns.partition, ours.columns.partition)
    for name in published.NAMES:
        np.testing.assert_array_equal(theirs.columns.attribute(name), ours.columns.attribute(name))
    for i in range(24):
        np.testing.assert_array_equal(theirs.decode(i), ours.decode(i))
    again = raw("tfds:celeb_a", size=16, channels=3, data_dir=str(tmp_path / "tfds"))
    assert again.identity == theirs.identity


def test_the_largest_mixture_of_groups_is_said():
    config = default_config()
    config.data.source, config.data.n = "coloured_digits", (500,)
    config.data.proportions = (coloured.CELEBA_GROUPS,)
    with pytest.raises(
        ValueError,
        match=r"data.n is 500 at .*: 292 images of class 6 .*; at most 412 can be had of 5,000",
    ):
        check(expand(config))
    config.data.n = (412,)
    check(expand(config))


def test_what_cannot_be_had_is_said(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"dataset 'mnist' is not known; choose one of digits, coloured_digits, celeba, folder:PATH or",
    ):
        describe("mnist", size=16, channels=1)
    with pytest.raises(ValueError, match="coloured_digits have 3 channels; 1 were asked for"):
        describe("coloured_digits", size=16, channels=1)
    with pytest.raises(
        ValueError,
        match=r"CelebA is not here and cannot be downloaded; put img_align_celeba .* or have TensorFlow Datasets prepare",
    ):
        describe("celeba", size=16, channels=3)
    with pytest.raises(ValueError, match=r"holds no digits; put MNIST's four idx files"):
        digits(tmp_path, 28, 1)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(
        ValueError,
        match=r"train-images-idx3-ubyte is not one of MNIST's idx files, or is cut short",
    ):
        digits(tmp_path, 28, 1)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    (tmp_path / "mnist.pkl.gz").write_bytes(gzip.compress(pickle.dumps(print)))
    with pytest.raises(ValueError, match=r"is no pickle of arrays \(it asks for builtins.print"):
        digits(tmp_path, 28, 1)
    with pytest.raises(
        ValueError,
        match=r"has not prepared cifar10 here, and TensorFlow, .*; or take its images as folder",
    ):
        describe("tfds:cifar10", size=32, channels=3, data_dir=tmp_path)
    (tmp_path / "mnist.pkl.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="is no whole gzip file"):
        digits(tmp_path, 28, 1)
