"""Planted: a memorizer that returns training images with a little noise, and a generalizer that returns new ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.datasets import sources
from jaxdiff.diffusion import Schedule
from jaxdiff.measures import distributions, memorization

NUM = 150


@pytest.fixture(scope="module")
def planted():
    """Rows of pixels in 0..1: training images, held-out ones, the memorizer's samples and the generalizer's."""
    digits = sources.raw("digits", size=16, channels=1)
    order = np.random.default_rng(0).permutation(len(digits))[: 5 * NUM]
    rows = np.stack([digits.decode(int(i)) for i in order]).reshape(len(order), -1).astype(np.float32) / 255
    train, held_out, new, more, other = np.split(rows, 5)
    noise = np.random.default_rng(1).normal(0, 0.02, (2, *train.shape)).astype(np.float32)
    return {"train": train, "held_out": held_out, "generalizer": new, "generalizer again": more, "other": other,
            "memorizer": train + noise[0], "memorizer again": train + noise[1]}  # fmt: skip


def test_copying_tells_them_apart(planted):
    sets = {name: planted[name] for name in ("memorizer", "generalizer", "held_out")}
    found = {(row["images"], row["name"]): row for row in memorization.copying(sets, planted["train"])}
    value = {key: row["value"] for key, row in found.items()}
    assert value["memorizer", "memorized"] > 0.95
    assert value["generalizer", "memorized"] < 0.05
    assert value["memorizer", "distance_ratio"] < 0.2
    assert value["generalizer", "distance_ratio"] > 0.8
    assert value["memorizer", "authenticity"] < 0.05
    assert value["generalizer", "authenticity"] > 0.4
    for name in ("memorized", "distance_ratio", "authenticity"):
        new, held_out = found["generalizer", name], found["held_out", name]
        assert new["low"] < held_out["high"] and held_out["low"] < new["high"], "new images are as held-out ones"  # noqa: PT018


def test_nearer_to_training_tells_them_apart(planted):
    copies, new = (
        memorization.nearer_to_training(planted[name], planted["train"], planted["held_out"])
        for name in ("memorizer", "generalizer")
    )
    assert copies["value"] == 1.0
    assert new["low"] < 0.5 < new["high"]


def test_kinds_tell_them_apart(planted):
    train, held_out = planted["train"], planted["held_out"]
    of = lambda name: {  # noqa: E731
        row["name"]: row["value"]
        for row in memorization.kinds(planted[name], planted[f"{name} again"], train, held_out)
    }
    copies, new = of("memorizer"), of("generalizer")
    assert copies["copy"] > 0.95
    assert new["generalized"] > 0.9
    repeats = planted["other"][np.arange(NUM) % 5]
    stuck = memorization.kinds(repeats, repeats + np.float32(1e-3), train, held_out)
    shares = {row["name"]: row["value"] for row in stuck}
    assert shares["spurious"] > 0.7, "a model that draws the same new images again and again"
    assert sum(shares.values()) == pytest.approx(1)


def test_distributions_do_not_see_copies_as_faults(planted):
    """The memorizer is the better one by precision, coverage, FID and KID to the training images: why they stand beside."""
    prdc = {
        name: {row["name"]: row["value"] for row in distributions.prdc(planted["train"], planted[name])}
        for name in ("memorizer", "generalizer")
    }
    assert prdc["memorizer"]["coverage"] > prdc["generalizer"]["coverage"]
    assert prdc["memorizer"]["precision"] > prdc["generalizer"]["precision"]
    for measure in (distributions.fid, distributions.kid):
        memorizer, generalizer = (measure(planted["train"], planted[n])["value"] for n in ("memorizer", "generalizer"))
        assert memorizer < generalizer


def test_losses_tell_them_apart(planted):
    """A denoiser that has the training images by heart loses little on them; one that knows nothing loses the same on both."""
    train, held_out = (2 * planted[n].reshape(-1, 16, 16, 1)[:40] - 1 for n in ("train", "held_out"))
    schedule = Schedule.linear(100)
    memory = jnp.asarray(train)

    def by_heart(xt, t):
        s, sigma = schedule.signal_and_noise(t, 4)
        square = jnp.square(xt[:, None] - s[:, None] * memory[None]).sum(axis=(2, 3, 4))
        weight = jnp.exp(-(square - square.min(axis=1, keepdims=True)) / (2 * sigma.reshape(-1, 1) ** 2))
        weight = weight / weight.sum(axis=1, keepdims=True)
        return (xt - s * jnp.einsum("qm,mhwc->qhwc", weight, memory)) / sigma

    losses = [memorization.eps_losses(by_heart, schedule, jnp.asarray(x), seed=0) for x in (train, held_out)]
    gap = memorization.loss_gap(*losses)[-1]
    assert gap["name"] == "eps_gap"
    assert gap["low"] > 0
    np.testing.assert_array_equal(losses[0], memorization.eps_losses(by_heart, schedule, memory, seed=0))
    nothing = [memorization.eps_losses(lambda xt, t: 0 * xt, schedule, jnp.asarray(x), 0) for x in (train, held_out)]
    assert memorization.loss_gap(*nothing)[-1]["value"] == pytest.approx(0, abs=1e-6)


def test_too_few_training_images_get_a_sentence():
    with pytest.raises(ValueError, match="2 training images have no nearest two each"):
        memorization.copying({"samples": np.zeros((4, 2), np.float32)}, np.zeros((2, 2), np.float32))
