"""Cells that train and are sampled at once have the numbers of each alone on one device."""

import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx

from jaxdiff import cell_axis, checkpoints, models, parallel, training, training_step
from jaxdiff.cell_sampling import CellSampler
from jaxdiff.cells import train_step
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.denoiser import build_network
from jaxdiff.params_layout import ParamsLayout
from jaxdiff.samplers import SamplerSpec
from jaxdiff.sampling import Sampler
from jaxdiff.study import grid, train
from jaxdiff.study.train import Training, train_at_once
from tests.conftest import TINY_CONFIG
from tests.experiments import tiny_study

STEPS = 4


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> epath.Path:
    """Holds the prepared data."""
    return epath.Path(tmp_path_factory.mktemp("study"))


def build_trainings(workdir, folder, seeds, **settings) -> list[Training]:
    """Trainings of four steps with a checkpoint after every second one."""
    config = tiny_study.get_config()
    config.seeds = tuple(seeds)
    config.data.size = 8
    config.measures.lpips = "none"
    config.train.steps = STEPS
    config.train.checkpoint_every = 2
    config.train.batch = 8
    config.train.log_every = 1
    config.train.update(settings)
    trainings = []
    for cell in grid.expand(config):
        path = epath.Path(folder) / cell.name
        path.mkdir(parents=True, exist_ok=True)
        context = CellContext(cell, workdir, DataPaths("", ""))
        trainings.append(Training(cell, path, context.train))
    return trainings


def train_alone(trainings, monkeypatch):
    """Each as a sweep trains it where there is one device."""
    monkeypatch.setattr(parallel, "global_mesh", lambda batch: parallel.data_mesh(1))
    for one in trainings:
        train.train(one)


def assert_same_checkpoints(trainings, expected):
    for one, other in zip(trainings, expected, strict=True):
        folders = [training.folder / "checkpoints" for training in (one, other)]
        assert checkpoints.list_steps(folders[0]) == checkpoints.list_steps(folders[1])
        step = checkpoints.list_steps(folders[0])[-1]
        for part in ("params", "ema", "opt_state"):
            arrays, others = (checkpoints.restore_part(path, step, part) for path in folders)
            assert arrays.keys() == others.keys()
            for name, array in arrays.items():
                assert np.asarray(array).tobytes() == np.asarray(others[name]).tobytes(), name


def read_losses(one: Training) -> list[float]:
    lines = (one.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "resident_mb"), [(8, 0), (2, 100)])
def test_cells_at_once_and_each_alone(workdir, tmp_path, monkeypatch, count, resident_mb):
    """Eight whose images are streamed, two that hold them; the first and the last are compared."""
    seeds = range(count)
    options = {"resident_mb": resident_mb, "checkpoint_every": STEPS}
    at_once = build_trainings(workdir, tmp_path / "once", seeds, **options)
    alone = build_trainings(
        workdir, tmp_path / "alone", seeds[:: count - 1], checkpoint_every=STEPS
    )
    train_at_once(at_once)
    train_alone(alone, monkeypatch)
    assert_same_checkpoints(at_once[:: count - 1], alone)
    compared = at_once[:: count - 1]
    assert [read_losses(one) for one in compared] == [read_losses(one) for one in alone]
    assert len({tuple(read_losses(one)) for one in at_once}) == count


@pytest.mark.slow
def test_who_is_behind_catches_up(workdir, tmp_path, monkeypatch):
    at_once = build_trainings(workdir, tmp_path / "once", range(2))
    ahead = train._train_from
    assert ahead([at_once[0]], 0, 2, train.no_progress, None)
    spans = []

    def train_from(trainings, first, end, *options):
        spans.append((len(trainings), first, end))
        return ahead(trainings, first, end, *options)

    monkeypatch.setattr(train, "_train_from", train_from)
    train_at_once(at_once)
    assert spans == [(1, 0, 2), (2, 2, 4)]
    alone = build_trainings(workdir, tmp_path / "alone", range(2))
    train_alone(alone, monkeypatch)
    assert_same_checkpoints(at_once, alone)
    assert len(read_losses(at_once[0])) == STEPS


@pytest.mark.slow
def test_one_that_diverges_is_given_up_alone(workdir, tmp_path, monkeypatch):
    init_params = train_step.init_params

    def broken(cell):
        scale = np.nan if cell.seed == 0 else 1.0
        return jax.tree.map(lambda p: scale * p, init_params(cell))

    monkeypatch.setattr(train_step, "init_params", broken)
    first, second = build_trainings(workdir, tmp_path, range(2))
    train_at_once([first, second])
    assert str(first.error).startswith("the loss is nan at step 1 ")
    assert checkpoints.list_steps(first.folder / "checkpoints") == []
    assert second.error is None
    assert checkpoints.latest_valid_step(second.folder / "checkpoints") == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ddim", "pndm"])
