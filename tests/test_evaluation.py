"""The registered measures on sets of images of any origin."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from jaxdiff import files, results
from jaxdiff.datasets.base import Annotations, Source
from jaxdiff.datasets.dataset import Dataset, Split, make_pools
from jaxdiff.datasets.prepare import Prepared
from jaxdiff.estimates import Estimate
from jaxdiff.evaluation import EvaluationSettings, Reference, SetContext, evaluate
from jaxdiff.measures.registry import MEASURES as REGISTERED
from jaxdiff.measures.registry import Measure, load_measures
from jaxdiff.measures.roles import Roles
from jaxdiff.settings import ClassifierSettings, MeasureSettings
from jaxdiff.stage import Redo
from jaxdiff.study.pairwise import compare_sets


class InMemory(Prepared):
    """A prepared dataset without files."""

    def __init__(self, images):
        object.__setattr__(self, "images", images)

    def read(self, indices):
        return self.images[indices]


IMAGES = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 1)).astype(np.uint8)
REFERENCE = Reference("reference", IMAGES[12:])
SETS = {"a": IMAGES[:12], "b": IMAGES[12:24]}
MEASURES = MeasureSettings(lpips="none", spaces=("pixels",), k=(1, 3))


@pytest.fixture(scope="module", autouse=True)
def _measures():
    load_measures()


def run(
    workdir, sets=SETS, reference=REFERENCE, *, redo=(), roles=None, same_noise=False, **changes
):
    measures = dataclasses.replace(MEASURES, **changes)
    settings = EvaluationSettings(measures, roles, same_noise)
    evaluate(sets, reference, settings, epath.Path(workdir), redo=Redo(redo))
    return settings


def nearest(workdir) -> dict[tuple[str, str], float]:
    """Distance to the nearest reference image by set and by what is compared."""
    return {
        (result.name, estimate.labels["images"]): float(estimate)
        for result in results.read_sets(workdir)
        for estimate in result.estimates("neighbors", "kth", k=1)
    }


def test_copies_are_found_and_held_out_images_are_measured_too(tmp_path):
    run(tmp_path, reference=dataclasses.replace(REFERENCE, held_out=IMAGES[:6]))
    distances = nearest(tmp_path)
    assert distances["b", "samples"] == 0
    assert distances["a", "samples"] > 0.1
    assert distances["a", "held_out"] == pytest.approx(distances["b", "held_out"])


def test_unseen_images_are_those_of_all_other_pools_class_by_class():
    labels = np.repeat(np.tile([0, 1], 4), [8, 4, 3, 3, 3, 3, 3, 3])
    prepared = InMemory(IMAGES)
    starts = {"train": 0, "held_out": 12, "classifier_test": 18, "classifier": 24}
    ends = (12, 18, 24, 30)
    rows = [np.arange(start, end) for start, end in zip(starts.values(), ends, strict=True)]
    splits = {
        name: Split(prepared, indices, labels[indices])
        for name, indices in zip(starts, rows, strict=True)
    }
    reference = Reference("digits", IMAGES[:12], IMAGES[12:18], splits, ("no", "yes"))
    matched = reference.matched
    assert matched.labels.tolist() == [0] * 8 + [1] * 4
    assert set(map(bytes, matched.train)) == set(map(bytes, IMAGES[:12]))
    unseen = {bytes(image): label for image, label in zip(IMAGES[12:], labels[12:], strict=True)}
    assert [unseen[bytes(image)] for image in matched.unseen] == matched.labels.tolist()


@pytest.mark.parametrize("unseen_label", [1, 2])
def test_a_set_has_no_matched_images_without_unseen_ones_of_its_classes(tmp_path, unseen_label):
    labels = np.repeat([0, 1, unseen_label], [8, 4, 18])
    prepared = InMemory(IMAGES)
    names = ("train", "held_out", "classifier_test", "classifier")
    rows = np.split(np.arange(30), (12, 18, 24))
    splits = {name: Split(prepared, i, labels[i]) for name, i in zip(names, rows, strict=True)}
    reference = Reference("digits", IMAGES[:12], IMAGES[12:18], splits, ("a", "b", "c"))
    context = SetContext(
        "a", IMAGES[:12], reference, EvaluationSettings(MEASURES), epath.Path(tmp_path)
    )
    assert context.matched is None
    assert not context.has("matched")
    assert context.has("held_out")


def test_images_of_unknown_classes_are_matched_in_number():
    matched = dataclasses.replace(REFERENCE, held_out=IMAGES[:6]).matched
    assert len(matched.train) == len(matched.unseen) == 6
    assert matched.labels is None
    assert REFERENCE.matched is None


@pytest.mark.parametrize("name", ["result.json", "samples.npz", "classes.npz", "run.json"])
def test_a_changed_file_of_a_set_is_named_and_written_anew(tmp_path, name):
    run(tmp_path)
    results.check_study(tmp_path)
    path = tmp_path / "sets" / "a" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} was changed after the run wrote it"):
        results.read_study(tmp_path)
    run(tmp_path)
    results.read_study(tmp_path)


def test_a_set_is_no_cell(tmp_path):
    run(tmp_path)
    result = files.read_json(tmp_path / "sets" / "a" / "result.json")
    assert result["set"] == {
        "name": "a",
        "position": 0,
        "reference": "reference",
        "n": 18,
        "majority": None,
        "minority": None,
        "trained": None,
    }
    assert "cell" not in result
    assert not (tmp_path / "cells").exists()
    assert not (tmp_path / "sets" / "a" / "metrics.jsonl").exists()


def test_measures_are_skipped_where_done_and_made_again_on_request(tmp_path):
    run(tmp_path)
    record = tmp_path / "sets" / "a" / "stages" / "neighbors.json"
    first = record.stat().st_mtime_ns
    run(tmp_path)
    assert record.stat().st_mtime_ns == first
    run(tmp_path, redo=["neighbors"])
    assert record.stat().st_mtime_ns > first


def test_other_images_of_the_same_name_are_measured_again(tmp_path):
    run(tmp_path)
    before = nearest(tmp_path)["a", "samples"]
    run(tmp_path, sets={"a": IMAGES[12:24], "b": IMAGES[:12]})
    assert nearest(tmp_path)["a", "samples"] != before


def test_a_report_during_an_evaluation_names_no_file_of_it(tmp_path, monkeypatch):
    run(tmp_path)
    write = files.write

    def write_and_check(path, data):
        write(path, data)
        results.check_study(tmp_path)

    monkeypatch.setattr(files, "write", write_and_check)
    run(tmp_path, sets={"a": IMAGES[12:24], "b": IMAGES[:12]})
    results.read_study(tmp_path)


def brightness(artifacts):
    return [Estimate(float(artifacts.samples.mean()), name="brightness")]


def darkness(artifacts):
    return [Estimate(255.0 - float(artifacts.estimates("brightness")[0]), name="darkness")]


@pytest.mark.parametrize("declaration", [{"needs": ("brightness",)}, {"optional": ("brightness",)}])
def test_a_measure_of_another_measure_follows_the_samples(tmp_path, monkeypatch, declaration):
    declaration = {"needs": ()} | declaration
    measures = [
        Measure("brightness", brightness, "Brightness", "", needs=("samples",)),
        Measure("darkness", darkness, "Darkness", "", **declaration),
    ]
    for measure in measures:
        monkeypatch.setitem(REGISTERED, measure.name, measure)
    for images in (IMAGES[:12], IMAGES[12:24]):
        run(tmp_path, sets={"a": images})
        (result,) = results.read_sets(tmp_path)
        (estimate,) = result.estimates("darkness", "darkness")
        assert estimate.value == pytest.approx(255.0 - images.mean())


BRIGHT, LEFT = np.indices((2, 2, 40))[:2].reshape(2, -1)  # two attributes of each of 160 images


def draw_halves(bright, left) -> np.ndarray:
    """Dark or bright images of which the left or the right half is lit."""
    images = np.random.default_rng(0).integers(0, 20, (len(bright), 16, 16, 1))
    lit = np.where(left[:, None], np.arange(16) < 8, np.arange(16) >= 8)
    return (images + lit[:, None, :, None] * (80 + 120 * bright[:, None, None, None])).astype(
        np.uint8
    )


def open_halves(labels) -> Dataset:
    """The same images and names of classes, whatever the labels are."""
    images = draw_halves(BRIGHT, LEFT)
    classes = ("no", "yes")
    source = Source(
        about="halves",
        identity={"images": files.array_digest(images)},
        length=len(images),
        read_annotations=lambda: Annotations(labels, classes),
        decode=lambda i: images[i],
        pool_shares=(0.25, 0.25, 0.25, 0.25),
    )
    pools = make_pools(source, labels)
    return Dataset("halves", source, labels, classes, None, (), pools)


@pytest.mark.slow
def test_other_labels_of_the_same_images_train_the_classifiers_again(tmp_path):
    """Every sample is bright, and three in four are left: by old classifiers all would be left."""
    samples = draw_halves(np.ones(40, int), np.arange(40) % 4 > 0)
    settings = EvaluationSettings(MEASURES, Roles(0, 1, 0.5), False, ClassifierSettings(steps=30))
    shares = []
    for labels in (BRIGHT, LEFT):
        reference = Reference.from_dataset(open_halves(labels), epath.Path(tmp_path / "cache"))
        evaluate({"a": samples}, reference, settings, epath.Path(tmp_path / "out"))
        (result,) = results.read_sets(tmp_path / "out")
        shares.append(result.find("share", "share").value)
    assert shares == [1.0, 0.75]


@pytest.mark.parametrize("field", ["labels", "classes", "groups", "pools", "identity"])
def test_all_that_classes_depend_on_is_in_a_datasets_contents(field):
    dataset = open_halves(BRIGHT)
    pools = dict(zip(dataset.pools, reversed(dataset.pools.values()), strict=True))
    changes = {
        "labels": {"labels": LEFT},
        "classes": {"classes": ("left", "right")},
        "groups": {"groups": 2 * BRIGHT + LEFT},
        "pools": {"pools": pools},
        "identity": {"source": dataclasses.replace(dataset.source, identity={"images": "other"})},
    }
    changed = dataclasses.replace(dataset, **changes[field])
    assert changed.contents != dataset.contents
    assert open_halves(BRIGHT).contents == dataset.contents


def test_sets_of_other_images_are_compared_again(tmp_path):
    """Although every number of result.json may be the same."""
    settings = run(tmp_path, same_noise=True)
    compare_sets(results.read_sets(tmp_path), epath.Path(tmp_path), settings.measures)
    record = tmp_path / "shared/stages/comparisons.json"
    first = files.read_json(record)["inputs"]
    path = tmp_path / "sets/b/common.npz"
    results.write_samples(path, IMAGES[:12], np.arange(12))
    compare_sets(results.read_sets(tmp_path), epath.Path(tmp_path), settings.measures)
    assert files.read_json(record)["inputs"] != first


def test_sets_of_the_same_noise_are_compared(tmp_path):
    settings = run(tmp_path, same_noise=True)
    sets = results.read_sets(tmp_path)
    assert [len(result.common) for result in sets] == [12, 12]
    compare_sets(sets, epath.Path(tmp_path), settings.measures)
    compared = files.read_json(tmp_path / "shared/comparisons.json")
    assert compared["flips"] == [], "without labels nothing can flip"
    assert compared["similarity"] == [], "similarity needs LPIPS"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"roles": Roles(0, 1, 0.5)},
            "the class 1 was asked for; those of reference are not known",
        ),
        (
            {
                "reference": dataclasses.replace(REFERENCE, classes=("no", "yes")),
                "roles": Roles(0, 2, 0.5),
            },
            r"the class 2 was asked for; those of reference are 0 \(no\), 1 \(yes\)",
        ),
        ({"k": (1, 99)}, "k is 99 and reference holds only 18 images"),
        ({"lpips": "alex"}, "32 px or more"),
        ({"spaces": ("clip",)}, "'clip'"),
        ({"spaces": ("inception",)}, "FID's"),
        (
            {"sets": {"a": IMAGES[:9], "b": IMAGES[:12]}, "same_noise": True},
            "their sizes are {'a': 9, 'b': 12}",
        ),
        (
            {"sets": {"a": IMAGES[:, :8]}},
            r"a are of 8 x 16 x 1 and reference of 16 x 16 x 1 .*; give --size",
        ),
        ({"sets": {"a": IMAGES.repeat(3, -1)}}, "convert one of them"),
    ],
)
def test_bad_options_get_a_sentence_and_write_nothing(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_another_study_in_the_workdir_is_left_alone(tmp_path):
    files.write_json(tmp_path / "study.json", {"name": "mine", "diffusion": {}})
    with pytest.raises(ValueError, match="was made with other settings"):
        run(tmp_path)
    assert files.read_json(tmp_path / "study.json") == {"name": "mine", "diffusion": {}}
