import numpy as np
import pytest

from jaxdiff.datasets import base
from jaxdiff.datasets.registry import is_dataset_name, load_splits, open_dataset
from jaxdiff.datasets.training_sets import training_set


@pytest.fixture
def shapes():
    """Register the example's dataset, and forget it afterwards."""
    table = dict(base.DATASETS)
    from examples import new_dataset

    base.register_dataset("shapes", channels=1, size=32)(new_dataset.open_shapes)
    yield open_dataset("shapes", size=16, channels=1)
    base.DATASETS.clear()
    base.DATASETS.update(table)


def test_it_is_opened_by_name(shapes):
    assert is_dataset_name("shapes")
    assert shapes.classes == ("disc", "square")
    assert shapes.source.about == "discs and squares"
    assert np.bincount(shapes.labels).tolist() == [2000, 2000]


def test_it_is_prepared_and_read(shapes, tmp_path):
    indices = training_set(shapes, {0: 30, 1: 20}, part=0, parts=1, seed=0)
    train = load_splits(shapes, tmp_path, indices)["train"]
    assert train.images.shape == (50, 16, 16, 1)
    assert np.bincount(train.labels).tolist() == [30, 20]
    np.testing.assert_array_equal(train[7], shapes.source.decode(int(indices[7])))


def test_discs_have_round_corners_and_squares_do_not(shapes):
    for index, label in enumerate(("disc", "square")):
        image = shapes.source.decode(index)[..., 0]
        rows = np.flatnonzero((image > 127).any(axis=1))
        columns = np.flatnonzero((image > 127).any(axis=0))
        box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 127
        assert box.all() == (label == "square")
    assert open_dataset("shapes", size=16, channels=3).source.decode(0).shape == (16, 16, 3)
