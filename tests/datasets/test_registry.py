import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiff.cells.data import check_training_sets
from jaxdiff.datasets import base, colored_mnist, registry
from jaxdiff.datasets.base import Annotations, Source, register_dataset
from jaxdiff.datasets.mixtures import group_counts
from jaxdiff.datasets.mnist import embedded
from jaxdiff.datasets.registry import POOLS, load_splits, max_train_size, open_dataset, open_source
from jaxdiff.datasets.training_sets import training_set
from jaxdiff.study.config import default_config
from jaxdiff.study.grid import expand
from tests.datasets import published

GROUPS = (12, 13, 18, 19)  # sixes in red and in green, nines likewise


@pytest.fixture
def datasets():
    """The table of datasets, restored afterwards."""
    table = dict(base.DATASETS)
    yield base.DATASETS
    base.DATASETS.clear()
    base.DATASETS.update(table)


def colored_training_set(dataset, counts):
    return training_set(dataset, counts, part=0, parts=1, seed=0, grouped=True)


def test_pools_are_fixed_and_disjoint():
    dataset = open_dataset("digits", size=16, channels=1)
    assert len(np.unique(np.concatenate(list(dataset.pools.values())))) == 5000
    for name, size in zip(POOLS, (240, 160, 50, 50), strict=True):
        assert (np.bincount(dataset.labels[dataset.pools[name]]) == size).all()
    assert max_train_size(dataset, (6, 9), (0.8, 0.2), 1) == 300


def test_splits_have_exact_proportions(tmp_path):
    dataset = open_dataset("digits", size=28, channels=3)
    indices = training_set(dataset, {6: 40, 9: 10}, part=0, parts=1, seed=0)
    splits = load_splits(dataset, tmp_path, indices)
    train = splits["train"]
    assert train.images.shape == (50, 28, 28, 3)
    assert list(np.bincount(train.labels)[[6, 9]]) == [40, 10]
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 50, "classifier": 1600, "classifier_test": 500, "held_out": 500}
    images, labels = embedded()
    np.testing.assert_array_equal(train.images[..., :1], images[indices])
    np.testing.assert_array_equal(train.labels, labels[indices])
    np.testing.assert_array_equal(train[3], train.images[3])


def test_colored_digits_have_celebas_groups():
    dataset = open_dataset("colored_digits", size=32, channels=3)
    assert dataset.group_names[12:14] == ("6, not green", "6, green")
    counts = dict(zip(GROUPS, group_counts(400, colored_mnist.CELEBA_GROUPS), strict=True))
    indices = colored_training_set(dataset, counts)
    sizes = {group: int((dataset.groups[indices] == group).sum()) for group in GROUPS}
    assert sizes == {12: 178, 13: 56, 18: 163, 19: 3}
    assert len(set(indices % 5000)) == 400, "no digit is there in both inks"
    fewer = dict(zip(GROUPS, (100, 20, 50, 2), strict=True))
    assert set(colored_training_set(dataset, fewer)) < set(indices)
    parts = [training_set(dataset, {6: 80, 9: 20}, part=i, parts=3, seed=0) for i in range(3)]
    assert len(set(np.concatenate(parts) % 5000)) == 300
    message = r"241 images of class 6 were asked for and 240 can be had"
    with pytest.raises(ValueError, match=message):
        colored_training_set(dataset, {12: 200, 13: 41})


def test_the_ink_is_red_or_green():
    source = open_source("colored_digits", size=32, channels=3)
    stroke = embedded().images[3001, ..., 0] > 200
    for index, channel in ((3001, 0), (8001, 1)):
        image = source.decode(index).astype(int)
        ink = image[2:-2, 2:-2][stroke].mean(axis=0)
        assert ink.argmax() == channel


def test_an_alias_is_the_same_dataset():
    first = open_dataset("colored_digits", size=16, channels=3)
    alias = open_dataset("coloured_digits", size=16, channels=3)
    assert alias.name == first.name == "colored_digits"
    assert alias.source.identity == first.source.identity
    assert alias.group_names == first.group_names


