import dataclasses

import numpy as np
import pytest
from etils import epath

from examples import new_tracker
from jaxdiff.trackers import Run


def test_a_resumed_run_goes_on_in_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    run = Run("study", "cell-s0", epath.Path(tmp_path), {"n": 50}, id="abc")
    resumed = dataclasses.replace(run, step=2, last_step=4)
    for opened, steps in ((run, [2, 4]), (resumed, [4, 6])):
        tracker = new_tracker.MLflow(opened)
        for step in steps:
            tracker.log(step, {"loss": 1.0 / step})
        tracker.close()
    history = mlflow.MlflowClient().get_metric_history(tracker.id, "loss")
    assert [(point.step, point.value) for point in history] == [(2, 0.5), (4, 0.25), (6, 1 / 6)]
    tracker.log_image("samples", np.zeros((9, 9, 1), np.uint8))
    tracker.log_table("results", [{"measure": "share", "value": 0.25}])
