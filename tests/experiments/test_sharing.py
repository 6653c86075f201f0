"""Three processes on one study at the same time, one of them killed: every cell is done once, and none is lost."""

import json
import os
import signal
import time

import pytest

from tests.experiments.test_survival import SHORT
from tests.experiments.test_sweep import SMALL, command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "JAXDIFF_SHARING" not in os.environ,
        reason="three processes on two cores take minutes: JAXDIFF_SHARING=1",
    ),
]


def test_three_processes_share_a_study_and_one_is_killed(tmp_path):
    study = (*SMALL, *SHORT, "--config.seeds=(0,1,2)", "--config.train.steps=100", "--config.sample.common=0",
             "--workdir", tmp_path)  # fmt: skip
    running = [command("sweep", *study) for _ in range(3)]
    owned = {}
    while len(owned) < 2:  # the classifiers are trained, and two of the processes train a cell each
        records = {
            path.parents[1].name: json.loads(path.read_text() or "{}")
            for path in tmp_path.glob("cells/*/lock/1.json")
        }
        begun = {path.parents[1].name for path in tmp_path.glob("cells/*/checkpoints/*.json")}
        owned = {
            name: record["pid"]
            for name, record in records.items()
            if name in begun and "ended" not in record
        }
        assert all(process.poll() is None for process in running)
        time.sleep(0.05)
    cell, pid = max(owned.items())
    os.kill(pid, signal.SIGKILL)
    said = {process.pid: process.communicate(timeout=500) for process in running}
    assert sorted(process.returncode for process in running) == [-9, 0, 0]
    for name in (f"1-80_20-n50-s{seed}" for seed in range(3)):
        assert (tmp_path / "cells" / name / "result.json").exists()
        trained = [p for p, (out, _) in said.items() if f"{name} train: 100/100" in out]
        sampled = [p for p, (out, _) in said.items() if f"{name} sample: 20/20" in out]
        assert len(sampled) == 1 or (name == cell and len(sampled) <= 2), (name, said)
        assert len(trained) == 1 or (name == cell and len(trained) <= 2), (name, said)
        steps = [
            json.loads(line)["step"]
            for line in (tmp_path / "cells" / name / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps))
        assert name in (tmp_path / "report.html").read_text()
    last = max(int(path.stem) for path in (tmp_path / "cells" / cell / "lock").glob("*.json"))
    assert last > 1, "the killed one's cell was locked by another"
