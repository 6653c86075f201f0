"""A folder has one holder; a dead one is taken over from, by whatever machine."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxdiff.study import holding

HOLDER = """
import sys, time
from jaxdiff.study import holding
with holding.hold(sys.argv[1]) as other:
    print(other, flush=True)
    time.sleep(float(sys.argv[2]) if not other else 0)
"""


def start(folder, seconds=60.0):
    run = [sys.executable, "-W", "ignore", "-c", HOLDER, str(folder), str(seconds)]
    return subprocess.Popen(run, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def holder(tmp_path):
    process = start(tmp_path)
    assert process.stdout.readline() == "\n"
    yield process
    process.kill()
    process.communicate()


def test_held_by_another_process_until_that_is_killed(holder, tmp_path):
    with holding.hold(tmp_path) as other:
        assert other.endswith(f"process {holder.pid}")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with holding.hold(tmp_path) as other:
        assert other == ""


def test_waits_for_one_that_lives(tmp_path):
    process, waited = start(tmp_path, 3.0), []
    assert process.stdout.readline() == "\n"
    with holding.hold(tmp_path, waited.append) as other:
        assert process.poll() is not None or json.loads((tmp_path / "held/1.json").read_text())["ended"]
        assert other == ""
    assert waited
    process.communicate()


def test_held_again_and_again_leaves_one_file(tmp_path):
    for _ in range(3):
        with holding.hold(tmp_path) as other:
            assert other == ""
    assert [path.name for path in (tmp_path / "held").iterdir()] == ["3.json"]


@pytest.mark.parametrize(("age", "taken"), [(60.0, False), (150.0, True)])
def test_on_another_machine_the_heartbeat_decides(age, taken, tmp_path):
    record = tmp_path / "held" / "7.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"host": "elsewhere", "machine": "elsewhere", "pid": 1, "started": "1"}))
    os.utime(record, (time.time() - age,) * 2)
    with holding.hold(tmp_path) as other:
        assert other == ("" if taken else "elsewhere, process 1")


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(holding, "BEAT", 0.05)
    with holding.hold(tmp_path):
        record = tmp_path / "held" / "1.json"
        os.utime(record, (0, 0))
        deadline = time.time() + 10
        while record.stat().st_mtime == 0:
            assert time.time() < deadline
            time.sleep(0.02)


def test_of_many_that_try_at_once_one_succeeds(tmp_path):
    (tmp_path / "held").mkdir()
    (tmp_path / "held/1.json").write_text(json.dumps({"ended": True}))
    processes = [start(tmp_path, 4.0) for _ in range(4)]
    others = [process.communicate()[0].strip() for process in processes]
    assert others.count("") == 1
    assert (tmp_path / "held/2.json").exists()
