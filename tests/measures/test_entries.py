"""Every measure as a study runs it: a function of artifacts, here of ones that lie in memory."""

import dataclasses
import json

import numpy as np
import pytest

from jaxdiff.datasets.images import to_float, to_uint8
from jaxdiff.datasets.mixtures import draw_subset
from jaxdiff.estimates import Estimate
from jaxdiff.features.extractors import load_extractor
from jaxdiff.measures import checkpoints as checkpoints_module
from jaxdiff.measures import quality as quality_module
from jaxdiff.measures.artifacts import Artifacts
from jaxdiff.measures.distributions import kid
from jaxdiff.measures.matched import MatchedSplits
from jaxdiff.measures.registry import load_measures
from tests.measures.fake_artifacts import (
    REJECT_LABEL,
    FakeSettings,
    MemorySampler,
    draw_split,
    make_artifacts,
    predict_labels,
)

MEASURES = load_measures()
OF_THIS_FOLDER = (
    "quality", "share", "loss_by_class", "amplification", "lpips", "neighbors", "memorization",
    "fidelity", "checkpoints", "effective_k", "predicted_share",
    "held_out_loss",
)  # fmt: skip


def compute(name, artifacts):
    """The measure's estimates, which JSON has to hold without a loss."""
    estimates = MEASURES[name].compute(artifacts)
    for estimate in estimates:
        entry = json.loads(json.dumps(estimate.to_json()))
        assert Estimate.from_json(entry).to_json() == entry
        # experiments.bypass adds these to every row.
        assert not {"form", "p", "measure"} & estimate.labels.keys()
    return estimates


def by_name(estimates):
    return {estimate.name: estimate for estimate in estimates}


def select(estimates, name, **labels):
    """The only estimate with a name and labels."""
    matches = [
        estimate
        for estimate in estimates
        if estimate.name == name and labels.items() <= estimate.labels.items()
    ]
    assert len(matches) == 1, (name, labels, matches)
    return matches[0]


@pytest.mark.parametrize("name", OF_THIS_FOLDER)
def test_a_measure_says_what_it_needs(name):
    entry = MEASURES[name]
    known = set(Artifacts.__annotations__) | set(vars(Artifacts)) | set(MEASURES)
    assert set(entry.needs) <= known
    assert set(entry.optional) <= known
    assert set(entry.settings) <= {field.name for field in dataclasses.fields(FakeSettings)}
    assert entry.title
    assert entry.caption


def test_measures_come_after_those_that_they_need():
    order = list(MEASURES)
    assert order.index("share") < order.index("amplification")
    assert order.index("effective_k") < order.index("predicted_share")


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("lpips", FakeSettings(lpips="none"), FakeSettings(lpips="alex")),
        ("held_out_loss", FakeSettings(held_out=0), FakeSettings(held_out=4)),
        ("effective_k", FakeSettings(queries=0), FakeSettings(queries=4)),
        ("predicted_share", FakeSettings(queries=0), FakeSettings(queries=4)),
    ],
)
def test_settings_turn_measures_off(name, off, on):
    assert not MEASURES[name].enabled(off)
    assert MEASURES[name].enabled(on)


def test_quality_has_the_gate_first_with_its_single_values():
    artifacts = make_artifacts()
    labels = artifacts.predictions.labels.copy()
    labels[:4] = REJECT_LABEL
    predictions = dataclasses.replace(artifacts.predictions, labels=labels)
    estimates = compute("quality", dataclasses.replace(artifacts, predictions=predictions))
    assert [estimate.name for estimate in estimates] == [
        "gate", "other_class", "no_class", "disagreement"
    ]  # fmt: skip
    assert estimates[0].value == pytest.approx(0.9)
    assert estimates[0].values == [0.0] * 4 + [1.0] * 36


