import itertools

import numpy as np
import pytest
from scipy import stats

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


@pytest.mark.slow
@pytest.mark.parametrize("num_models", [2, 3, 8])
def test_estimates_are_unbiased_for_any_number_of_models(num_models):
    rng = np.random.default_rng(num_models)
    rounds = 100
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


def lose(classes, probability, rng):
    """The classes where each is neither (-1) with a probability that may differ by image."""
    return np.where(rng.random(classes.shape) < probability, -1, classes)


def values_by_pairs(classes, true):
    """Bias, variance and bias squared of all images, pair by pair."""
    biases = []
    variances = []
    products = []
    for y, f in zip(classes.T, true, strict=True):
        known = y[y >= 0]
        pairs = list(itertools.permutations(known, 2))
        biases += [known.mean() - f] if len(known) else []
        variances += [np.mean([0.5 * (a - b) ** 2 for a, b in pairs])] if pairs else []
        products += [np.mean([(a - f) * (b - f) for a, b in pairs])] if pairs else []
    return {"bias": biases, "variance": variances, "bias_squared": products}


def test_an_image_stays_in_for_the_models_that_know_its_class():
    classes = lose(decode(4, RNG), 0.5, RNG)
    estimates = {
        estimate.name: estimate
        for estimate in bias_variance_by_class(classes, TRUE)
        if estimate.labels["true"] == "all"
    }
    expected = values_by_pairs(classes, TRUE)
    for name, values in expected.items():
        assert estimates[name].value == pytest.approx(np.mean(values)), name
        assert estimates[name].n == len(values)
    assert len(expected["variance"]) < len(expected["bias"]) <= NUM_IMAGES
    assert estimates["bias"].labels["neither"] == (classes < 0).any(axis=0).sum()


@pytest.mark.parametrize("num_models", [2, 3, 6])
def test_with_nothing_lost_the_intervals_are_those_of_whole_columns(num_models):
    y = decode(num_models, RNG).astype(float)
    target = TRUE.astype(float)
    statistics = {
        "bias": lambda y: y.mean(axis=0) - target,
        "variance": lambda y: y.var(axis=0, ddof=1),
        "bias_squared": lambda y: (
            np.square((y - target).mean(axis=0)) - y.var(axis=0, ddof=1) / len(y)
        ),
    }
    estimates = bias_variance_by_class(y.astype(int), TRUE)[-3:]
    for estimate in estimates:
        statistic = statistics[estimate.name]
        over_images = statistic(y).var(ddof=1) / NUM_IMAGES
        over_models = 0.0
        if num_models > 2:
            left_out = [statistic(np.delete(y, i, axis=0)).mean() for i in range(num_models)]
            over_models = (num_models - 1) * np.var(left_out)
        total = over_images + over_models
        weights = over_images**2 / (NUM_IMAGES - 1) + over_models**2 / (num_models - 1)
        half = stats.t.ppf(0.975, total**2 / weights) * np.sqrt(total)
        value = statistic(y).mean()
        ends = (estimate.value, estimate.low, estimate.high)
        assert ends == pytest.approx((value, value - half, value + half)), estimate.name


