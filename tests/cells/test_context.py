"""Sets of images that a cell's measures compare are equally large and of the same mixture."""

import dataclasses
import types

import numpy as np
import pytest
from etils import epath
from flax import nnx

from jaxdiff import files
from jaxdiff.bypass import cells as bypass_cells
from jaxdiff.bypass.config import BypassSettings
from jaxdiff.cells import context as context_module
from jaxdiff.cells import selections
from jaxdiff.cells.context import CellContext, open_trained_cell
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets.base import Annotations, Source
from jaxdiff.datasets.dataset import Split
from jaxdiff.datasets.prepare import prepare
from jaxdiff.denoiser import build_network, get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.measures.roles import Roles
from jaxdiff.models import Model
from jaxdiff.sampling import Sampler
from jaxdiff.stage import NO_REDO
from jaxdiff.study import grid, stages
from jaxdiff.study.config import default_config

MAJORITY = 6
MINORITY = 9


COUNTS = {  # images of the majority and of the minority
    "train": (40, 10),
    "held_out": (12, 12),
    "classifier_test": (14, 14),
    "classifier": (10, 10),
}


def make_splits(folder):
    """Splits of a dataset whose images are filled with their own index; 30 are of a third class."""
    classes = (MAJORITY, MINORITY)
    parts = [np.repeat(classes, counts) for counts in COUNTS.values()]
    labels = np.concatenate([*parts, np.full(30, 3)])
    annotations = Annotations(labels, tuple("0123456789"))

    def decode(i):
        return np.full((8, 8, 1), i, np.uint8)

    source = Source("", {"labels": labels.tolist()}, len(labels), lambda: annotations, decode)
    prepared = prepare(source, folder, "toy")
    starts = np.cumsum([0, *map(len, parts)])
    rows = {
        name: np.arange(start, start + len(part))
        for name, start, part in zip(COUNTS, starts[:-1], parts, strict=True)
    }
    others = np.arange(starts[-1], len(labels))
    for name in ("held_out", "classifier"):
        rows[name] = np.concatenate([others[:15], rows[name]])
        others = others[15:]
    return {name: Split(prepared, indices, labels[indices]) for name, indices in rows.items()}


@pytest.fixture
def context(tmp_path):
    config = default_config()
    config.data.n = (50,)
    config.data.proportions = ((0.8, 0.2),)
    config.measures.k = (1,)
    (cell,) = grid.expand(config)
    context = CellContext(cell, epath.Path(tmp_path), DataPaths("", tmp_path))
    context.splits = make_splits(tmp_path)
    return context


def indices_of(images):
    return images[:, 0, 0, 0].astype(int)


def count_classes(images, context):
    """Numbers of the majority and of the minority among images."""
    labels = context.splits["train"].source.annotations.labels[indices_of(images)]
    return [int((labels == label).sum()) for label in (MAJORITY, MINORITY)]


def test_all_training_and_unseen_images_are_matched(context):
    matched = context.matched
    assert count_classes(matched.train, context) == [36, 9]
    assert count_classes(matched.unseen, context) == [36, 9]
    pools = [set(context.splits[name].indices) for name in ("held_out", "classifier_test")]
    unseen = set(indices_of(matched.unseen))
    assert len(unseen) == 45
    assert not unseen & set(context.train.indices)
    assert all(unseen & pool for pool in pools)
    labels = context.train.source.annotations.labels
    np.testing.assert_array_equal(labels[indices_of(matched.train)], matched.labels)
    np.testing.assert_array_equal(labels[indices_of(matched.unseen)], matched.labels)


def test_a_cell_of_groups_is_matched_by_group(context):
    """Otherwise training images would be nearer to samples for their group alone."""
    count = len(context.train.source.annotations.labels)
    labels = context.train.source.annotations.labels
    groups = 2 * labels + (np.arange(count) % 4 == 0)
    context.dataset = types.SimpleNamespace(groups=groups)
    context.cell = dataclasses.replace(context.cell, shares=(0.6, 0.2, 0.1, 0.1))
    matched = context.matched
    assert len(np.unique(matched.labels)) == 4
    for images in (matched.train, matched.unseen):
        np.testing.assert_array_equal(groups[indices_of(images)], matched.labels)


def test_fewer_of_the_matched_images_have_the_same_mix(context):
    limited = context.matched.limit(20)
    assert count_classes(limited.train, context) == [16, 4]
    assert count_classes(limited.unseen, context) == [16, 4]


def test_unseen_images_have_the_mixture_of_the_training_set(context):
    assert count_classes(context.unseen(15), context) == [12, 3]


def test_held_out_images_of_the_two_classes(context):
    images = context.held_out_of_classes
    assert count_classes(images, context) == [12, 12]
    assert len(images) == 24
    assert count_classes(context.held_out, context) == [12, 3]


