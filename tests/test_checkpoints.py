"""Checkpoints: damage of every kind is found, and the newest valid step is used."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import checkpoints
from jaxdiff.checkpoints import RetentionPolicy


def test_relative_folders_are_as_good_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("runs/cell", 1, {"ema": {"a.b": jnp.arange(3.0)}})
    assert checkpoints.latest_valid_step("runs/cell") == 1
    ema = checkpoints.restore_part("runs/cell", 1, "ema")
    np.testing.assert_array_equal(ema["a.b"], np.arange(3.0))


def damaged_versions(data):
    """The content of a damaged file: a flipped bit, a part of it, and none at all."""
    flipped = bytearray(data or b"x")
    flipped[len(flipped) // 2] ^= 1
    part = data[: len(data) // 2] if len(data) > 1 else b"xy"
    return bytes(flipped), part, None


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"a": np.arange(step + 4.0)})
    assert checkpoints.list_steps(tmp_path) == [2, 3]
    paths = [path for path in (tmp_path / "3").rglob("*") if path.is_file()]
    for path in [*paths, tmp_path / "3.json"]:
        data = path.read_bytes()
        for damaged in damaged_versions(data):
            caplog.clear()
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            assert checkpoints.latest_valid_step(tmp_path) == 2
            assert "checkpoint 3" in caplog.text
            assert path.name in caplog.text or "manifest" in caplog.text
            path.write_bytes(data)
    assert checkpoints.latest_valid_step(tmp_path) == 3
    assert checkpoints.latest_valid_step(tmp_path, divisor=2) == 2
    assert checkpoints.latest_valid_step(tmp_path, divisor=4) is None


@pytest.mark.parametrize("valid", ["1, 2", "none"])
def test_a_step_that_was_never_saved_is_not_called_damaged(tmp_path, valid):
    for step in (1, 2) if valid != "none" else ():
        checkpoints.save(tmp_path, step, {"a": np.arange(4.0)})
    message = rf"^{tmp_path} has no checkpoint 3; take another step \(valid: {valid}\)$"
    with pytest.raises(ValueError, match=message):
        checkpoints.restore_part(tmp_path, 3, "ema")


@pytest.mark.parametrize(
    ("policy", "steps", "kept_steps"),
    [
        (RetentionPolicy(), [1, 2, 3], {2, 3}),
        # 737 was saved on SIGTERM.
        (RetentionPolicy(interval=500, end=1000), [500, 737], {500, 737}),
        (RetentionPolicy(interval=500, end=1000), [500, 737, 1000], {500, 1000}),
        (RetentionPolicy(last=1, every=300, interval=500), [600, 1500, 2000], {1500, 2000}),
        (RetentionPolicy(last=1, interval=500, end=1203), [500, 1000, 1203], {1203}),
        (
            RetentionPolicy(last=1, every=6, log_spaced=2),
            list(range(2, 22, 2)),
            {2, 4, 6, 8, 12, 16, 18, 20},
        ),
    ],
)
def test_the_policy_selects_steps(policy, steps, kept_steps):
    assert policy.select(steps) == kept_steps


@pytest.mark.parametrize("last", [1, 2])
def test_a_step_that_is_saved_after_a_newer_one_was_damaged_stays(tmp_path, last):
    """A run that goes on from step 500, with a damaged 1000, and is ended at 700."""
    policy = RetentionPolicy(last=last, interval=500, end=2000)
    for step in (500, 1000):
        checkpoints.save(tmp_path, step, {"a": np.arange(4.0)}, policy)
    checkpoints.save(tmp_path, 700, {"a": np.arange(4.0)}, policy)
    assert checkpoints.latest_valid_step(tmp_path) == 700
    assert 1000 not in checkpoints.list_steps(tmp_path)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    "read",
    [
        lambda folder, step: checkpoints.restore(folder, step, {"ema": {"a": jnp.zeros(300)}}),
        lambda folder, step: checkpoints.restore_part(folder, step, "ema"),
        lambda folder, step: checkpoints.check_steps(folder),
    ],
    ids=["the state", "a part", "all that are kept"],
)
def test_every_read_of_a_damaged_step_is_refused(tmp_path, step, read):
    state = {"ema": {"a": jnp.arange(300.0)}}
    for saved_step in (1, 2):
        checkpoints.save(tmp_path, saved_step, state)
    # The array's bytes: Orbax itself reads them without a word.
    paths = [path for path in (tmp_path / str(step)).rglob("*") if path.is_file()]
    largest = max(paths, key=lambda path: path.stat().st_size)
    flip_a_byte(largest)
    sentence = rf"checkpoint {step} in .*{largest.name} differs .*\(valid: {3 - step}\)"
    with pytest.raises(ValueError, match=sentence):
        read(tmp_path, step)
    ema = checkpoints.restore_part(tmp_path, 3 - step, "ema")
    np.testing.assert_array_equal(ema["a"], state["ema"]["a"])


@pytest.mark.parametrize("name", ["a[1]", "a[b", "a]b", "a\\b", "a*b", "a?b"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must have none of \[ \] \* \? .*choose another folder"):
        checkpoints.save(tmp_path / name, 1, {"ema": {"a": jnp.arange(3.0)}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a{x}", "a%20b", "a#b", "a'b", 'a"b', "~a", "$HOME", "ä"])
def test_other_characters_of_a_path_are_handled(tmp_path, name):
    checkpoints.save(tmp_path / name, 1, {"ema": {"a": jnp.arange(3.0)}})
    ema = checkpoints.restore_part(tmp_path / name, 1, "ema")
    np.testing.assert_array_equal(ema["a"], np.arange(3.0))


@pytest.mark.parametrize("name", ["a[1]", "a*b", "a?b"])
def test_a_folder_may_be_renamed_to_a_pattern(tmp_path, name):
    checkpoints.save(tmp_path / "a", 1, {"ema": {"a": jnp.arange(3.0)}})
    (tmp_path / "a").rename(tmp_path / name)
    ema = checkpoints.restore_part(tmp_path / name, 1, "ema")
    np.testing.assert_array_equal(ema["a"], np.arange(3.0))


def test_a_folder_with_a_backslash_cannot_be_read(tmp_path):
    checkpoints.save(tmp_path / "a", 1, {"ema": {"a": jnp.arange(3.0)}})
    (tmp_path / "a").rename(tmp_path / "a\\b")
    with pytest.raises(ValueError, match="choose another folder or rename it"):
        checkpoints.restore_part(tmp_path / "a\\b", 1, "ema")


@pytest.mark.parametrize("name", ["a[1]", "a\\b"])
def test_a_step_that_cannot_be_opened_is_not_saved(tmp_path, monkeypatch, name):
    """Orbax writes into such a folder without an error, and cannot read it again."""
    monkeypatch.setattr(checkpoints, "check_folder", lambda folder: None)
    with pytest.raises(OSError, match=r"step 1 cannot be saved .* no step is saved yet"):
        checkpoints.save(tmp_path / name, 1, {"ema": {"a": jnp.arange(3.0)}})
    assert checkpoints.list_steps(tmp_path / name) == []
    assert not (tmp_path / name / "1").exists()
