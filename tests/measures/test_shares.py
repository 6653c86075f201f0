import numpy as np
import pytest

from jaxdiff.estimates import Proportion
from jaxdiff.measures import shares
from jaxdiff.measures.confusion import confusion_matrix
from jaxdiff.measures.predictions import Predictions
from jaxdiff.measures.roles import Roles

NUM_LABELS = 11
REJECT = 10
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
    return {estimate.name: estimate for estimate in reversed(estimates)}  # the first of a name


def denoised_matrix(kept_majority, kept_minority, n):
    """n denoised sixes and n nines, the others of which are labeled as the reject class."""
    matrix = np.zeros((NUM_LABELS, NUM_LABELS), int)
    for label, kept in ((6, kept_majority), (9, kept_minority)):
        matrix[label, label] = kept
        matrix[label, REJECT] = n - kept
    return matrix


def test_every_reading_of_a_perfect_classifier_is_the_share():
    estimates = read_shares([6] * 80 + [9] * 20, PERFECT, PERFECT)
    assert list(estimates)[::-1] == [
        "forced_choice",
        "loss_corrected",
        "gated",
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
    assert width["corrected"] > width["gated"], "the matrix is uncertain too"


def test_known_errors_are_corrected():
    """The classifier says nine of a tenth of the sixes: of 80 and 20 it makes 72 and 28."""
    confusion = PERFECT * 20
    confusion[6, 6] = 900
    confusion[6, 9] = 100
    estimates = read_shares([6] * 72 + [9] * 28, confusion)
    assert estimates["gated"].value == pytest.approx(0.28)
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


def test_bounds_widen_with_the_confidence_that_is_asked_for():
    roles = Roles(majority=6, minority=9, trained=0.2)
    readings = shares.minority_share(predict([6] * 60 + [9] * 20, 0.8), roles, PERFECT)
    ambiguous = {
        bounds.labels["confidence"]: bounds.labels["ambiguous"]
        for bounds in readings
        if bounds.name == "bounds"
    }
    assert ambiguous == {0.5: 0, 0.75: 0, 0.9: 80}


def test_samples_of_neither_class_have_no_gated_share():
    estimates = read_shares([3, 10], PERFECT, PERFECT)
    assert estimates.keys() == {"forced_choice", "bounds"}


def test_forced_choice_counts_every_sample_by_the_likelier_class():
    """Ten rejected samples look more like a nine, ten like a six."""
    labels = np.array([6] * 60 + [9] * 20 + [REJECT] * 20)
    predictions = predict(labels)
    predictions.probabilities[80:90, 9] = 0.04
    predictions.probabilities[90:, 6] = 0.04
    roles = Roles(majority=6, minority=9, trained=0.2)
    forced, gated = shares.share_forms(predictions, roles)
    assert (forced.name, forced.value, forced.n) == ("forced_choice", 0.3, 100)
    assert (gated.name, gated.value, gated.n) == ("gated", 0.25, 80)


def test_other_trained_classes_are_no_part_of_the_share():
    """Threes are trained too: they are not forced to be sixes or nines, nor ambiguous."""
    labels = [6] * 60 + [9] * 20 + [3] * 15 + [REJECT] * 5
    predictions = predict(labels)
    predictions.probabilities[95:, 9] = 0.04
    roles = Roles(majority=6, minority=9, trained=0.2, others=(3,), others_share=0.2)
    readings = shares.minority_share(predictions, roles, PERFECT)
    by_name = {reading.name: reading for reading in reversed(readings)}
    assert (by_name["forced_choice"].value, by_name["forced_choice"].n) == (25 / 85, 85)
    assert (by_name["gated"].value, by_name["gated"].n) == (0.25, 80)
    assert (by_name["bounds"].n, by_name["bounds"].labels["ambiguous"]) == (85, 5)
    assert roles.mix == pytest.approx({6: 0.64, 9: 0.16, 3: 0.2})


def test_samples_of_other_trained_classes_alone_have_no_share():
    predictions = predict([3] * 4)
    roles = Roles(majority=6, minority=9, trained=0.2, others=(3,), others_share=0.2)
    readings = shares.minority_share(predictions, roles, PERFECT)
    assert {reading.name for reading in readings} == {"bounds"}
    assert all(reading.value is None for reading in readings)
    assert shares.select_share(readings, "forced_choice").value is None


def test_what_is_lost_of_each_class_is_corrected_for():
    """Of 800 sixes 720 can be read, of 200 nines 100; the denoised images lose as much."""
    labels = [6] * 720 + [9] * 100 + [REJECT] * 180
    estimate = read_shares(labels, PERFECT, denoised_matrix(45, 25, 50))["loss_corrected"]
    assert estimate.value == pytest.approx(0.2)
    assert estimate.low < 0.2 < estimate.high
    certain = read_shares(labels, PERFECT, denoised_matrix(4500, 2500, 5000))["loss_corrected"]
    assert certain.high - certain.low < estimate.high - estimate.low, "the losses are uncertain too"
    # With nothing lost and many denoised images it is the gated share's own logit interval.
    gated = read_shares([6] * 80 + [9] * 20, PERFECT, denoised_matrix(10**6, 10**6, 10**6))
    logit_error = (1 / 80.5 + 1 / 20.5) ** 0.5
    center = np.log(20.5 / 80.5)
    ends = 1 / (1 + np.exp(-(center + 1.96 * logit_error * np.array([-1, 1]))))
    estimate = gated["loss_corrected"]
    np.testing.assert_allclose([estimate.low, estimate.high], ends, rtol=1e-5)


def test_a_class_that_is_lost_altogether_has_no_correction():
    assert "loss_corrected" not in read_shares([6, 9], PERFECT, denoised_matrix(50, 0, 50))


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("denoised", [50, 500])
@pytest.mark.parametrize("losses", [(0.05, 0.2), (0.02, 0.02), (0.1, 0.28)])
def test_the_loss_corrected_share_covers_the_truth(denoised, losses):
    """Samples and denoised images lose either class at the same rates."""
    rng = np.random.default_rng(0)
    roles = Roles(majority=6, minority=9, trained=0.2)
    studies = 2000
    covered = 0
    for _ in range(studies):
        minority = rng.binomial(1000, 0.15)
        read = rng.binomial([1000 - minority, minority], 1 - np.array(losses))
        observed = Proportion(int(read[1]), int(read.sum()))
        matrix = denoised_matrix(*rng.binomial(denoised, 1 - np.array(losses)), denoised)
        estimate = shares.loss_corrected_share(observed, matrix, roles)
        covered += estimate.low <= 0.15 <= estimate.high
    print(f"{denoised} denoised images, losses {losses}: coverage {covered / studies:.3f}")
    assert 0.935 <= covered / studies <= 0.975


def test_no_correction_without_test_images_of_a_class():
    estimates = read_shares([9, 10], np.zeros((NUM_LABELS, NUM_LABELS), int))
    assert "corrected" not in estimates
    assert estimates["gated"].value == 1


def test_a_confusion_matrix_counts_true_by_predicted():
    matrix = confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 1]), 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 0, 0], [0, 1, 0]])