def test_attributes_make_classes_and_groups(tmp_path):
    attributes = published.celeba(tmp_path)
    dataset = open_dataset(
        "celeba", size=8, channels=3, data_dir=tmp_path, attribute="Male", group="Blond_Hair"
    )
    male = attributes[:, published.MALE]
    assert dataset.classes == ("not Male", "Male")
    np.testing.assert_array_equal(dataset.labels, male)
    np.testing.assert_array_equal(dataset.groups, 2 * male + attributes[:, published.BLOND])
    assert dataset.group_names[3] == "Male, Blond_Hair"
    assert [len(dataset.pools[name]) for name in POOLS] == [12, 6, 3, 3]


def test_celeba_as_tfds_prepares_it(tmp_path):
    attributes = published.celeba(tmp_path / "raw")
    features = {
        "image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
        "attributes": dict.fromkeys(published.NAMES, np.bool_),
    }
    images = tmp_path / "raw" / "img_align_celeba"

    def example(i):
        return {
            "image": io.BytesIO((images / f"{i + 1:06d}.jpg").read_bytes()),
            "attributes": dict(zip(published.NAMES, map(bool, attributes[i]), strict=True)),
        }

    ranges = {"test": range(18, 24), "train": range(12), "validation": range(12, 18)}
    splits = {split: [example(i) for i in indices] for split, indices in ranges.items()}
    published.tfds_folder(tmp_path / "tfds" / "celeb_a" / "2.1.0", "celeb_a", features, splits)
    raw = open_source("celeba", size=16, channels=3, data_dir=str(tmp_path / "raw"))
    prepared = open_source("celeba", size=16, channels=3, data_dir=str(tmp_path / "tfds"))
    assert prepared.about == "24 images of TFDS's celeb_a/2.1.0"
    np.testing.assert_array_equal(prepared.annotations.partition, raw.annotations.partition)
    for name in published.NAMES:
        np.testing.assert_array_equal(
            prepared.annotations.attribute(name), raw.annotations.attribute(name)
        )
    for i in range(24):
        np.testing.assert_array_equal(prepared.decode(i), raw.decode(i))
    by_tfds_name = open_source("tfds:celeb_a", size=16, channels=3, data_dir=str(tmp_path / "tfds"))
    assert by_tfds_name.identity == prepared.identity


def open_tfds(tmp_path, label, values, split="train"):
    """A dataset of gray images with these labels, as TFDS prepares it."""
    features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": label}
    image = io.BytesIO()
    Image.new("L", (4, 4)).save(image, "PNG")
    examples = [{"image": io.BytesIO(image.getvalue()), "label": value} for value in values]
    published.tfds_folder(tmp_path / "mine" / "1.0.0", "mine", features, {split: examples})
    return open_source("tfds:mine", size=4, channels=1, data_dir=str(tmp_path))


def test_images_without_a_label_are_named(tmp_path):
    source = open_tfds(tmp_path, tfds.features.ClassLabel(num_classes=2), [0, 1, -1, -1], "extra")
    with pytest.raises(ValueError, match="2 images of mine's split extra have no label; take the"):
        _ = source.annotations


def test_a_label_that_is_no_class_is_refused(tmp_path):
    source = open_tfds(tmp_path, tfds.features.Text(), ["a", "b"])
    with pytest.raises(ValueError, match="the label of mine must be a ClassLabel, got Text; take"):
        _ = source.annotations


def test_a_dataset_built_again_under_its_version_is_another(tmp_path):
    label = tfds.features.ClassLabel(num_classes=2)
    first = open_tfds(tmp_path / "a", label, [0, 1])
    again = open_tfds(tmp_path / "b", label, [0, 1])
    assert again.identity == first.identity
    records = next((tmp_path / "b/mine/1.0.0").glob("*.array_record*"))
    records.write_bytes(records.read_bytes() + b"longer")
    assert _identity_of(tmp_path / "b") != first.identity


