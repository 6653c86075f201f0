import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import diffusion, samplers
from jaxdiff.cells import cell as cells
from jaxdiff.datasets.base import Columns, Source
from jaxdiff.datasets.prepare import prepare
from jaxdiff.datasets.registry import Split
from jaxdiff.diffusion import Schedule
from jaxdiff.models import Model
from jaxdiff.results import CellInfo, CellResult
from jaxdiff.sampling import Sampler, noise_bank
from jaxdiff.study import inversion, memorization
from jaxdiff.study import pairwise as compare
from jaxdiff.study.config import default_config
from jaxdiff.unet import UNet

SETTINGS = {"batch": 8, "method": "ddim", "steps": 6, "clip": True}


@pytest.fixture
def drawer(one: UNet) -> Sampler:
    return Sampler(
        Model(one, Schedule.linear(20), "v", {"data": {"size": 8}}), SETTINGS, lambda *_: None
    )


def test_a_path_leads_from_the_noise_to_the_sample(drawer):
    path = drawer.path(np.arange(11), 0, [19, 10, 0])
    assert list(path) == [2, 9, 19], "the chain's own steps, none above the level, or its last"
    start = np.asarray(samplers.initial_noise(noise_bank(0, np.arange(11)), drawer.shape))
    np.testing.assert_array_equal(path[19], start)
    np.testing.assert_allclose(drawer.decode(start, 0), drawer.sample(np.arange(11), 0), atol=1e-6)


def test_predictions_explain_xt(drawer):
    """x_t = s x0_hat + sigma eps_hat, whatever the network says."""
    xt = np.random.default_rng(0).normal(size=(11, *drawer.shape)).astype(np.float32)
    t = np.arange(11) % 20
    x0_hat, eps_hat = drawer.predict(xt, t)
    again = diffusion.add_noise(drawer.model.schedule, *map(jnp.asarray, (x0_hat, eps_hat, t)))
    np.testing.assert_allclose(again, xt, atol=1e-5)


def test_other_weights_draw_other_samples(drawer, one):
    before = drawer.sample(np.arange(3), 0)
    other = UNet(one.config, rngs=nnx.Rngs(5))
    drawer.use(other)
    assert np.abs(drawer.sample(np.arange(3), 0) - before).max() > 1e-3
    drawer.use(one)
    np.testing.assert_array_equal(drawer.sample(np.arange(3), 0), before)


def split(labels, cache):
    """Images that are their own places."""
    columns = Columns(labels, tuple("0123456789"))

    def decode(i):
        return np.full((8, 8, 1), i, np.uint8)

    prepared = prepare(
        Source("", {"labels": labels.tolist()}, len(labels), lambda: columns, decode), cache, "toy"
    )
    return Split(prepared, np.arange(len(labels)), labels)


def cell(proportions=(0.8, 0.2), n=50):
    config = default_config()
    config.data.n, config.data.proportions, config.measures.k = (n,), (proportions,), (1,)
    return cells.expand(config)[0]


def test_sets_that_are_compared_are_equally_large_and_mixed(tmp_path):
    train, held_out = (
        split(np.repeat([3, 6, 9], counts), tmp_path) for counts in ((0, 40, 10), (30, 25, 25))
    )
    equal = memorization.alike(cell(), lambda: {"train": train, "held_out": held_out})
    for images, its in zip(equal, (train, held_out), strict=True):
        labels = its.labels[images[:, 0, 0, 0]]
        assert [(labels == c).sum() for c in (6, 9)] == [25, 6]
    drawn = memorization.unseen(cell(), held_out, 20)
    assert [(held_out.labels[drawn[:, 0, 0, 0]] == c).sum() for c in (6, 9)] == [16, 4]


def finished(model, seed, common=(), parts=5, majority=6):
    own = {"name": f"{model}-s{seed}", "model": model, "depth": int(model), "parameters": 1, "seed": seed, "n": 300,
           "proportions": [0.8, 0.2], "majority": majority, "minority": 15 - majority}  # fmt: skip
    labels, none = np.array(common, int), np.zeros((0, 8, 8, 1), np.uint8)
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    return CellResult(name=own["name"], info=CellInfo.from_json(own), sections={}, descriptions={}, run={}, samples=none,
                      labels=labels[:0], common=images, common_labels=labels, nearest=none[:, None],
                      config={"data": {"parts": parts}})  # fmt: skip


def test_bias_and_variance_over_seeds_on_shared_noise():
    made = [finished("2", s, [6, 6, 9, 6]) for s in (0, 2)] + [
        finished("3", 0, [6, 9, 9, 3]),
        finished("3", 2, [9, 6, 9, 6]),
    ]
    rows = {(row["model"], row["name"]): row for row in compare.of_noise(made)}
    assert rows["2", "variance"]["value"] == 0
    assert rows["2", "share_bias"]["value"] == pytest.approx(0.25 - 0.2)
    assert rows["3", "variance"]["value"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert rows["3", "variance"]["neither"] == 1
    assert compare.of_noise(made[:1]) == []


def test_who_encodes_and_who_decodes():
    made = [finished(m, s) for m in ("2", "4") for s in (0, 2, 4)] + [
        finished("2", s, majority=9) for s in (1, 3)
    ]
    found = {group.name: group for group in inversion.groups(made)}
    assert set(found) == {"2-6", "4-6"}, "two seeds leave one to decode"
    for group in found.values():
        assert group.encoder.name == "2-s4", "one encoder for all depths"
        assert [c.info.seed for c in group.decoders] == [0, 2]


def test_parts_that_share_no_image():
    assert compare.disjoint(finished("2", 0), finished("2", 2))
    assert not compare.disjoint(finished("2", 0), finished("2", 5)), "the second turn reshuffles"
    assert not compare.disjoint(finished("2", 0, parts=1), finished("2", 2, parts=1))