def test_quality_of_a_model_has_the_slope_of_the_mean():
    """At the last step x_t is almost eps, so that any denoiser predicts its mean."""
    artifacts = make_artifacts()
    artifacts.sampler = MemorySampler(artifacts.train.images)
    estimates = compute("quality", artifacts)
    for denoiser in ("network", "linear"):
        slope = select(estimates, "mean_eps_slope", t=99, denoiser=denoiser)
        assert slope.value == pytest.approx(1.0, abs=1e-3)
        assert slope.n == 60
    assert {e.labels["t"] for e in estimates if e.name == "mean_eps_slope"} == {10, 30, 99}


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_the_slope_at_the_last_step_is_of_networks_that_predict_eps(prediction):
    artifacts = make_artifacts()
    artifacts.sampler = MemorySampler(artifacts.train.images)
    artifacts.sampler.model.prediction = prediction
    estimates = compute("quality", artifacts)
    assert {e.labels["t"] for e in estimates if e.name == "mean_eps_slope"} == {10, 30}


def test_the_gate_of_random_weights():
    """The classifier of the fake artifacts takes everything for one of the classes but black."""
    artifacts = make_artifacts()
    black = np.zeros((1, 8, 8, 1), np.uint8)
    images = np.concatenate([artifacts.train.images[:3], black])
    artifacts.random_sampler = MemorySampler(images)
    artifacts.predict = lambda images: predict_labels(
        np.where(images.any(axis=(1, 2, 3)), 1, REJECT_LABEL)
    )
    gate = select(compute("quality", artifacts), "gate_random_weights")
    assert (gate.value, gate.n) == (0.75, 64)


def test_share_and_amplification():
    artifacts = make_artifacts()
    shares = compute("share", artifacts)
    assert shares[0].name == "share"
    assert shares[0].labels["share_form"] == "forced_choice"
    assert shares[0].value == pytest.approx(0.25)
    assert "corrected_denoised" not in by_name(shares)
    denoised = dataclasses.replace(artifacts, denoised_confusion=artifacts.confusion)
    assert "corrected_denoised" in by_name(compute("share", denoised))
    amplification = by_name(compute("amplification", artifacts))
    assert amplification["absolute"].value == pytest.approx(0.0)
    assert amplification["exponent"].value == pytest.approx(1.0)


def test_no_readable_sample_leaves_the_forced_choice_alone():
    rejected = np.full(40, REJECT_LABEL)
    predictions = predict_labels(rejected)
    predictions.probabilities[:10, 1] = 0.06
    forced = make_artifacts(predictions=predictions)
    assert compute("share", forced)[0].value == pytest.approx(0.25)
    settings = FakeSettings(share="gated")
    gated = make_artifacts(predictions=predictions, settings=settings)
    named = compute("share", gated)[0]
    assert named.value is None
    assert named.labels["share_form"] == "gated"
    assert "no sample could be read" in named.labels["why"]
    assert compute("amplification", gated) == []


def test_loss_by_class():
    denoised = np.array([[40, 5, 5], [2, 18, 20], [0, 0, 0]])
    estimates = compute("loss_by_class", make_artifacts(denoised_confusion=denoised))
    lost = {estimate.labels["role"]: estimate.value for estimate in estimates[:2]}
    assert lost == {"majority": pytest.approx(0.1), "minority": pytest.approx(0.5)}
    ratio = estimates[2]
    assert ratio.name == "loss_ratio"
    assert ratio.value == pytest.approx((20.5 / 40.5) / (5.5 / 50.5))
    assert 1 < ratio.low < ratio.value < ratio.high


def test_lpips_has_the_training_images_beside_the_samples():
    artifacts = make_artifacts(size=32, settings=FakeSettings(lpips="alex"))
    estimates = by_name(compute("lpips", artifacts))
    assert list(estimates) == [
        "all_pairs", "at_training_mix", "within_0", "within_1", "between", "training_data"
    ]  # fmt: skip
    assert estimates["between"].value > estimates["within_0"].value
    assert estimates["at_training_mix"].value == pytest.approx(
        estimates["all_pairs"].value, rel=0.05
    )
    assert artifacts.reports == [("lpips", 1, 2), ("lpips", 2, 2)]


def test_lpips_of_images_without_classes():
    artifacts = make_artifacts(
        size=32, settings=FakeSettings(lpips="alex"), roles=None, predictions=None
    )
    assert list(by_name(compute("lpips", artifacts))) == ["all_pairs", "training_data"]


