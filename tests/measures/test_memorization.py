"""Planted: a memorizer that returns training images with a little noise, and a generalizer that returns new ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.datasets import registry as sources
from jaxdiff.diffusion import Schedule
from jaxdiff.measures import distributions, memorization

NUM = 150


@pytest.fixture(scope="module")
def planted():
    """Rows of pixels in 0..1: training images, held-out ones, the memorizer's samples and the generalizer's."""
    digits = sources.open_source("digits", size=16, channels=1)
    order = np.random.default_rng(0).permutation(len(digits))[: 5 * NUM]
    rows = (
        np.stack([digits.decode(int(i)) for i in order]).reshape(len(order), -1).astype(np.float32)
        / 255
    )
    train, held_out, new, more, other = np.split(rows, 5)
    noise = np.random.default_rng(1).normal(0, 0.02, (2, *train.shape)).astype(np.float32)
    return {"train": train, "held_out": held_out, "generalizer": new, "generalizer again": more, "other": other,
            "memorizer": train + noise[0], "memorizer again": train + noise[1]}  # fmt: skip


@pytest.fixture(scope="module")
def found(planted):
    """Every measure of the memorizer's, the generalizer's and the held-out images, {measure: {images: row}}."""
    train, held_out = planted["train"], planted["held_out"]
    rows = memorization.copying(
        {name: planted[name] for name in ("memorizer", "generalizer", "held_out")}, train
    )
    for name in ("memorizer", "generalizer"):
        samples, again = planted[name], planted[f"{name} again"]
        of = [memorization.nearer_to_training(samples, train, held_out),
              *memorization.kinds(samples, again, train, held_out), *distributions.prdc(train, samples),
              distributions.fid(train, samples), distributions.kid(train, samples)]  # fmt: skip
        rows += [row | {"images": name} for row in of]
    table = {}
    for row in rows:
        table.setdefault(row["name"], {})[row["images"]] = row
    for name, by in table.items():
        print(
            f"{name:20}" + "".join(f"  {images} {row['value']:.3g}" for images, row in by.items())
        )
    return table


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
def test_they_are_told_apart(found, name, memorizer, generalizer):
    for (low, high), images in ((memorizer, "memorizer"), (generalizer, "generalizer")):
        assert low <= found[name][images]["value"] <= high, images


@pytest.mark.parametrize("name", ["memorized", "distance_ratio", "authenticity"])
def test_new_images_are_as_held_out_ones(found, name):
    new, held_out = found[name]["generalizer"], found[name]["held_out"]
    assert new["low"] < held_out["high"]
    assert held_out["low"] < new["high"]


@pytest.mark.parametrize(
    ("name", "better"), [("precision", 1), ("coverage", 1), ("fid", -1), ("kid", -1)]
)
def test_distributions_do_not_see_copies_as_faults(found, name, better):
    """The memorizer is the better one by these, to the training images: why they stand beside, never instead."""
    assert better * found[name]["memorizer"]["value"] > better * found[name]["generalizer"]["value"]


def test_the_same_new_images_again_and_again_are_spurious(planted):
    repeats = planted["other"][np.arange(NUM) % 5]
    rows = memorization.kinds(
        repeats, repeats + np.float32(1e-3), planted["train"], planted["held_out"]
    )
    share = {row["name"]: row["value"] for row in rows}
    assert share["spurious"] > 0.7
    assert sum(share.values()) == pytest.approx(1)


def test_losses_tell_them_apart(planted):
    """A denoiser that has the training images by heart loses little on them; one that knows nothing loses the same on both."""
    train, held_out = (
        2 * planted[n].reshape(-1, 16, 16, 1)[:40] - 1 for n in ("train", "held_out")
    )
    schedule = Schedule.linear(100)
    memory = jnp.asarray(train)

    def by_heart(xt, t):
        s, sigma = schedule.signal_and_noise(t, 4)
        square = jnp.square(xt[:, None] - s[:, None] * memory[None]).sum(axis=(2, 3, 4))
        weight = jnp.exp(
            -(square - square.min(axis=1, keepdims=True)) / (2 * sigma.reshape(-1, 1) ** 2)
        )
        weight = weight / weight.sum(axis=1, keepdims=True)
        return (xt - s * jnp.einsum("qm,mhwc->qhwc", weight, memory)) / sigma

    losses = [
        memorization.eps_losses(by_heart, schedule, jnp.asarray(x), seed=0)
        for x in (train, held_out)
    ]
    gap = memorization.loss_gap(*losses)[-1]
    assert gap["name"] == "eps_gap"
    assert gap["low"] > 0
    np.testing.assert_array_equal(
        losses[0], memorization.eps_losses(by_heart, schedule, memory, seed=0)
    )
    nothing = [
        memorization.eps_losses(lambda xt, t: 0 * xt, schedule, jnp.asarray(x), 0)
        for x in (train, held_out)
    ]
    assert memorization.loss_gap(*nothing)[-1]["value"] == pytest.approx(0, abs=1e-6)


def test_too_few_training_images_get_a_sentence():
    with pytest.raises(ValueError, match="2 training images have no nearest two each"):
        memorization.copying(
            {"samples": np.zeros((4, 2), np.float32)}, np.zeros((2, 2), np.float32)
        )