def test_samples_at_once_and_alone(monkeypatch, method):
    schedule = models.build_schedule({"schedule": "linear", "steps": 20})
    config = dataclasses.replace(TINY_CONFIG, sample_size=8)
    sampled = [
        models.Model(build_network(config, nnx.Rngs(seed)), schedule, "eps") for seed in range(3)
    ]
    spec = SamplerSpec(method, steps=4)
    images = CellSampler(sampled, spec, batch=4).sample(np.arange(6), [5, 6, 7])
    monkeypatch.setattr(parallel, "data_mesh", lambda batch: parallel.make_mesh(jax.devices()[:1]))
    for model, seed, expected in zip(sampled, (5, 6, 7), images, strict=True):
        alone = Sampler(model, spec, batch=4).sample(np.arange(6), seed)
        np.testing.assert_array_equal(alone, expected)


@pytest.mark.slow
def test_split_parameters_of_a_cell_with_one_device(workdir, tmp_path, monkeypatch):
    """The setting is recommended where memory runs out, on whatever devices there are."""
    # As on an accelerator, where only split parameters stay arrays of their own.
    monkeypatch.setattr(
        training_step,
        "choose_layout",
        lambda params, platform, shard_params: None if shard_params else ParamsLayout.of(params),
    )
    (one,) = build_trainings(workdir, tmp_path, [0], shard_params=True)
    train_alone([one], monkeypatch)
    assert checkpoints.latest_valid_step(one.folder / "checkpoints") == STEPS


@pytest.mark.slow
def test_a_step_saved_with_another_k_is_not_gone_on_from(workdir, tmp_path, monkeypatch):
    """Calls of two steps from an odd one would never end at a step that is saved."""
    (one,) = build_trainings(workdir, tmp_path, [0])
    assert train._train_from([one], 0, 1, train.no_progress, None)
    assert checkpoints.list_steps(one.folder / "checkpoints") == [1]
    monkeypatch.setattr(training, "CPU_STEPS_PER_CALL", 2)
    train_at_once([one])
    assert checkpoints.latest_valid_step(one.folder / "checkpoints") == STEPS


class TestPreemption:
    """Of several processes, one of which JAX's service would tell."""

    @pytest.fixture
    def asked(self, monkeypatch):
        """The numbers with which JAX is asked, of which it stops at the sixth."""
        numbers = []

        def reached_preemption(number):
            numbers.append(number)
            return len(numbers) == 6

        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(train.multihost, "reached_preemption", reached_preemption)
        return numbers

    def test_is_asked_with_consecutive_numbers_over_all_trainings(self, asked):
        for _ in range(2):
            with train.Preemption() as preemption:
                assert not any(preemption.should_stop() for _ in range(2))
        assert [number - asked[0] for number in asked] == [0, 1, 2, 3]

    def test_leaves_jaxs_handler_in_its_place_until_it_stops(self, asked, monkeypatch):
        installed, raised = [], []
        monkeypatch.setattr(train.signal, "signal", lambda *call: installed.append(call))
        monkeypatch.setattr(train.signal, "raise_signal", raised.append)
        with train.Preemption() as preemption:
            assert not any(preemption.should_stop() for _ in range(5))
        assert (installed, raised) == ([], [])
        previous = signal.getsignal(signal.SIGTERM)
        with train.Preemption() as preemption:
            assert preemption.should_stop()
        assert installed == [(signal.SIGTERM, previous)]
        assert raised == [signal.SIGTERM]


def test_stack_and_unstack():
    mesh = cell_axis.cell_mesh(3)
    trees = [{"a": np.full(2, i), "step": np.int32(i)} for i in range(3)]
    stacked = cell_axis.stack(trees, mesh)
    assert {shard.data.shape for shard in stacked["a"].addressable_shards} == {(1, 2)}
    assert stacked["step"].sharding.device_set == set(jax.devices()[:3])
    for tree, expected in zip(cell_axis.unstack(stacked), trees, strict=True):
        jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_a_function_is_applied_by_each_device_to_its_own_cell():
    mesh = cell_axis.cell_mesh(2)
    specs = (cell_axis.CELLS, parallel.REPLICATED)
    scale = cell_axis.map_over_cells(lambda x, factor: factor * x.sum(), mesh, specs)
    x = cell_axis.stack([np.ones(3, np.float32), np.ones(3, np.float32) * 2], mesh)
    text = jax.jit(scale).lower(x, jnp.float32(2)).compile().as_text()
    assert "all-reduce" not in text
    np.testing.assert_array_equal(jax.jit(scale)(x, jnp.float32(2)), [6, 12])


def test_more_cells_than_devices():
    with pytest.raises(ValueError, match="got 9 cells and 8 devices; take fewer cells"):
        cell_axis.cell_mesh(9)
