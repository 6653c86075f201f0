"""What trackers are told of a finished cell, and that they are told it once."""

import numpy as np
import pytest
from etils import epath

from jaxdiff import files, results, trackers
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths
from jaxdiff.estimates import Estimate
from jaxdiff.stage import NO_REDO
from jaxdiff.study import grid, tracking
from tests.experiments import tiny_study


class Recorder(trackers.Tracker):
    def __init__(self, run):
        self.told = {"run": run}
        RECORDERS.append(self)

    def log_image(self, name, image):
        self.told[name] = image

    def log_table(self, name, rows):
        self.told[name] = rows

    def close(self):
        self.told["closed"] = True


RECORDERS = []


@pytest.fixture
def context(tmp_path, monkeypatch):
    """A finished cell, as far as it is shown."""
    monkeypatch.setitem(trackers.TRACKERS, "recorder", trackers.RegisteredTracker(Recorder, "json"))
    RECORDERS.clear()
    (cell,) = grid.expand(tiny_study.get_config())
    folder = epath.Path(tmp_path) / "study"
    context = CellContext(cell, folder, DataPaths("", ""), track=("recorder",))
    context.folder.mkdir(parents=True)
    results.write_samples(
        context.folder / "samples.npz", np.zeros((70, 16, 16, 1), np.uint8), np.arange(70)
    )
    write_result(context, 0.25)
    return context


def write_result(context, value):
    share = Estimate(value, 0.2, 0.3, 64, name="classified", labels={"trained": 0.2})
    content = {"schema": 1, "cell": {}, "share": [share.to_json()]}
    files.write_json(context.folder / "result.json", content)


def test_samples_and_results_are_shown_once(context):
    for _ in range(2):
        tracking.track_result(context, NO_REDO)
    (recorder,) = RECORDERS
    run = recorder.told["run"]
    assert (run.project, run.name) == ("study", context.cell.name)
    assert run.config["n"] == 50
    assert recorder.told["samples"].shape == (8 * 17, 8 * 17, 1)
    row = {"measure": "share", "quantity": "classified (trained 0.2)", "value": 0.25}
    assert recorder.told["results"] == [row | {"low": 0.2, "high": 0.3, "n": 64}]
    assert recorder.told["closed"]


def test_what_was_measured_again_is_shown_again(context):
    tracking.track_result(context, NO_REDO)
    write_result(context, 0.5)
    tracking.track_result(context, NO_REDO)
    assert len(RECORDERS) == 2
    assert RECORDERS[0].told["run"].id == RECORDERS[1].told["run"].id


def test_nothing_is_written_where_nothing_is_tracked(context):
    context.track = ()
    names = {path.name for path in context.folder.iterdir()}
    tracking.track_result(context, NO_REDO)
    assert tracking.open_for(context) == []
    assert {path.name for path in context.folder.iterdir()} == names
