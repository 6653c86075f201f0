"""Trainings of several lengths that begin as one: the same bits as each alone."""

import numpy as np
import pytest
from etils import epath

from jaxdiff import checkpoints, optimizers, parallel
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.study import grid, stems, train
from jaxdiff.study.cost import estimate_cost
from jaxdiff.study.train import Training
from tests.experiments import tiny_study

STEPS = (10, 20)


def build_config(**settings):
    config = tiny_study.get_config()
    config.data.size = 8
    config.measures.lpips = "none"
    config.train.batch = 8
    config.train.log_every = 1
    config.train.schedule = "wsd"
    config.train.warmup_steps = 2
    config.train.checkpoint_every = 4
    config.train.keep_last = 1
    config.axes.train_steps = STEPS
    config.train.update(settings)
    return config


@pytest.mark.slow
def test_the_longest_is_the_stem_and_comes_first():
    config = build_config()
    config.seeds = (0, 1)
    cells = grid.expand(config)
    assert [(cell.train.steps, cell.seed, cell.stem[:6]) for cell in cells] == [
        (20, 0, ""),
        (20, 1, ""),
        (10, 0, "1-t20-"),
        (10, 1, "1-t20-"),
    ]
    assert cells[0].branch_steps == (8,)
    assert [cell.first_step for cell in cells] == [0, 0, 8, 8]
    long, short = estimate_cost(cells[0]), estimate_cost(cells[2])
    assert (long.images, short.images) == (20 * 8, 2 * 8)


def make_families(count):
    """Cells of two lengths and several seeds: a stem each, and what starts from it."""
    config = build_config()
    config.seeds = tuple(range(count))
    return grid.expand(config)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 8])
def test_a_part_of_the_cells_has_the_stems_of_all_that_start_from_them(parts):
    cells = make_families(5)
    dealt = [grid._deal(cells, i, parts) for i in range(parts)]
    for part in dealt:
        names = [cell.name for cell in part]
        assert all(cell.stem in names for cell in part if cell.stem)
    assert sorted(cell.name for part in dealt for cell in part) == sorted(c.name for c in cells)
    if parts <= 5:
        assert grid.select(cells, "*", f"1/{parts}") == dealt[0]
    for i in range(parts):
        environment = {
            "SLURM_ARRAY_TASK_ID": str(i + 1),
            "SLURM_ARRAY_TASK_COUNT": str(parts),
            "SLURM_ARRAY_TASK_MIN": "1",
        }
        assert grid.order_for_array_task(cells, environment, has_locks=False) == dealt[i]
        # With locks a task may begin what starts from a stem that no task has begun yet.
        ordered = grid.order_for_array_task(cells, environment)
        assert [bool(cell.stem) for cell in ordered] == 5 * [False] + 5 * [True]


def test_other_schedules_share_nothing():
    cells = grid.expand(build_config(schedule="cosine", warmup_steps=0))
    assert [cell.stem for cell in cells] == ["", ""]
    one_length = build_config()
    one_length.axes.train_steps = ()
    assert not grid.expand(one_length)[0].stem


def test_cells_without_their_stem_are_planned_from_the_first_step():
    cells = make_families(2)
    assert [cell.stem for cell in stems.drop_missing_stems(cells)] == [cell.stem for cell in cells]
    branches = [cell for cell in cells if cell.stem]
    assert branches
    assert [cell.first_step for cell in stems.drop_missing_stems(branches)] == [0] * len(branches)


def test_the_rate_is_constant_until_the_cooldown():
    optimizer = optimizers.SCHEDULES["wsd"](0.5, 100, 25)
    rates = [float(optimizer(step)) for step in (0, 75, 76, 100, 120)]
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.4, 0.0, 0.0])


def build_training(cell, workdir):
    context = CellContext(cell, workdir, DataPaths("", ""))
    context.folder.mkdir(parents=True, exist_ok=True)
    return Training(cell, context.folder, context.train)


@pytest.mark.slow
def test_a_branch_has_the_bits_of_a_training_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "global_mesh", lambda batch: parallel.data_mesh(1))
    workdir = epath.Path(tmp_path) / "together"
    stem, branch = grid.expand(build_config())
    train.train(build_training(stem, workdir))
    with (workdir / "cells" / stem.name / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2')  # half a line, as of a stem that is at work
    assert checkpoints.list_steps(workdir / "cells" / stem.name / "checkpoints") == [8, 20]
    one = build_training(branch, workdir)
    shown = []

    def open_trackers(first_step, last_step):
        shown.append((first_step, last_step))
        return ()

    one.open_trackers = open_trackers
    stems.start_from_stem(branch, workdir)
    assert one.find_step() == 8
    train.train(one)
    assert shown == [(8, 8)], "trackers are shown all steps of the branch's own"
    alone = build_training(branch, epath.Path(tmp_path) / "alone")
    train.train(alone)
    for part in ("params", "ema", "opt_state"):
        arrays, others = (
            checkpoints.restore_part(each.folder / "checkpoints", 10, part) for each in (one, alone)
        )
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name], err_msg=name)
    lines = [(each.folder / "metrics.jsonl").read_text().splitlines() for each in (one, alone)]
    assert [len(text) for text in lines] == [10, 10]


def test_without_a_stem_a_cell_begins_at_its_first_step(tmp_path):
    _, branch = grid.expand(build_config())
    workdir = epath.Path(tmp_path)
    stems.start_from_stem(branch, workdir)
    assert build_training(branch, workdir).find_step() == 0
    assert not stems.find_owner(branch, workdir)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"warmup_steps": 0}, "set config.train.warmup_steps"),
        ({"checkpoint_every": 5}, "the cooldown of 10 steps begins at step 8.* got 5"),
        (
            {"warmup_steps": 9},
            "warmup_steps is 9, 9 steps, and the rate falls from step 8",
        ),
    ],
)
def test_lengths_that_cannot_share_are_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid.expand(build_config(**settings))
