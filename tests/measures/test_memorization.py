"""Planted: a memorizer that returns training images with a little noise, and a generalizer."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.datasets import registry as sources
from jaxdiff.diffusion import Schedule
from jaxdiff.measures import distributions, memorization
from jaxdiff.measures.checkpoints import eps_losses, loss_gap
from jaxdiff.measures.nearer import nearer_to_training

NUM_IMAGES = 220  # at least 200 set a threshold


@pytest.fixture(scope="module")
def planted():
    """Rows of pixels in 0..1: training and unseen images, and both models' samples."""
    digits = sources.open_source("digits", size=16, channels=1)
    order = np.random.default_rng(0).permutation(len(digits))[: 5 * NUM_IMAGES]
    images = np.stack([digits.decode(int(i)) for i in order])
    rows = images.reshape(len(order), -1).astype(np.float32) / 255
    names = ("train", "unseen", "generalizer", "generalizer again", "other")
    sets = dict(zip(names, np.split(rows, 5), strict=True))
    noise = np.random.default_rng(1).normal(0, 0.02, (2, *sets["train"].shape))
    sets["memorizer"] = sets["train"] + noise[0].astype(np.float32)
    sets["memorizer again"] = sets["train"] + noise[1].astype(np.float32)
    return sets


@pytest.fixture(scope="module")
def metrics(planted):
    """Every measure of the memorizer's, the generalizer's and the unseen images.

    {(measure, images): estimate}
    """
    train = planted["train"]
    unseen = planted["unseen"]
    sets = {name: planted[name] for name in ("memorizer", "generalizer", "unseen")}
    estimates = memorization.memorization_metrics(sets, train)
    for name in ("memorizer", "generalizer"):
        samples = planted[name]
        second_samples = planted[f"{name} again"]
        results = [
            nearer_to_training(samples, train, unseen),
            *memorization.copy_spurious_generalized(samples, second_samples, train, unseen),
            *distributions.prdc(train, samples),
            distributions.fid(train, samples),
            distributions.kid(train, samples),
        ]
        estimates += [result.labeled(images=name) for result in results]
    for estimate in estimates:
        print(f"{estimate.name:20} {estimate.labels['images']:12} {estimate.value:.3g}")
    return {(estimate.name, estimate.labels["images"]): estimate for estimate in estimates}


@pytest.mark.parametrize(
    ("name", "memorizer", "generalizer"),
    [
        ("memorized", (0.95, 1), (0, 0.05)),
        ("distance_ratio", (0, 0.2), (0.8, 1)),
        ("authenticity", (0, 0.05), (0.4, 1)),
        ("nearer_to_training", (1, 1), (0.4, 0.6)),
        ("copy", (0.95, 1), (0, 0.1)),
        ("generalized", (0, 0.05), (0.9, 1)),
    ],
)
def test_copies_differ_from_new_images(metrics, name, memorizer, generalizer):
    for (low, high), images in ((memorizer, "memorizer"), (generalizer, "generalizer")):
        assert low <= metrics[name, images].value <= high, images


@pytest.mark.parametrize("name", ["memorized", "distance_ratio", "authenticity"])
def test_new_images_are_as_unseen_ones(metrics, name):
    new = metrics[name, "generalizer"]
    unseen = metrics[name, "unseen"]
    assert new.low < unseen.high
    assert unseen.low < new.high


def test_the_memorized_fraction_has_the_single_samples(metrics):
    memorized = metrics["memorized", "memorizer"]
    assert len(memorized.values) == NUM_IMAGES
    assert np.mean(memorized.values) == pytest.approx(memorized.value)


@pytest.mark.parametrize(
    ("name", "sign"), [("precision", 1), ("coverage", 1), ("fid", -1), ("kid", -1)]
)
def test_distributions_do_not_see_copies_as_faults(metrics, name, sign):
    """By these the memorizer is nearer to the training images: copying has to stand beside."""
    memorizer = sign * metrics[name, "memorizer"].value
    assert memorizer > sign * metrics[name, "generalizer"].value


def test_the_same_new_images_again_and_again_are_spurious(planted):
    repeats = planted["other"][np.arange(NUM_IMAGES) % 5]
    estimates = memorization.copy_spurious_generalized(
        repeats, repeats + np.float32(1e-3), planted["train"], planted["unseen"]
    )
    shares = {estimate.name: estimate.value for estimate in estimates}
    assert shares["spurious"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)


@pytest.fixture(scope="module")
def image_sets(planted):
    """40 training and 40 unseen images, float [n, 16, 16, 1] in [-1, 1]."""
    train = 2 * planted["train"].reshape(-1, 16, 16, 1)[:40] - 1
    unseen = 2 * planted["unseen"].reshape(-1, 16, 16, 1)[:40] - 1
    return jnp.asarray(train), jnp.asarray(unseen)


