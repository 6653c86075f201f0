"""Three processes on one study at the same time, one of them killed: every cell is done once, and none is lost."""

import json
import os
import signal
import time

import pytest

from tests.experiments.test_survival import SHORT
from tests.experiments.test_sweep import SMALL, command

pytestmark = pytest.mark.slow


def test_three_processes_share_a_study_and_one_is_killed(tmp_path):
    study = (*SMALL, *SHORT, "--config.seeds=(0,1,2)", "--config.train.steps=100", "--config.sample.common=0",
             "--workdir", tmp_path)  # fmt: skip
    running = [command("sweep", *study) for _ in range(3)]
    held = {}
    while len(held) < 2:  # the classifiers are trained, and two of the processes have a cell each
        for path in tmp_path.glob("cells/*/checkpoints/*.json"):
            record = max((path.parents[1] / "held").glob("*.json"), key=lambda p: int(p.stem))
            held[path.parents[1].name] = json.loads(record.read_text())["pid"]
        assert all(process.poll() is None for process in running)
        time.sleep(0.1)
    cell, pid = next(iter(held.items()))
    os.kill(pid, signal.SIGKILL)
    said = {process.pid: process.communicate(timeout=280) for process in running}
    assert sorted(process.returncode for process in running) == [-9, 0, 0]
    for name in (f"1-80_20-n50-s{seed}" for seed in range(3)):
        assert (tmp_path / "cells" / name / "result.json").exists()
        trained = [p for p, (out, _) in said.items() if f"{name} train: 100/100" in out]
        sampled = [p for p, (out, _) in said.items() if f"{name} sample: 20/20" in out]
        assert len(sampled) == 1 or (name == cell and len(sampled) <= 2), (name, said)
        assert len(trained) == 1 or (name == cell and len(trained) <= 2), (name, said)
        steps = [
            json.loads(line)["step"] for line in (tmp_path / "cells" / name / "metrics.jsonl").read_text().splitlines()
        ]
        assert steps == sorted(set(steps))
        assert name in (tmp_path / "report.html").read_text()
    assert sum("waits: 0/1 for" in out for out, _ in said.values()) >= 1