def test_models_that_disagree_lose_the_image_and_leaving_it_out_hides_that():
    """Six models lose .14 of all images, most of them where they disagree.

    Of the images .28 are drawn to either class at random and lost in .37 of the cases, the others
    in .05. The image's own pairs tell of both; whole columns are left of half of the images.
    """
    rng = np.random.default_rng(5)
    n = 20_000
    is_unclear = np.arange(n) % 25 < 7
    true = (rng.random(n) < 0.18).astype(int)
    p = np.where(is_unclear, 0.5, 0.088)
    classes = lose((rng.random((6, n)) < p).astype(int), np.where(is_unclear, 0.37, 0.05), rng)
    assert np.mean(classes < 0) == pytest.approx(0.14, abs=0.005)
    expected = {"variance": (p * (1 - p)).mean(), "bias_squared": np.square(p - true).mean()}

    estimates = {e.name: e.value for e in bias_variance_by_class(classes, true)[-3:]}
    is_known = (classes >= 0).all(axis=0)
    assert is_known.mean() == pytest.approx(0.55, abs=0.02)
    left = values_by_pairs(classes[:, is_known], true[is_known])
    for name, truth in expected.items():
        assert estimates[name] == pytest.approx(truth, abs=0.005), name
        assert np.mean(left[name]) < truth - 0.015, name


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(0.14, id="the same for all"),
        pytest.param(np.array([0, 0, 0.05, 0.1, 0.2, 0.5])[:, None], id="by model"),
        pytest.param(np.linspace(0, 0.4, NUM_IMAGES)[None].repeat(500, axis=1), id="by image"),
    ],
)
def test_loss_that_is_independent_of_the_class_makes_no_bias(loss):
    """Of 20,000 images, whose share that fewer than two of six models know is below .01."""
    rng = np.random.default_rng(6)
    p = PROBABILITY.repeat(500)
    true = TRUE.repeat(500)
    classes = lose((rng.random((6, len(p))) < p).astype(int), loss, rng)
    estimates = {e.name: e.value for e in bias_variance_by_class(classes, true)[-3:]}
    assert estimates["bias"] == pytest.approx((p - true).mean(), abs=0.006)
    assert estimates["variance"] == pytest.approx((p * (1 - p)).mean(), abs=0.004)
    assert estimates["bias_squared"] == pytest.approx(np.square(p - true).mean(), abs=0.006)


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(("num_models", "lowest"), [(3, 0.86), (6, 0.91)])
def test_intervals_cover_with_lost_images(num_models, lowest):
    """Models differ in their share and in how much they lose; images in both as well."""
    rng = np.random.default_rng(7)
    p = np.array([0.08, 0.6, 0.5])
    target = np.array([0, 1, 0])
    loss = np.array([0.02, 0.02, 0.3])
    mix = np.array([0.55, 0.17, 0.28])
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    shifted = np.clip(p[:, None] + 0.12 * nodes, 0, 1)
    mean = shifted @ weights / weights.sum()  # over models
    expected = {
        "bias": mix @ (mean - target),
        "variance": mix @ (mean * (1 - mean)),
        "bias_squared": mix @ np.square(mean - target),
    }
    rounds = 400
    covered = dict.fromkeys(expected, 0)
    for _ in range(rounds):
        kind = rng.choice(3, size=200, p=mix)
        model_p = np.clip(p[kind] + rng.normal(0, 0.12, (num_models, 1)), 0, 1)
        classes = (rng.random(model_p.shape) < model_p).astype(int)
        classes = lose(classes, loss[kind] * rng.uniform(0.4, 1.6, (num_models, 1)), rng)
        for estimate in bias_variance_by_class(classes, target[kind])[-3:]:
            covered[estimate.name] += estimate.low <= expected[estimate.name] <= estimate.high
    print(num_models, covered)
    for name, count in covered.items():
        assert lowest < count / rounds <= 1, name


def test_a_model_that_decodes_nothing_is_none():
    classes = np.concatenate([decode(3, RNG), np.full((1, NUM_IMAGES), -1)])
    with_it = bias_variance_by_class(classes, TRUE)
    without_it = bias_variance_by_class(classes[:3], TRUE)
    assert {estimate.labels["models"] for estimate in with_it} == {3}
    pairs = zip(with_it, without_it, strict=True)
    assert all((a.value, a.low) == (b.value, b.low) for a, b in pairs)
    alone = bias_variance_by_class(classes[[0, 3]], TRUE)
    assert {estimate.name for estimate in alone} == {"bias"}, "one model has no pairs"
    assert {estimate.labels["models"] for estimate in alone} == {1}


def test_one_of_three_models_that_all_pairs_need():
    """The first and the second model know no image together, so none can be left out."""
    classes = np.stack([TRUE, TRUE, TRUE])
    classes[2, :4] = 1 - classes[2, :4]
    classes[0, ::2] = -1
    classes[1, 1::2] = -1
    by_name = {e.name: e for e in bias_variance_by_class(classes, TRUE)[-3:]}
    assert by_name["bias"].method == "two-way t 95 %"
    assert by_name["variance"].method == "t 95 % over images, given these models"


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


def test_models_that_all_agree_have_no_interval():
    """The minority is always decoded to the majority; others might do otherwise."""
    rows = bias_variance_by_class(np.zeros((3, 4), int), np.array([1, 1, 0, 0]))
    of_minority = [row for row in rows if row.labels["true"] == "minority"]
    assert [row.value for row in of_minority] == [-1, 0, 1]
    assert [(row.low, row.high) for row in of_minority] == [(None, None)] * 3


def test_lost_images_are_counted_in_their_class():
    classes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, -1]])
    rows = bias_variance_by_class(classes, np.array([0, 0, 1, 1]))
    lost = {row.labels["true"]: row.labels["neither"] for row in rows}
    assert lost == {"majority": 0, "minority": 1, "all": 1}
