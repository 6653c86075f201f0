import numpy as np

from jaxdiff.measures import shares


def test_shares_of_known_labels():
    called = np.array([6] * 60 + [9] * 20 + [3] * 15 + [10] * 5)
    gate, other, none = shares.quality(called, (6, 9), reject=10)
    assert (gate["value"], other["value"], none["value"]) == (0.8, 0.15, 0.05)
    confusion = np.eye(11, dtype=int) * 50
    raw, corrected = shares.minority_share(called, 6, 9, confusion, 0.2)
    assert raw["value"] == corrected["value"] == 0.25
    assert raw["n"] == 80
    assert raw["low"] < 0.25 < raw["high"]


def test_errors_are_corrected_where_they_are_known():
    """One 6 in ten is called a 9: of 100 true 6s and no 9, ten look like 9s."""
    confusion = np.zeros((11, 11), int)
    confusion[6, 6], confusion[6, 9], confusion[9, 9] = 90, 10, 100
    called = np.array([6] * 90 + [9] * 10)
    raw, corrected = shares.minority_share(called, 6, 9, confusion, 0.2)
    assert raw["value"] == 0.1
    assert corrected["value"] == 0.0
    assert corrected["low"] == 0.0


def test_nothing_to_share_is_no_share():
    assert shares.minority_share(np.array([10, 3]), 6, 9, np.eye(11, dtype=int), 0.2) == []


def test_confusion_counts_true_by_called():
    matrix = shares.confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    np.testing.assert_array_equal(matrix, [[1, 1], [0, 1]])
