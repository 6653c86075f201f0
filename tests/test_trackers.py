"""Trackers write what they are told; each against the real package, where it is installed."""

import json
import sqlite3
import time

import numpy as np
import pytest
from etils import epath

from jaxdiff import trackers

CONFIG = {"n": 50, "train": {"steps": 8}}
ROWS = [
    {"measure": "share", "quantity": "classified", "value": 0.25},
    {"measure": "share", "quantity": "second", "value": None},
]


def open_run(folder, step=0, last_step=0):
    folder = epath.Path(folder)
    id = trackers.Run.read_id(folder)
    return trackers.Run("study", "cell-s0", folder, CONFIG, id, step, last_step)


def show(name, folder, steps, step=0, last_step=0):
    """Curves at these steps, a picture and a table, as a run and a resumed one log them."""
    (tracker,) = trackers.open_trackers([name], open_run(folder, step, last_step))
    for step in steps:
        tracker.log(step, {"loss": 1.0 / step})
    tracker.log_image("samples", np.full((9, 9, 1), 128, np.uint8))
    tracker.log_table("results", ROWS)
    tracker.flush()
    tracker.close()


def test_a_resumed_run_is_the_same_run(tmp_path):
    assert open_run(tmp_path).id == open_run(tmp_path).id
    (tmp_path / "other").mkdir()
    assert open_run(tmp_path).id != open_run(tmp_path / "other").id


def test_tensorboard_has_curves_settings_pictures_and_tables(tmp_path):
    pytest.importorskip("tensorboardX")
    show("tensorboard", tmp_path, [2, 4])
    show("tensorboard", tmp_path, [4, 6], step=2, last_step=4)
    data = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    for part in (b"loss", b"config", b"samples", b"PNG", b"results", b"classified | 0.25"):
        assert part in data


def test_tensorboard_shows_every_step_once(tmp_path):
    """After a run that ended at step 8, past its checkpoint of step 4."""
    pytest.importorskip("tensorboardX")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    show("tensorboard", tmp_path, [2, 4, 6, 8])
    time.sleep(1.1)  # its files are named by the second
    show("tensorboard", tmp_path, [6, 8, 10], step=4, last_step=8)
    accumulator = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [point.step for point in accumulator.Scalars("loss")] == [2, 4, 6, 8, 10]


def read_offline_run(path):
    """The records of an offline run's file: protobufs in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    position = 7  # after the file's mark
    payload = b""
    while position + 7 < len(data):
        rest = 32768 - position % 32768
        if rest < 7:  # no header fits into the block
            position += rest
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        payload += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(payload)
            payload = b""


def read_offline_runs(folder):
    """The id and the settings' names of every run, and what was logged by step."""
    runs = []
    logged = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in read_offline_run(path):
            if record.WhichOneof("record_type") == "run":
                names = {update.key for update in record.run.config.update}
                runs.append((record.run.run_id, names - {"_wandb"}))
            items = {
                item.key or item.nested_key[0]: item.value_json for item in record.history.item
            }
            if items:
                logged[int(items["_step"])] = items
    return runs, logged


def test_weights_and_biases_offline_has_curves_settings_pictures_and_tables(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    show("wandb", tmp_path, [2, 4])
    time.sleep(1.1)  # its folders are named by the second
    show("wandb", tmp_path, [4, 6], step=2, last_step=4)
    deadline = time.monotonic() + 30
    runs, logged = read_offline_runs(tmp_path)
    while 7 not in logged and time.monotonic() < deadline:  # its own process writes the files
        time.sleep(0.2)
        runs, logged = read_offline_runs(tmp_path)
    assert runs == [(open_run(tmp_path).id, {"n", "train"})] * 2
    assert [step for step, items in logged.items() if "loss" in items] == [2, 4, 6]
    for name in ("samples", "results"):
        assert any(name in items for items in logged.values())


def test_trackio_has_curves_settings_pictures_and_tables(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    show("trackio", tmp_path, [2, 4])
    show("trackio", tmp_path, [4, 6], step=2, last_step=4)
    (path,) = (tmp_path / "trackio").glob("study*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert {name for name, _, _ in rows} == {f"cell-s0-{open_run(tmp_path).id}"}
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert [step for step, values in logged if "loss" in values] == [2, 4, 6]
    assert any("samples" in values for _, values in logged)
    assert any("results" in values for _, values in logged)


def test_an_unknown_tracker_and_a_missing_package_are_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match=r"config\.track holds 'paper'; choose among tensorboard"):
        trackers.check_trackers(["paper"])
    entry = trackers.RegisteredTracker(trackers.TensorBoard, "no_such_package")
    monkeypatch.setitem(trackers.TRACKERS, "none", entry)
    with pytest.raises(ValueError, match="no_such_package is not installed; pip install"):
        trackers.check_trackers(["none"])


class LoggedOut(trackers.Tracker):
    def __init__(self, run):
        raise RuntimeError("No API key\nconfigured.")


def test_a_service_without_a_login_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "out", trackers.RegisteredTracker(LoggedOut, "json"))
    sentence = r"holds 'out', which does not open \(No API key configured\.\); log in, choose"
    with pytest.raises(ValueError, match=sentence):
        trackers.open_trackers(["out"], open_run(tmp_path))
