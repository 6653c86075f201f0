"""Sets of images that a cell's measures compare are equally large and of the same mixture."""

import numpy as np
import pytest
from etils import epath
from flax import nnx

from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets.base import Annotations, Source
from jaxdiff.datasets.dataset import Split
from jaxdiff.datasets.prepare import prepare
from jaxdiff.denoiser import build_network, get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.models import Model
from jaxdiff.sampling import Sampler
from jaxdiff.study import grid
from jaxdiff.study.config import default_config

MAJORITY = 6
MINORITY = 9


@pytest.fixture
def build_split(tmp_path):
    """Builds a split whose images are filled with their own index."""

    def build(labels):
        annotations = Annotations(labels, tuple("0123456789"))

        def decode(i):
            return np.full((8, 8, 1), i, np.uint8)

        identity = {"labels": labels.tolist()}
        source = Source("", identity, len(labels), lambda: annotations, decode)
        prepared = prepare(source, tmp_path, "toy")
        return Split(prepared, np.arange(len(labels)), labels)

    return build


@pytest.fixture
def context(tmp_path, build_split):
    config = default_config()
    config.data.n = (50,)
    config.data.proportions = ((0.8, 0.2),)
    config.measures.k = (1,)
    (cell,) = grid.expand(config)
    context = CellContext(cell, epath.Path(tmp_path), DataPaths("", tmp_path))
    held_out = build_split(np.repeat([3, MAJORITY, MINORITY], (30, 25, 25)))
    context.splits = {
        "train": build_split(np.repeat([MAJORITY, MINORITY], (40, 10))),
        "held_out": held_out,
        "classifier_test": held_out,
    }
    return context


def count_classes(images, split):
    """Numbers of the majority and the minority among images of a split."""
    labels = split.labels[images[:, 0, 0, 0]]
    return [int((labels == label).sum()) for label in (MAJORITY, MINORITY)]


def test_train_and_held_out_images_are_matched(context):
    matched = context.matched
    assert count_classes(matched.train, context.splits["train"]) == [25, 6]
    assert count_classes(matched.held_out, context.splits["held_out"]) == [25, 6]


def test_unseen_images_have_the_mixture_of_the_training_set(context):
    assert count_classes(context.unseen(20), context.splits["classifier_test"]) == [16, 4]


def test_held_out_images_of_the_two_classes(context):
    images = context.held_out_of_classes
    assert count_classes(images, context.splits["held_out"]) == [25, 25]
    assert len(images) == 50


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
