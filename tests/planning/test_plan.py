"""Plans: what a compiled program says, against closed forms, brute force and libtpu."""

import dataclasses
import importlib.util
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdiff.planning import chips, compiled, plan
from jaxdiff.planning.chips import Chip
from jaxdiff.planning.compiled import (
    Devices,
    Program,
    StepTime,
    change_training,
    compile_train_step,
)
from jaxdiff.study import grid
from tests.experiments import tiny_study
from tests.experiments.commands import SMALL, run_command

CHIP = Chip(flops=1e12, memory=1e9, bandwidth=1e11, links=1e10, network=1e9)


@pytest.fixture(scope="module")
def cell():
    """The tiny study's."""
    (cell,) = grid.expand(tiny_study.get_config())
    return cell


def widen(cell):
    wide = dataclasses.replace(cell.network, block_out_channels=(256,))
    return dataclasses.replace(cell, network=wide)


def devices_with(bytes_a_device, count=8):
    chip = CHIP._replace(memory=float(bytes_a_device) + compiled.RESERVED)
    return Devices(jax.devices()[:count], chip)


def test_collectives_are_read_from_the_compiled_text():
    mesh = devices_with(1).mesh
    split, whole = PartitionSpec("data"), PartitionSpec()
    text = {}
    for name, body, out in (
        ("all-reduce", lambda x: jax.lax.psum(x, "data"), whole),
        ("all-gather", lambda x: jax.lax.all_gather(x, "data", tiled=True), whole),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "data", tiled=True), split),
    ):
        spec = split if name == "all-gather" else whole
        mapped = jax.jit(
            jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=out, check_vma=False)
        )
        text[name] = mapped.lower(jnp.zeros(64)).compile().as_text()
    assert {name: compiled.count_traffic(t, 8) for name, t in text.items()} == {
        name: {name: 256.0} for name in text
    }


def test_a_collective_of_two_lines_is_counted_once():
    text = """
  %all-gather-start = ((f32[8]{0}), f32[64]{0}) all-gather-start(%x), dimensions={0}
  %all-gather-done = f32[64]{0} all-gather-done(%all-gather-start)
  %all-reduce.3 = (f32[16]{0}, bf16[2,4]{1,0}) all-reduce(%y, %z), to_apply=%sum
"""
    assert compiled.count_traffic(text, 8) == {"all-gather": 256.0, "all-reduce": 80.0}


def test_the_time_is_that_of_the_roofline_and_of_rings():
    program = Program(
        32, 1e6, 1e9, flops=2e9, bytes_accessed=5e7, traffic={"all-reduce": 4e6, "all-gather": 8e6}
    )
    time = devices_with(1e9).time(program)
    assert time.compute == pytest.approx(2e-3)
    assert time.memory == pytest.approx(5e-4)
    assert time.communication == pytest.approx((2 * 4e6 + 8e6) * 7 / 8 / 1e10)
    assert time.step == pytest.approx(time.compute + time.communication)
    two = Devices(jax.devices(), CHIP, slices=2)
    within, between = (2 * 4e6 + 8e6) * 3 / 4 / 1e10, (2 * 4e6 + 8e6) / 4 / 2 / 1e9
    assert two.time(program).communication == pytest.approx(within + between)


def test_the_state_of_a_device_is_counted(cell):
    devices = devices_with(1e9)
    count = sum(p.size for p in jax.tree.leaves(compiled.abstract_state(cell, devices).params))
    state = compiled.count_state_bytes(cell, devices)
    assert state.weights == 2 * 4 * count
    assert 2 * 4 * count <= state.optimizer <= 2 * 4 * count + 64, (
        "Adam's two moments, and counters"
    )
    assert state.images == cell.n * 16 * 16
    whole, split = (
        compiled.count_state_bytes(
            change_training(widen(cell), shard_params=shard), devices
        ).weights
        for shard in (False, True)
    )
    assert split == pytest.approx(whole / 8, rel=0.03), "small arrays stay whole"


@pytest.mark.slow
def test_the_largest_batch_is_that_of_brute_force(cell):
    taken = [
        compile_train_step(change_training(cell, batch=n), devices_with(1e12)).memory
        for n in (32, 64)
    ]
    devices = devices_with(sum(taken) / 2)
    cell = change_training(cell, batch=8)
    assert plan.largest_batch(cell, devices, compile_train_step(cell, devices)) == 32