def _identity_of(data_dir):
    return open_source("tfds:mine", size=4, channels=1, data_dir=str(data_dir)).identity


def test_the_largest_mixture_of_groups_is_said():
    config = default_config()
    config.data.source = "colored_digits"
    config.data.n = (500,)
    config.data.proportions = (colored_mnist.CELEBA_GROUPS,)
    message = r"data.n is 500 at .*: 292 images of class 6 .*; at most 412 can be had of 5,000"
    with pytest.raises(ValueError, match=message):
        check_training_sets(expand(config))
    config.data.n = (412,)
    check_training_sets(expand(config))


def test_four_shares_need_an_attribute_of_the_groups():
    config = default_config()
    config.data.n = (412,)
    config.data.proportions = (colored_mnist.CELEBA_GROUPS,)
    with pytest.raises(ValueError, match=r"set config\.data\.group to the attribute"):
        expand(config)
    config.data.source = "coloured_digits"
    expand(config)


def test_a_registered_dataset_is_opened_by_name(datasets):
    annotations = Annotations(np.zeros(4, int), ("square",))

    def open_squares(request):
        side = int(request.argument)
        return Source(
            f"squares of {side}",
            {"side": side},
            4,
            lambda: annotations,
            lambda index: np.zeros((request.size, request.size, request.channels), np.uint8),
        )

    register_dataset("squares:", argument="SIDE", channels=1, size=8)(open_squares)
    assert registry.is_dataset_name("squares:3")
    assert registry.default_channels("squares:3") == 1
    dataset = open_dataset("squares:3", size=8, channels=1)
    assert dataset.source.about == "squares of 3"
    assert dataset.source.decode(0).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="folder:PATH, squares:SIDE or tfds:NAME"):
        open_source("circles", size=8, channels=1)
    with pytest.raises(ValueError, match=r"dataset 'digits' of .*test_registry is also in .*mnist"):
        register_dataset("digits")(open_squares)


def test_names_of_datasets():
    names = "celeba, colored_digits, digits, folder:PATH or tfds:NAME"
    assert names == registry.DATASET_NAMES_HELP
    assert registry.is_dataset_name("folder:some/path")
    assert registry.is_dataset_name("coloured_digits")
    assert not registry.is_dataset_name("some/path")
    assert not registry.is_dataset_name("gs://bucket/folder")


def test_datasets_that_cannot_be_had_are_explained(tmp_path):
    message = r"dataset 'mnist' is not known; choose one of celeba, colored_digits, digits, folder"
    with pytest.raises(ValueError, match=message):
        open_dataset("mnist", size=16, channels=1)
    with pytest.raises(ValueError, match="colored digits have 3 channels, got 1; use 3"):
        open_dataset("colored_digits", size=16, channels=1)
    message = (
        r"CelebA is not here and cannot be downloaded; put img_align_celeba .*"
        r"or have TensorFlow Datasets prepare"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset("celeba", size=16, channels=3)
    message = r"has not prepared cifar10 here, and TensorFlow, .*; or take its images as folder"
    with pytest.raises(ValueError, match=message):
        open_dataset("tfds:cifar10", size=32, channels=3, data_dir=tmp_path)


def test_the_chosen_classes_are_named(tmp_path, caplog):
    for name in ("1", "2", "10", "11"):
        (tmp_path / name).mkdir()
        for i in range(40):
            Image.new("L", (4, 4), i).save(tmp_path / name / f"{i}.png")
    config = default_config()
    config.data.source = f"folder:{tmp_path}"
    config.data.classes = (2, 3)
    config.data.n = (10,)
    check_training_sets(expand(config))
    assert f"classes 2,3 of folder:{tmp_path}, counted from 0, are named 10, 11" in caplog.text
    caplog.clear()
    registry.log_class_names(open_dataset("digits", size=32, channels=1), (6, 9))
    assert not caplog.text