def test_a_denoiser_that_knows_the_training_images_loses_little_on_them(image_sets):
    train, unseen = image_sets
    schedule = Schedule.linear(100)

    def predict_eps(xt, t):
        s, sigma = schedule.signal_and_noise(t, 4)
        squares = jnp.square(xt[:, None] - s[:, None] * train[None]).sum(axis=(2, 3, 4))
        nearest_squares = squares.min(axis=1, keepdims=True)
        weights = jnp.exp(-(squares - nearest_squares) / (2 * sigma.reshape(-1, 1) ** 2))
        weights = weights / weights.sum(axis=1, keepdims=True)
        return (xt - s * jnp.einsum("qm,mhwc->qhwc", weights, train)) / sigma

    train_losses = eps_losses(predict_eps, schedule, train, seed=0)
    gap = loss_gap(train_losses, eps_losses(predict_eps, schedule, unseen, seed=0))[-1]
    assert gap.name == "eps_gap"
    assert gap.low > 0
    np.testing.assert_array_equal(train_losses, eps_losses(predict_eps, schedule, train, seed=0))


def test_a_denoiser_that_knows_nothing_loses_the_same_on_both(image_sets):
    schedule = Schedule.linear(100)
    losses = [eps_losses(lambda xt, t: 0 * xt, schedule, x0, seed=0) for x0 in image_sets]
    assert loss_gap(*losses)[-1].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("num_train", "num_unseen", "has_interval"),
    [(1, 1, False), (1, 5, False), (5, 1, False), (2, 2, True)],
)
def test_the_loss_gap_of_single_images_has_no_interval(num_train, num_unseen, has_interval):
    rng = np.random.default_rng(0)
    train, unseen = (rng.random((8, n)).astype(np.float32) for n in (num_train, num_unseen))
    gap = loss_gap(train, unseen)[-1]
    assert gap.value == pytest.approx(unseen.mean() - train.mean(), abs=1e-6)
    assert (gap.low is not None, gap.high is not None) == (has_interval, has_interval)
    json.dumps([estimate.to_json() for estimate in loss_gap(train, unseen)], allow_nan=False)


@pytest.fixture(scope="module")
def memorizer(planted):
    """Names of the memorization metrics, and their values without repeats."""
    return read_metrics(planted["train"], planted)


def read_metrics(train, planted):
    estimates = memorization.memorization_metrics({"samples": planted["memorizer"]}, train)
    return {estimate.name: estimate for estimate in estimates}


@pytest.mark.parametrize(
    ("copies", "noise"), [(2, 0), (2, 0.004), (3, 0), (12, 0)], ids=["2", "2 of JPEG", "3", "12"]
)
@pytest.mark.parametrize("scale", [1, 255])
def test_repeated_training_images_hide_no_copying(planted, memorizer, copies, noise, scale):
    """Against the same metrics of the training images without repeats."""
    repeats = np.tile(planted["train"], (copies, 1))
    repeats[NUM_IMAGES:] += np.random.default_rng(2).normal(0, noise, repeats[NUM_IMAGES:].shape)
    samples = {"samples": planted["memorizer"] * scale}
    estimates = memorization.memorization_metrics(samples, repeats * scale)
    for estimate in estimates:
        expected = memorizer[estimate.name].value
        assert estimate.value == pytest.approx(expected, abs=0.02), estimate.name
        assert estimate.labels["note"] == memorization.REPEATED
    assert not any("note" in estimate.labels for estimate in memorizer.values())


def test_exact_copies_of_an_image_that_is_there_twice_are_memorized(planted):
    train = (planted["train"] * 255).astype(np.uint8)
    (memorized, ratio, authenticity) = memorization.memorization_metrics(
        {"samples": train[:10]}, np.concatenate([train, train])
    )
    assert (memorized.value, ratio.value, authenticity.value) == (1, 0, 0)


def test_training_images_that_are_all_one_get_a_sentence():
    samples = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="the 4 references are repeats of one image"):
        memorization.memorization_metrics({"samples": samples + 1}, samples)


def test_too_few_training_images_get_a_sentence():
    samples = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="at least 3 training images are needed, got 2"):
        memorization.memorization_metrics({"samples": samples}, samples[:2])


@pytest.mark.parametrize("count", [2, 5, 6])
def test_few_samples_have_a_median_without_an_interval(count):
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    estimates = memorization.memorization_metrics({"samples": rows[:count] + 0.1}, rows[20:])
    (ratio,) = [e for e in estimates if e.name == "distance_ratio"]
    assert (ratio.low is None) == (count < 6)