@pytest.mark.parametrize("slope", [1.0, 10.0])
@pytest.mark.parametrize("fixed", [0.0, 1e4])
def test_the_search_finds_the_largest_batch_whatever_grows(cell, monkeypatch, slope, fixed):
    """The compiler's part is played by a line, with what does not grow large or absent."""
    devices, state = devices_with(2e5), 1e4

    def line(batch):
        return Program(batch, state + fixed + slope * batch, devices.limit)

    monkeypatch.setattr(
        plan, "count_state_bytes", lambda cell, devices: compiled.StateBytes(state, 0, 0)
    )
    monkeypatch.setattr(plan, "compile_train_step", lambda cell, devices: line(cell.train.batch))
    found = plan.largest_batch(change_training(cell, batch=8), devices, line(8))
    assert line(found).fits
    assert not line(2 * found).fits


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_what_makes_it_fit(cell):
    """There is room for a state that is split, and none for a whole one."""
    cell = widen(cell)
    devices = devices_with(1e12)
    whole, split = (
        compile_train_step(change_training(cell, shard_params=shard), devices).memory
        for shard in (False, True)
    )
    assert split < whole
    devices = devices_with((whole + split) / 2)
    made = plan.plan_model([cell], devices)
    assert made.refused is not None
    assert not made.refused.fits
    assert made.changes == {"shard_params": True}
    assert made.train.fits
    assert "--config.train.shard_params=True" in " ".join(plan.list_warnings([cell], made, devices))


@pytest.mark.slow
def test_what_does_not_fit_at_once_is_planned_split(cell, monkeypatch):
    """A cell on each device would take it whole, whatever the number of devices is."""
    devices = devices_with(1e12)
    program = compile_train_step(cell, devices)

    def compile_step(cell, devices):
        is_split = cell.train.shard_params and devices.sharing > 1
        return dataclasses.replace(program, memory=1.0 if is_split else 2.0 * program.limit)

    monkeypatch.setattr(plan, "compile_train_step", compile_step)
    monkeypatch.setattr(plan, "compile_sampling_step", lambda cell, devices: program)
    made = plan.plan_model([cell] * 4, devices, at_once=4)
    assert made.train.fits
    assert (made.at_once, made.is_split) == (1, True)
    said = " ".join(plan.list_warnings([cell], made, devices))
    assert "with --config.parallel.cells=1 --config.train.shard_params=True it does" in said


@pytest.mark.slow
def test_on_one_device_the_batch_is_taken_in_parts(cell):
    devices, cell = devices_with(1e12, 1), change_training(cell, batch=8)
    recomputed, parts = (
        compile_train_step(change_training(cell, remat=True, accumulate=n), devices).memory
        for n in (1, 2)
    )
    devices = devices_with((recomputed + parts) / 2, 1)
    settings, program = plan.fit_settings(cell, devices)
    assert settings == {"remat": True, "accumulate": 2}
    assert program.fits
    assert plan.fit_settings(change_training(cell, batch=1), devices_with(1e3, 1)) is None


@pytest.mark.slow
def test_the_parts_of_a_batch_are_what_devices_divide(cell):
    devices = devices_with(1e12)
    cell = change_training(cell, batch=40, accumulate=2)
    made = plan.plan_model([cell], devices)
    assert made.train.batch in (32, 48)
    warnings = " ".join(plan.list_warnings([cell], made, devices))
    sentence = "train.batch 40 in 2 parts cannot be divided by 8 devices; --config.train.batch="
    assert f"{sentence}{made.train.batch} can" in warnings


def test_the_parts_of_a_batch_read_the_optimizers_state_once():
    state = compiled.StateBytes(weights=100, optimizer=200, images=5000)
    assert compiled._add_parts(900.0, 1, state) == 900
    assert compiled._add_parts(900.0, 4, state) == 4 * 300 + 600
    assert compiled._add_parts(500.0, 4, state) == 500, "no more than was counted"


def test_a_chip_of_two_devices_is_one_chip():
    devices = Devices(jax.devices(), CHIP._replace(devices=2))
    time = devices.time(
        Program(8, 1, 1, flops=1e9, bytes_accessed=1e8, traffic={"all-gather": 8e6})
    )
    assert devices.chips == 4
    assert (time.compute, time.memory) == (pytest.approx(2e-3), pytest.approx(2e-3))
    assert time.communication == pytest.approx(8e6 * 3 / 4 / 1e10)


@pytest.mark.slow
def test_an_odd_batch_is_planned_as_the_nearest_that_the_devices_divide(cell):
    devices = devices_with(1e12)
    odd = change_training(cell, batch=30)
    made = plan.plan_model([odd], devices)
    assert made.train.batch == 32
    assert "train.batch 30 cannot be divided by 8 devices; --config.train.batch=32 can" in " ".join(
        plan.list_warnings([odd], made, devices)
    )
    sample = cell.sample
    batches = math.ceil(sample.num / made.sample.batch)
    batches += math.ceil(sample.common / made.sample.batch)
    expected = (
        cell.train.steps * 30 / 32 * made.times[0].step,
        sample.steps * batches * made.times[1].step,
    )
    np.testing.assert_allclose(np.asarray(made.hours) * 3600, expected)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("b200:8", "topology 'b200:8' is not known"),
        ("v5e:4x4x4", "v5e:4x4, "),
        ("v5e", "give a slice of TPUs"),
    ],
)
def test_an_unknown_topology_is_one_sentence(name, sentence):
    with pytest.raises(ValueError, match="topology") as found:
        chips.open_topology(name)
    assert sentence in str(found.value)


