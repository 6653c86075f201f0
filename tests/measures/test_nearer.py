"""The interval of `nearer_to_training` is over references and samples, not samples alone."""

import numpy as np
import pytest
from scipy import stats

from jaxdiff.estimates import wilson
from jaxdiff.measures.nearer import nearer_by_chance, nearer_to_training

DIMENSION = 50
MINORITY_SHARE = 0.2


def draw(rng, labels):
    """Vectors of two classes whose axes shrink as those of images do, so that some are hubs."""
    scales = np.arange(1, DIMENSION + 1) ** -0.5
    vectors = rng.normal(size=(len(labels), DIMENSION)) * scales
    vectors[:, 1] += 2.0 * labels
    return vectors.astype(np.float32)


def draw_references(rng, count):
    """Training and unseen vectors of the same classes, and their labels."""
    labels = (np.arange(count) < MINORITY_SHARE * count).astype(int)
    return draw(rng, labels), draw(rng, labels), labels


def draw_samples(rng, count):
    return draw(rng, rng.binomial(1, MINORITY_SHARE, count))


def cover(estimate, value):
    return estimate.low <= value <= estimate.high


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("num_references", [62, 300, 1000])
@pytest.mark.parametrize("num_samples", [256, 1000])
def test_intervals_cover_one_half_without_copying(num_references, num_samples):
    """Coverage of 300 studies is .95 with a standard error of .013; Wilson's own falls short."""
    rng = np.random.default_rng(num_references + num_samples)
    covered = []
    chance_covered = []
    wilson_covered = []
    for _ in range(300):
        train, unseen, labels = draw_references(rng, num_references)
        samples = draw_samples(rng, num_samples)
        estimate = nearer_to_training(samples, train, unseen, labels)
        covered.append(cover(estimate, 0.5))
        chance_covered.append(cover(nearer_by_chance(samples, unseen, labels), 0.5))
        low, high = wilson(estimate.value * num_samples, num_samples)
        wilson_covered.append(low <= 0.5 <= high)
    print(
        f"{num_references} references, {num_samples} samples: {np.mean(covered):.3f}, by chance "
        f"{np.mean(chance_covered):.3f}, Wilson {np.mean(wilson_covered):.3f}"
    )
    assert 0.91 < np.mean(covered) < 0.99
    assert 0.91 < np.mean(chance_covered) < 0.99
    if num_samples > 10 * num_references:
        assert np.mean(wilson_covered) < 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_intervals_cover_where_samples_copy(share):
    """A share of the samples is training images with a little noise."""
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(300):
        train, unseen, labels = draw_references(rng, 100)
        samples = draw_samples(rng, 400)
        copies = rng.random(400) < share
        originals = train[rng.integers(100, size=copies.sum())]
        samples[copies] = originals + rng.normal(0, 0.01, originals.shape).astype(np.float32)
        estimates.append(nearer_to_training(samples, train, unseen, labels))
    # Copies are always nearer, of the others one half.
    coverage = np.mean([cover(estimate, 0.5 + share / 2) for estimate in estimates])
    print(f"{share:.0%} copies: {coverage:.3f}")
    assert 0.91 < coverage < 0.995
    if share == 0.5:
        assert all(estimate.low > 0.5 for estimate in estimates)


def test_the_interval_is_that_of_resampled_references():
    """Brute force: each reference is left out of its class with the samples that are nearest."""
    rng = np.random.default_rng(3)
    train, unseen, labels = draw_references(rng, 120)
    samples = draw_samples(rng, 800)
    distances = np.linalg.norm(samples[:, None] - np.concatenate([train, unseen]), axis=2)
    nearest = distances.argmin(axis=1)
    counts = np.bincount(nearest, minlength=240).astype(float)
    strata = np.concatenate([labels, labels + 2])

    def fraction(weights):
        totals = weights * counts
        return totals[:120].sum() / totals.sum()

    influences = []
    for stratum in range(4):
        members = np.flatnonzero(strata == stratum)
        size = len(members)
        values = []
        for left_out in members:
            weights = np.ones(240)
            weights[members] = size / (size - 1)
            weights[left_out] = 0.0
            values.append(fraction(weights))
        influences.append(np.sqrt((size - 1) / size) * (values - np.mean(values)))
    squares = np.concatenate(influences) ** 2
    variance = squares.sum()
    degrees = 2 * variance**2 / (np.square(squares).sum() - variance**2 / 240)
    value = fraction(np.ones(240))
    estimate = nearer_to_training(samples, train, unseen, labels)
    assert estimate.value == pytest.approx(value)
    ratio = stats.norm.ppf(0.975) / stats.t.ppf(0.975, degrees)
    trials = value * (1 - value) / variance * ratio**2
    low, high = wilson(value * trials, trials)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=2e-3)
    alone = wilson(round(value * 800), 800)
    assert estimate.high - estimate.low > 1.2 * (alone[1] - alone[0])


def test_ties_count_half():
    rng = np.random.default_rng(0)
    train, unseen, _ = draw_references(rng, 30)
    assert nearer_to_training(train, train, train).value == 0.5
    assert nearer_to_training(train, train, unseen).value == 1.0
    half = nearer_to_training(np.concatenate([train, unseen]), train, unseen)
    assert half.value == 0.5
    assert (half.low, half.high) == pytest.approx(wilson(30, 60))


def test_sets_of_unequal_size_get_a_sentence():
    rows = np.zeros((4, 2), np.float32)
    with pytest.raises(
        ValueError, match="4 training and 3 unseen images were given, and the larger set"
    ):
        nearer_to_training(rows, rows, rows[:3])


def test_one_unseen_image_has_no_halves():
    rows = np.zeros((4, 2), np.float32)
    estimate = nearer_by_chance(rows, rows[:1])
    assert estimate.value is None
    assert estimate.labels["why"] == "1 unseen images have no halves"


@pytest.mark.parametrize("count", [1, 5, 9])
def test_few_references_compare_nothing(count):
    rng = np.random.default_rng(0)
    train, unseen, labels = draw_references(rng, count)
    estimate = nearer_to_training(draw_samples(rng, 50), train, unseen, labels)
    assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
    assert estimate.labels["why"] == f"{count} references of either kind; 10 are needed"
    assert nearer_by_chance(unseen, np.concatenate([train, unseen])).value is None


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("sizes", [(19, 1), (18, 1, 1), (10, 9, 1)])
def test_intervals_cover_where_a_class_has_one_reference(sizes):
    """All samples of that class go to one of two references: .95 of 100 studies, or more."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        train = draw(rng, 5 * labels)
        unseen = draw(rng, 5 * labels)
        samples = draw(rng, 5 * rng.integers(len(sizes), size=200))
        covered.append(cover(nearer_to_training(samples, train, unseen, labels), 0.5))
    print(f"{sizes}: {np.mean(covered):.2f}")
    assert np.mean(covered) >= 0.88


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_a_model_that_draws_one_image_is_not_said_to_copy(spread):
    """One reference is nearest to nearly all of its samples; of which kind it is, is chance."""
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(100):
        train, unseen, labels = draw_references(rng, 100)
        samples = draw(rng, np.zeros(1, int)) + spread * draw(rng, np.zeros(200, int))
        estimates.append(nearer_to_training(samples, train, unseen, labels))
    assert np.mean([cover(estimate, 0.5) for estimate in estimates]) > 0.95
    assert np.mean([estimate.low > 0.5 for estimate in estimates]) < 0.05
