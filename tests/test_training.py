import dataclasses

import jax
import numpy as np
import pytest

from jaxdiff import checkpoints, parallel, training
from jaxdiff.datasets.pipeline import batch_indices
from jaxdiff.diffusion import Schedule
from jaxdiff.unet import abstract, functional, parameters
from tests.conftest import TINY

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)


def run(tiny, devices=8, k=1, steps=4, state=None):
    mesh = parallel.data_mesh(devices)
    optimizer = training.adamw(8, learning_rate=1e-3)
    step = training.make_train_step(
        lambda p, xt, t, keys: functional(abstract(TINY))(p, xt, t),
        optimizer,
        Schedule.linear(100),
        mesh,
        prediction="v",
        ema=0.999,
        seed=0,
    )
    state = state or training.init_state(parameters(tiny), optimizer, mesh)
    lines = []
    for now, metrics in training.fit(step, state, IMAGES, mesh, steps=steps, batch=8, k=k, seed=0):
        lines += metrics
        last = now
    return last, lines


@pytest.fixture(scope="module")
def eight(tiny):
    return run(tiny)


def test_every_step_is_reported_once(eight):
    assert [line["step"] for line in eight[1]] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in eight[1])


def test_one_device_computes_what_eight_compute(tiny, eight):
    alone = run(tiny, devices=1)
    np.testing.assert_allclose([m["loss"] for m in alone[1]], [m["loss"] for m in eight[1]], rtol=1e-4)


def test_k_steps_in_one_call_are_the_same_steps(tiny, eight):
    np.testing.assert_allclose([m["loss"] for m in run(tiny, k=2)[1]], [m["loss"] for m in eight[1]], rtol=1e-4)


def test_a_restored_state_goes_on_bit_for_bit(tiny, eight, tmp_path):
    half, _ = run(tiny, steps=2)
    checkpoints.save(tmp_path, 2, half)
    mesh = parallel.data_mesh(8)
    like = training.init_state(parameters(tiny), training.adamw(8, learning_rate=1e-3), mesh)
    restored = checkpoints.restore(tmp_path, checkpoints.newest(tmp_path), like)
    for ours, theirs in zip(jax.tree.leaves(run(tiny, state=restored)[0]), jax.tree.leaves(eight[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ema = checkpoints.restore_part(tmp_path, 2, "ema")
    assert ema.keys() == parameters(tiny).keys()


def test_relative_folders_are_as_good_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("runs/cell", 1, {"ema": {"a.b": jax.numpy.arange(3.0)}})
    assert checkpoints.newest("runs/cell") == 1
    np.testing.assert_array_equal(checkpoints.restore_part("runs/cell", 1, "ema")["a.b"], np.arange(3.0))


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"a": np.arange(step + 4.0)}, keep=2)
    assert checkpoints.steps(tmp_path) == [2, 3]
    victim = max((p for p in (tmp_path / "3").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    told = []
    assert checkpoints.newest(tmp_path, told.append) == 2
    assert told == [3]
    (tmp_path / "2.json").unlink()
    assert checkpoints.newest(tmp_path) is None


def test_batches_are_epochs_of_the_data():
    seen = np.concatenate([batch_indices(3, step, 8, 20) for step in range(5)])
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert list(seen[:20]) != list(seen[20:])
    assert list(batch_indices(4, 0, 8, 20)) != list(seen[:8])


def test_k_falls_to_a_divisor():
    assert training.steps_per_call(32, 1000, 500) == 25
    assert training.steps_per_call(32, 7, 500) == 1
    assert training.steps_per_call(1, 64, 64) == 1


def test_ema_starts_fast():
    assert float(training.ema_decay(0, 0.999)) == pytest.approx(0.1)
    assert float(training.ema_decay(10**6, 0.999)) == pytest.approx(0.999)


def test_config_is_hashable():
    assert hash(dataclasses.replace(TINY)) == hash(TINY)