@pytest.mark.parametrize(
    "words",
    [
        "memory required for HLO temporaries (47.76G) exceeds available HBM (15.75G). HLO module",
        "Ran out of memory in memory space hbm. Used 47.76G of 15.75G hbm. Exceeded hbm capacity",
    ],
)
def test_what_libtpu_says_of_too_large_a_program_is_read(words):
    assert compiled.OUT_OF_MEMORY.search(words).groups() == ("47.76", "G", "15.75", "G")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu comes with the extra plan"
)
def test_a_tpu_s_compiler_splits_the_state_and_says_what_does_not_fit():
    (cell,) = grid.expand(tiny_study.get_config())
    two = Devices(chips.open_topology("v5e:2x2", slices=2), None, 2)
    assert [device.slice_index for device in two.mesh.devices.flat] == [0] * 4 + [1] * 4
    there = chips.open_topology("v5e:2x4")
    devices = Devices(there, chips.CHIPS[there[0].device_kind])
    whole, split = (
        compile_train_step(change_training(widen(cell), shard_params=shard), devices)
        for shard in (False, True)
    )
    count = sum(
        p.size for p in jax.tree.leaves(compiled.abstract_state(widen(cell), devices).params)
    )
    assert whole.traffic == {"all-reduce": pytest.approx(4 * count, rel=1e-3)}
    for op in ("reduce-scatter", "all-gather"):
        assert split.traffic[op] == pytest.approx(4 * count, rel=0.05)
    assert split.memory < whole.memory
    huge = compile_train_step(change_training(widen(cell), batch=2**14), devices)
    assert not huge.fits
    assert huge.memory > huge.limit > 15e9


@pytest.mark.slow
def test_a_plan_for_the_devices_here(tmp_path):
    said = run_command("plan", *SMALL, "--out", tmp_path / "plan.csv")
    assert "activations, gradients and the rest" in said
    assert "no times" in said
    header, row = (tmp_path / "plan.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["fits"] == "True"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "arguments", "found"), [(divmod, (7, 2), (3, 1)), (os.abort, (), None)]
)
def test_a_compiler_that_ends_its_process_ends_no_other(function, arguments, found):
    assert plan.run_in_process(function, *arguments) == found


@pytest.mark.slow
def test_what_is_raised_in_the_other_process_is_raised_here():
    with pytest.raises(ValueError, match="invalid literal"):
        plan.run_in_process(int, "seven")


def test_lengths_and_rates_of_training_share_a_plan():
    config = importlib.import_module("configs.scaling_demo").get_config()
    config.axes.learning_rate = (1e-3, 2e-3)
    groups = plan.group_by_program(grid.expand(config))
    # Five widths, each with four lengths and two rates.
    assert [len(group) for group in groups] == [8] * 5
    assert len({group[0].network for group in groups}) == 5
    assert plan._name_models(groups[0]) == f"{groups[0][0].model} and 7 more"
    assert plan._name_models(groups[0][:1]) == groups[0][0].model

    times = (StepTime(1.0, 0.0, 0.0), StepTime(0.0, 0.0, 0.0))
    hours, _ = plan.count_hours(groups[0], 32, 64, times)
    # Of each rate the longest run from its beginning, and of the shorter ones the cooldowns.
    steps = {cell.train.steps: cell.train.cooldown_steps for cell in groups[0]}
    longest = max(steps)
    shorter = sum(cooldown for length, cooldown in steps.items() if length < longest)
    assert hours == pytest.approx(2 * (longest + shorter) / 3600)


@pytest.mark.slow
def test_cells_at_once_do_not_communicate_and_take_the_time_of_one(cell):
    cells = [dataclasses.replace(cell, seed=seed) for seed in range(9)]
    devices = devices_with(1e9)
    together = plan.plan_model(cells, devices)
    at_once = plan.plan_model(cells, devices, at_once=8)
    alone = plan.plan_model(cells, devices_with(1e9, count=1))
    assert set(together.train.traffic) == {"all-reduce"}
    assert at_once.train.traffic == at_once.sample.traffic == {}
    assert at_once.train.flops == pytest.approx(alone.train.flops, rel=5e-2)
    assert at_once.state == alone.state
    assert at_once.hours[0] == pytest.approx(2 / 9 * alone.hours[0], rel=5e-2)
