"""Three processes on one study, one of them killed: each cell is done once, and none is lost."""

import json
import os
import signal
import time

import pytest

from tests.experiments.commands import SHORT, SMALL, start_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "JAXDIFF_SHARING" not in os.environ,
        reason="three processes on two cores take minutes: JAXDIFF_SHARING=1",
    ),
]


def find_owners(workdir):
    """Process of each cell that is in training, by the cell's name."""
    owners = {}
    for checkpoint in workdir.glob("cells/*/checkpoints/*.json"):
        folder = checkpoint.parents[1]
        for process in processes_named(folder / "in_use.lock"):
            owners[folder.name] = process
    return owners


def processes_named(lock):
    """The process that a lock's file names, if it is held."""
    lines = lock.read_text().split() if lock.exists() else []
    return [int(line) for line in lines if line.isdigit()][:1]


def test_three_processes_share_a_study_and_one_is_killed(tmp_path):
    study = (
        *SMALL,
        *SHORT,
        "--config.seeds=(0,1,2)",
        "--config.train.steps=100",
        "--config.sample.common=0",
        "--config.parallel.cells=1",
        "--workdir",
        tmp_path,
    )
    processes = [start_command("sweep", *study) for _ in range(3)]
    pids = {process.pid for process in processes}
    owners = {}
    while len(owners) < 2:  # the classifiers are trained, and two processes train a cell each
        owners = {cell: pid for cell, pid in find_owners(tmp_path).items() if pid in pids}
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    killed_cell, pid = max(owners.items())
    os.kill(pid, signal.SIGKILL)
    outputs = [process.communicate(timeout=500) for process in processes]
    assert sorted(process.returncode for process in processes) == [-9, 0, 0], outputs
    for name in (f"1-80_20-n50-s{seed}" for seed in range(3)):
        folder = tmp_path / "cells" / name
        assert (folder / "result.json").exists()
        for line in (f"{name} train: 100/100", f"{name} sample: 20/20"):
            times = sum(line in out for out, _ in outputs)
            assert times == 1 or (name == killed_cell and times <= 2), (line, outputs)
        metrics = (folder / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in metrics]
        assert steps == sorted(set(steps))
        assert name in (tmp_path / "report.html").read_text()