def test_images_of_all_trained_classes_at_their_mix(context):
    data = dataclasses.replace(context.cell.data, others=(3,), others_share=0.5)
    context.cell = dataclasses.replace(context.cell, data=data)
    assert context.cell.counts == {6: 20, 9: 5, 3: 25}
    images = context.held_out_of_classes
    assert (len(images), count_classes(images, context)) == (12 + 12 + 15, [12, 12])
    # At 40 : 10 : 50 twelve sixes have 3 nines and 15 threes beside them.
    at_mix = context.held_out
    assert (len(at_mix), count_classes(at_mix, context)) == (30, [12, 3])
    # The pool of the classifier's test has no three: what there is of the others comes.
    assert count_classes(context.unseen(10), context) == [9, 1]


@pytest.mark.slow
def test_random_weights_share_the_compiled_programs(context):
    """They are those that training starts from, and the trained ones stay as they are."""
    trained = build_network(context.cell.network, nnx.Rngs(7))
    untrained = build_network(context.cell.network, nnx.Rngs(context.cell.seed))
    model = Model(trained, Schedule.linear(10), "eps", {"data": {"size": 8}})
    context.__dict__["_last_sampler"] = Sampler(model, context.sampler_spec, batch=8)
    random = context.random_sampler
    assert random.step is context.sampler.step
    for sampler, network in ((random, untrained), (context.sampler, trained)):
        params = get_params(network)
        assert sampler.params.keys() == params.keys()
        for name, array in params.items():
            np.testing.assert_array_equal(sampler.params[name], array, err_msg=name)


@pytest.mark.parametrize(
    "edited",
    ["jaxdiff.cells.selections", "jaxdiff.datasets.mixtures", "jaxdiff.measures.matched"],
)
def test_selected_images_are_bound_to_the_code_that_selects_them(context, edit_code, edited):
    names = ("held_out", "held_out_of_classes", "matched", "unseen", "train")
    first = [context.digest(name) for name in names]
    edit_code(edited)
    *selected, train = [context.digest(name) for name in names]
    assert train == first[-1]
    assert not any(after == before for after, before in zip(selected, first, strict=False))


def test_denoised_images_are_bound_to_the_code_that_denoises_them(context, edit_code, monkeypatch):
    recorded = []

    def record(folder, name, inputs, *others, **options):
        recorded.append(inputs)
        return {}

    monkeypatch.setattr(stages, "run_stage", record)
    context.outputs["classifiers"] = {}
    for edited in ("jaxdiff.cells.denoising", "jaxdiff.cells.selections"):
        stages._run_denoise(context, NO_REDO)
        edit_code(edited)
    stages._run_denoise(context, NO_REDO)
    first, second, third = recorded
    assert first["code"] != second["code"]
    assert second["images"] != third["images"]


@pytest.mark.parametrize("opened_by", ["probe", "bypass"])
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"dataset": {}}, r"was trained on other data than .* \(dataset.classes .*as --data_dir"),
        ({"training_set": "other"}, "was trained on other images of .* than would be chosen now"),
    ],
)
def test_a_trained_cell_is_not_measured_against_other_images(
    context, monkeypatch, changed, sentence, opened_by
):
    folder = context.folder
    files.write_json(folder / "data.json", context.training_data() | changed)
    files.write_json(folder / "config.json", context.cell.to_json())
    monkeypatch.setattr(bypass_cells, "check_forms", lambda *arguments: None)
    paths = DataPaths("", "")
    open_it = {
        "probe": lambda: open_trained_cell(folder, context.workdir, paths),
        "bypass": lambda: bypass_cells.open_cell(folder, BypassSettings(), paths),
    }
    with pytest.raises(ValueError, match=sentence):
        open_it[opened_by]()


def test_an_older_cell_does_not_name_its_training_images(context):
    files.write_json(context.folder / "data.json", {"dataset": context.dataset.contents})
    context.check_training_data(context.folder)


@pytest.mark.parametrize("present", [(), (MINORITY,), (MAJORITY, MINORITY)])
def test_classes_without_unseen_images_are_not_matched(context, monkeypatch, present):
    labels = context.splits["train"].source.annotations.labels
    pools = {}
    for name in ("held_out", "classifier_test", "classifier"):
        split = context.splits[name]
        selected = split.select(np.flatnonzero(np.isin(split.labels, (3, *present))))
        context.splits[name] = selected
        pools[name] = selected.indices
    context.dataset = types.SimpleNamespace(labels=labels, groups=None, pools=pools)
    train = context.train.indices
    monkeypatch.setattr(context_module, "cell_training_set", lambda cell, dataset: train)
    exists = MAJORITY in present
    assert context.has("matched") is exists
    assert (context.matched is not None) is exists


@pytest.mark.parametrize("count", [2, 8])
def test_few_unseen_images_are_at_most_as_many_as_asked_for(count, tmp_path):
    """Of more classes than images, each scarcer class would have one."""
    source = make_splits(tmp_path)["train"].source
    labels = np.repeat(np.arange(10), 10)
    split = Split(source, np.arange(100), labels)
    roles = Roles(0, 1, 0.2, others=tuple(range(2, 10)), others_share=0.2)
    chosen = selections.select_unseen({"classifier_test": split}, roles, count)
    assert len(chosen) == count
