import numpy as np
import pytest

from jaxdiff.measures import bias_variance
from jaxdiff.measures.bias_variance import bias_variance_by_class, bias_variance_from_noise

NUM_IMAGES = 40
RNG = np.random.default_rng(0)
TRUE = np.arange(NUM_IMAGES) % 4 // 3  # a quarter is the minority
# The probability, over models, that an image is decoded to the minority.
PROBABILITY = np.where(TRUE == 1, 0.55, 0.1) + 0.1 * np.sin(np.arange(NUM_IMAGES))


def decode(num_models, rng):
    return (rng.random((num_models, NUM_IMAGES)) < PROBABILITY).astype(np.int64)


def decode_with(noise, decoders, classify):
    """The class of every image that each model decodes from each noise, [model, n]."""
    return np.stack([classify(decoder(noise)) for decoder in decoders])


@pytest.mark.parametrize("num_models", [2, 3, 8])
def test_estimates_are_unbiased_for_any_number_of_models(num_models):
    rng = np.random.default_rng(num_models)
    rounds = 400
    values = {}
    for _ in range(rounds):
        for estimate in bias_variance_by_class(decode(num_models, rng), TRUE):
            key = (estimate.labels["true"], estimate.name)
            values.setdefault(key, []).append(estimate.value)
    masks = {"majority": TRUE == 0, "minority": TRUE == 1, "all": TRUE >= 0}
    for name, mask in masks.items():
        expected = {
            "bias": (PROBABILITY - TRUE)[mask].mean(),
            "variance": (PROBABILITY * (1 - PROBABILITY))[mask].mean(),
            "bias_squared": np.square(PROBABILITY - TRUE)[mask].mean(),
        }
        for key, value in expected.items():
            sample = np.array(values[name, key])
            error = sample.std() / np.sqrt(rounds)
            assert abs(sample.mean() - value) < 4 * error, (name, key)


def test_of_two_classes_bias_squared_and_variance_are_the_absolute_bias():
    y = decode(5, RNG).astype(float)
    target = TRUE.astype(float)
    total = bias_variance.squared_mean(y - target[None]) + bias_variance.variance(y)
    np.testing.assert_allclose(total, np.abs(y.mean(axis=0) - target))


def test_intervals_cover_over_images_and_models():
    """Some models draw the minority more, which an interval over images alone does not see."""
    rng = np.random.default_rng(3)
    covered = []
    covered_over_images = []
    for _ in range(300):
        model_shift = rng.normal(0, 0.12, (6, 1))
        y = (rng.random((6, 200)) < np.clip(0.3 + model_shift, 0, 1)).astype(float)
        estimate = bias_variance.two_way_mean(lambda y: y.mean(axis=0), y)
        half = 1.96 * y.mean(axis=0).std(ddof=1) / np.sqrt(200)
        covered.append(estimate.low <= 0.3 <= estimate.high)
        covered_over_images.append(abs(estimate.value - 0.3) <= half)
    assert np.mean(covered) > 0.92
    assert np.mean(covered_over_images) < 0.8


def test_two_models_give_an_interval_for_themselves_alone():
    estimate = bias_variance_by_class(decode(2, RNG), TRUE)[0]
    assert estimate.method == "t 95 % over images, given these models"
    assert estimate.labels["models"] == 2
    with pytest.raises(ValueError, match="1 model has no variance over models"):
        bias_variance_by_class(decode(1, RNG), TRUE)


def test_the_same_model_is_the_zero():
    estimates = bias_variance_by_class(np.stack([TRUE, TRUE, TRUE]), TRUE)
    assert {estimate.value for estimate in estimates} == {0.0}


def test_neither_class_is_left_out_and_counted():
    classes = decode(3, RNG)
    classes[1, :5] = -1
    estimates = bias_variance_by_class(classes, TRUE)
    assert {estimate.labels["neither"] for estimate in estimates} == {5}
    expected = bias_variance_by_class(classes[:, 5:], TRUE[5:])
    np.testing.assert_allclose(
        [estimate.value for estimate in estimates], [estimate.value for estimate in expected]
    )


def test_noise_that_decides_the_class_has_no_variance():
    estimates = bias_variance_from_noise(np.tile(TRUE, (4, 1)), 0.2)
    assert [estimate.value for estimate in estimates] == pytest.approx([0.05, 0.0])


def test_noise_that_says_nothing_has_the_variance_of_a_draw():
    classes = (np.random.default_rng(0).random((8, 4000)) < 0.3).astype(np.int64)
    estimates = bias_variance_from_noise(classes, 0.2)
    assert [estimate.value for estimate in estimates] == pytest.approx([0.1, 0.21], abs=0.01)


def test_noise_of_neither_class_gives_nothing():
    assert bias_variance_from_noise(np.full((3, 9), -1), 0.2) == []


def test_models_that_decode_one_noise_to_opposite_classes():
    noise = RNG.normal(size=(6, 3))
    classes = decode_with(
        noise, [lambda x: x, lambda x: -x], lambda images: (images[:, 0] > 0).astype(int)
    )
    estimates = {e.name: e.value for e in bias_variance_from_noise(classes, 0.5)}
    assert estimates == {"share_bias": 0.0, "variance": 0.5}
