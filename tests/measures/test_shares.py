import numpy as np
import pytest

from jaxdiff.measures import shares
from jaxdiff.measures.artifacts import Predictions, Roles

NUM_LABELS = 11
PERFECT = 50 * np.eye(NUM_LABELS, dtype=int)


def predict(labels, confidence=0.95):
    """Predictions with one confidence; the second classifier agrees with the first."""
    labels = np.array(labels)
    probabilities = np.full((len(labels), NUM_LABELS), (1 - confidence) / (NUM_LABELS - 1))
    probabilities[np.arange(len(labels)), labels] = confidence
    return Predictions(labels, probabilities, labels)


def read_shares(labels, confusion, denoised=None, trained=0.2):
    """Every reading of the share of nines among sixes and nines, by name."""
    roles = Roles(majority=6, minority=9, trained=trained)
    estimates = shares.minority_share(predict(labels), roles, confusion, denoised)
    return {estimate.name: estimate for estimate in estimates}


def test_every_reading_of_a_perfect_classifier_is_the_share():
    estimates = read_shares([6] * 80 + [9] * 20, PERFECT, PERFECT)
    assert list(estimates) == [
        "classified",
        "corrected",
        "corrected_denoised",
        "corrected_many",
        "second",
        "bounds",
    ]
    for estimate in estimates.values():
        assert estimate.value == pytest.approx(0.2, abs=1e-6)
        assert estimate.low < 0.2 < estimate.high
        assert estimate.labels["trained"] == 0.2
    width = {name: estimate.high - estimate.low for name, estimate in estimates.items()}
    assert width["corrected"] > width["classified"], "the matrix is uncertain too"


def test_known_errors_are_corrected():
    """The classifier says nine of a tenth of the sixes: of 80 and 20 it makes 72 and 28."""
    confusion = PERFECT * 20
    confusion[6, 6] = 900
    confusion[6, 9] = 100
    estimates = read_shares([6] * 72 + [9] * 28, confusion)
    assert estimates["classified"].value == pytest.approx(0.28)
    assert estimates["corrected"].value == pytest.approx(0.2)
    assert estimates["corrected_many"].value == pytest.approx(0.2, abs=1e-4)
    assert "corrected_denoised" not in estimates


def test_ten_classes_correct_what_two_cannot():
    """A third of the predicted nines are fours, which the correction between two cannot know."""
    confusion = PERFECT * 20
    confusion[4, 4] = 500
    confusion[4, 9] = 500
    # Of 60 sixes, 20 nines and 20 fours.
    labels = [6] * 60 + [9] * 30 + [4] * 10
    estimates = read_shares(labels, confusion, trained=0.25)
    assert estimates["corrected"].value == pytest.approx(1 / 3)
    assert estimates["corrected_many"].value == pytest.approx(0.25, abs=1e-3)


def test_true_shares_are_the_least_squares_on_the_simplex():
    rates = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.3, 0.7]])
    expected = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(shares.true_shares(expected @ rates, rates), expected, atol=1e-6)
    # No mix gives these predictions: the answer lies on the edge of the simplex.
    predicted = np.array([0.0, 0.0, 1.0])
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    best = min(grid, key=lambda p: np.sum((np.array(p) @ rates - predicted) ** 2))
    np.testing.assert_allclose(shares.true_shares(predicted, rates), best, atol=0.01)


def test_bounds_hold_every_ambiguous_image():
    labels = [6] * 60 + [9] * 20 + [3] * 20
    roles = Roles(majority=6, minority=9, trained=0.2)
    bounds = shares.ambiguity_bounds(predict(labels), roles)
    assert bounds.labels["ambiguous"] == 20
    assert bounds.low < 0.2
    assert bounds.high > 0.4
    unsure = shares.ambiguity_bounds(predict(labels, confidence=0.6), roles)
    assert unsure.labels["ambiguous"] == 100


def test_samples_of_neither_class_have_no_share():
    assert read_shares([3, 10], PERFECT) == {}


def test_no_correction_without_test_images_of_a_class():
    estimates = read_shares([9, 10], np.zeros((NUM_LABELS, NUM_LABELS), int))
    assert "corrected" not in estimates
    assert estimates["classified"].value == 1


def test_a_confusion_matrix_counts_true_by_predicted():
    matrix = shares.confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 1]), 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 0, 0], [0, 1, 0]])