def test_neighbors_find_copies_and_write_them():
    artifacts = make_artifacts()
    artifacts.samples = artifacts.train.images[5:20]
    estimates = compute("neighbors", artifacts)
    copies = select(estimates, "kth", k=1, images="samples", space="pixels")
    assert copies.value == 0
    assert copies.values == [0.0] * 15
    assert select(estimates, "kth", k=3, images="samples").values is None
    assert select(estimates, "mean", k=1, images="held_out").value > 0.05
    arrays = artifacts.arrays["neighbors.npz"]
    np.testing.assert_array_equal(arrays["index"][:, 0], np.arange(5, 20))
    np.testing.assert_array_equal(arrays["images"][:, 0], artifacts.samples)
    assert arrays["rms_distance"][:, 1:].min() > 0.05
    assert artifacts.reports == [("neighbors", 1, 1)]


@pytest.mark.parametrize("spaces", [(), ("pixels",)])
def test_stored_distances_are_the_rms_difference_a_pixel(spaces):
    """Of pixels in [0, 1], gray or RGB, whatever the spaces of the table are."""
    artifacts = make_artifacts(settings=FakeSettings(spaces=spaces))
    assert bool(compute("neighbors", artifacts)) == bool(spaces)
    arrays = artifacts.arrays["neighbors.npz"]
    assert arrays["index"].shape == (40, 3)
    nearest = artifacts.train.images[arrays["index"][:, 0]]
    difference = (artifacts.samples.astype(float) - nearest) / 255
    rms = np.sqrt(np.square(difference).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(arrays["rms_distance"][:, 0], rms, rtol=1e-6)


def test_neighbors_without_held_out_images():
    artifacts = make_artifacts(held_out=None)
    estimates = compute("neighbors", artifacts)
    assert {estimate.labels["images"] for estimate in estimates} == {"samples"}


@pytest.fixture(scope="module")
def many_unseen():
    """Artifacts with 220 training and as many unseen images, of which 1 % is two."""
    train = draw_split(165, 55, seed=0)
    unseen = draw_split(165, 55, seed=2)
    matched = MatchedSplits(train.images, unseen.images, train.labels)
    return make_artifacts(train=train, matched=matched)


def test_memorization_of_copies_and_of_new_images(many_unseen):
    estimates = compute("memorization", many_unseen)
    assert len(estimates) == 11
    assert select(estimates, "memorized", images="samples").value == 0
    nearer = select(estimates, "nearer_to_training")
    assert nearer.low < 0.5 < nearer.high
    chance = select(estimates, "nearer_by_chance")
    assert chance.low < 0.5 < chance.high
    # Copies of the very images among which copies are sought.
    count = len(many_unseen.common_samples)
    rows = draw_subset(many_unseen.train.labels, count)
    copies = dataclasses.replace(many_unseen, samples=many_unseen.train.images[rows])
    estimates = compute("memorization", copies)
    assert select(estimates, "memorized", images="samples").values == [1.0] * count
    assert select(estimates, "memorized", images="unseen").value == 0
    assert select(estimates, "nearer_to_training").value == 1
    copy = select(estimates, "copy")
    assert copy.value == 1
    assert 0 < copy.labels["threshold"] < 1, "in the units of Table 3"


def test_copies_are_sought_among_as_many_images_as_repeats(many_unseen):
    """A tenth of the training images is no nearer than as many samples, whatever there are."""
    rows = draw_subset(many_unseen.train.labels, 12)
    others = np.setdiff1d(np.arange(220), rows)
    copies = dataclasses.replace(many_unseen, samples=many_unseen.train.images[others])
    assert select(compute("memorization", copies), "copy").value < 0.1


def test_few_unseen_images_set_no_threshold():
    estimates = compute("memorization", make_artifacts())
    for name in ("copy", "spurious", "generalized"):
        estimate = select(estimates, name)
        assert estimate.value is None
        assert estimate.labels["why"].startswith("60 unseen images set no threshold")


@pytest.mark.parametrize(("missing", "count"), [("common_samples", 8), ("matched", 3)])
def test_memorization_leaves_out_what_cannot_be_compared(missing, count):
    artifacts = make_artifacts(**{missing: None})
    assert len(compute("memorization", artifacts)) == count


def test_fidelity_against_training_and_unseen_images():
    estimates = compute("fidelity", make_artifacts())
    assert len(estimates) == 12
    assert select(estimates, "kid", space="pixels", against="unseen").n == 40
    estimates = compute("fidelity", make_artifacts(matched=None))
    assert {estimate.labels["against"] for estimate in estimates} == {"reference"}
    assert compute("fidelity", make_artifacts(samples=draw_split(4, 1, 0).images)) == []


def test_checkpoints_see_a_model_learn_by_heart():
    """An early model that smooths over all images, and the training images' exact denoiser."""
    artifacts = make_artifacts(settings=FakeSettings(checkpoints=20), checkpoints=[10, 200])
    images = artifacts.train.images
    artifacts.samplers = {10: MemorySampler(images, rho=1e4), 200: MemorySampler(images)}
    artifacts.sampler = artifacts.samplers[200]
    estimates = compute("checkpoints", artifacts)
    early_gap = select(estimates, "eps_gap", step=10)
    late_gap = select(estimates, "eps_gap", step=200)
    assert late_gap.low > max(0.0, early_gap.value)
    early = {estimate.name for estimate in estimates if estimate.labels["step"] == 10}
    assert early >= {"memorized", "gate", "forced_choice", "gated", "absolute", "kid"}
    late = {estimate.name for estimate in estimates if estimate.labels["step"] == 200}
    assert late == {"eps_loss", "eps_gap", "kid"}
    drawn = to_uint8(artifacts.samplers[10].sample(np.arange(20), 0))
    pixels = load_extractor("pixels")
    for step, samples in ((10, drawn), (200, artifacts.samples[:20])):
        found = select(estimates, "kid", step=step, space="pixels", against="unseen")
        # The matched images are drawn in another order.
        assert float(found) == pytest.approx(
            float(kid(pixels(artifacts.matched.unseen), pixels(samples))), rel=1e-6
        )
        assert found.n == 20
    losses = artifacts.arrays["losses.npz"]
    assert losses["steps"].tolist() == [10, 200]
    assert losses["t"].tolist() == [11, 24, 36, 49, 61, 74, 86, 99]
    assert losses["unseen"].shape == (2, 8, 60)
    assert losses["unseen"].dtype == np.float32
    late_loss = select(estimates, "eps_loss", step=200, images="train")
    assert losses["train"][1].mean() == pytest.approx(late_loss.value, rel=1e-5)
    assert artifacts.reports == [("checkpoints", 1, 2), ("checkpoints", 2, 2)]


def test_losses_are_of_a_limited_number_of_images(monkeypatch):
    monkeypatch.setattr(checkpoints_module, "MAX_IMAGES", 20)
    artifacts = make_artifacts(checkpoints=[10])
    artifacts.samplers = {10: MemorySampler(artifacts.train.images)}
    artifacts.sampler = artifacts.samplers[10]
    estimates = compute("checkpoints", artifacts)
    assert artifacts.arrays["losses.npz"]["train"].shape == (1, 8, 20)
    assert select(estimates, "eps_loss", images="unseen").n == 20


@pytest.fixture(scope="module")
def exact_denoiser():
    """Artifacts of a model that is the exact denoiser of its training images."""
    artifacts = make_artifacts(settings=FakeSettings(queries=12))
    artifacts.sampler = MemorySampler(artifacts.train.images)
    return artifacts


def test_effective_k_of_an_exact_denoiser(exact_denoiser):
    estimates = compute("effective_k", exact_denoiser)
    rho = select(estimates, "rho", queries="unseen", t=70)
    assert rho.labels["why"] == ""
    assert rho.value == pytest.approx(1.0, rel=0.1)
    k_eff = select(estimates, "k_eff", queries="unseen", t=70)
    assert 1 < k_eff.low < k_eff.value < k_eff.high < 60
    memories = {estimate.labels["memory"] for estimate in estimates}
    assert memories == {"train", "matched train", "unseen", "matched train - unseen"}
    difference = select(estimates, "r2_difference", queries="unseen", t=70)
    train, unseen = (
        select(estimates, "r2", queries="unseen", t=70, memory=memory)
        for memory in ("matched train", "unseen")
    )
    assert difference.value == pytest.approx(train.value - unseen.value)
    assert difference.low > 0
    assert train.labels["images"] == unseen.labels["images"] == 60
    assert exact_denoiser.reports[-1] == ("effective k", 12, 12)


def test_the_predicted_share_is_the_trained_one(exact_denoiser):
    """At rho = 1 the classes come out in their proportions."""
    samples = np.zeros((300, 8, 8, 1), np.uint8)
    estimates = compute("predicted_share", dataclasses.replace(exact_denoiser, samples=samples))
    unseen = select(estimates, "predicted", queries="unseen")
    assert unseen.n == 300
    assert unseen.low < 0.25 < unseen.high
    defined = unseen.labels["defined at t"].split()
    assert "70" in defined
    assert unseen.labels["levels"] == f"{len(defined)} of 6"


def test_the_predicted_share_without_a_fit_says_why(exact_denoiser, monkeypatch):
    artifacts = dataclasses.replace(exact_denoiser)
    undefined = Estimate(None, name="rho", labels={"queries": "unseen", "t": 5})
    monkeypatch.setattr(artifacts, "estimates", lambda name: [undefined])
    (estimate,) = compute("predicted_share", artifacts)
    assert (estimate.value, estimate.n) == (None, 0)
    assert estimate.labels["why"] == "rho is undefined at every noise level"
    assert estimate.labels["levels"] == "0 of 1"


@pytest.mark.parametrize(("num_defined", "is_test"), [(1, False), (2, False), (3, True)])
def test_a_share_predicted_from_few_noise_levels_is_no_test(
    exact_denoiser, monkeypatch, num_defined, is_test
):
    artifacts = dataclasses.replace(exact_denoiser)
    values = [1.0] * num_defined + [None] * (6 - num_defined)
    fits = [
        Estimate(value, name="rho", labels={"queries": "unseen", "t": 10 * i})
        for i, value in enumerate(values)
    ]
    monkeypatch.setattr(artifacts, "estimates", lambda name: fits[::-1])
    (estimate,) = compute("predicted_share", artifacts)
    assert estimate.labels["defined at t"] == " ".join(str(10 * i) for i in range(num_defined))
    assert estimate.labels["levels"] == f"{num_defined} of 6"
    assert (estimate.labels["note"] == "") == is_test


def test_samples_of_the_fake_sampler_are_its_memory():
    """What the other tests rest on."""
    images = draw_split(3, 2, seed=0).images
    np.testing.assert_array_equal(
        to_uint8(MemorySampler(images).sample(np.arange(7), 0)), images[np.arange(7) % 5]
    )


@pytest.mark.parametrize("limit", [10, 60, 99])
def test_the_slopes_make_floats_of_no_more_images_than_they_use(monkeypatch, limit):
    artifacts = make_artifacts()
    artifacts.sampler = MemorySampler(artifacts.train.images)
    sizes = []

    def record(images):
        sizes.append(len(images))
        return to_float(images)

    monkeypatch.setattr(quality_module, "MAX_GAUSSIAN_IMAGES", limit)
    monkeypatch.setattr(quality_module, "to_float", record)
    compute("quality", artifacts)
    assert sizes == [len(artifacts.held_out_of_classes), min(limit, 60)]


@pytest.mark.parametrize(("count", "has_slopes"), [(1, False), (2, False), (3, True)])
def test_few_held_out_images_have_no_slopes(count, has_slopes):
    artifacts = make_artifacts()
    artifacts.sampler = MemorySampler(artifacts.train.images)
    artifacts.held_out_of_classes = artifacts.held_out_of_classes[:count]
    estimates = compute("quality", artifacts)
    assert any(estimate.name == "mean_eps_slope" for estimate in estimates) == has_slopes
    json.dumps([estimate.to_json() for estimate in estimates], allow_nan=False)
