"""A folder's lock has one owner; a dead one's is taken over, on whatever machine it was."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxdiff.study import lock as module
from jaxdiff.study.lock import lock

OWNER = """
import sys
from jaxdiff.study.lock import lock
print("ready", flush=True)
sys.stdin.readline()
with lock(sys.argv[1]) as other:
    print(other, flush=True)
    if not other:
        sys.stdin.readline()
"""


def start(folder):
    """A process that tries to lock the folder at the next line of its input, and leaves it at the one after that."""
    run = [sys.executable, "-W", "ignore", "-c", OWNER, str(folder)]
    process = subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def owner(tmp_path):
    process = start(tmp_path)
    tell(process)
    assert process.stdout.readline() == "\n"
    yield process
    process.kill()
    process.communicate()


def test_locked_by_another_process_until_that_is_killed(owner, tmp_path):
    with lock(tmp_path) as other:
        assert other.endswith(f"process {owner.pid}")
    assert module.is_alive(tmp_path)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert not module.is_alive(tmp_path)
    with lock(tmp_path) as other:
        assert other == ""


def test_waits_for_one_that_lives(owner, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.05)
    waited = []

    def wait(other):
        waited.append(other)
        if len(waited) == 3:
            tell(owner)

    with lock(tmp_path, wait) as other:
        assert json.loads((tmp_path / "lock/2.json").read_text())["pid"] == os.getpid()
        assert other == ""
    assert all(name.endswith(f"process {owner.pid}") for name in waited[:3])
    assert waited[-1] == ""


@pytest.mark.parametrize("name", ["plain", "of [2024]*"])
def test_locked_again_and_again_leaves_one_file(name, tmp_path):
    for _ in range(3):
        with lock(tmp_path / name) as other:
            assert other == ""
    assert [path.name for path in (tmp_path / name / "lock").iterdir()] == ["3.json"]


def elsewhere(folder, beats):
    record = folder / "lock" / "7.json"
    record.parent.mkdir(exist_ok=True)
    record.write_text(
        json.dumps({"host": "far", "machine": "far", "pid": 1, "started": "1", "beats": beats})
    )


def test_on_another_machine_the_heartbeat_decides(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for beats, later, alive in (
        (0, 0.0, False),
        (0, 110.0, False),
        (1, 20.0, True),
        (1, 110.0, True),
    ):
        elsewhere(tmp_path, beats)
        clock[0] += later
        with lock(tmp_path) as other:
            assert other == "far, process 1"
        assert module.is_alive(tmp_path) == alive, "known to work once its file has changed"
    clock[0] += 20.0
    with lock(tmp_path) as other:
        assert other == ""


def test_the_heart_beats_and_ends_a_process_that_was_taken_for_dead(tmp_path):
    program = OWNER.replace(
        'print("ready',
        'from jaxdiff.study import lock as module; module.BEAT = 0.1; print("ready',
        1,
    )
    run = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path)]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process, deadline = subprocess.Popen(run, **pipes), time.time() + 60
    tell(process)
    record = tmp_path / "lock/1.json"
    while not (record.exists() and '"beats": 2' in record.read_text()):
        assert time.time() < deadline
        time.sleep(0.02)
    (tmp_path / "lock/2.json").write_text("{}")
    assert process.wait(60) == 1
    assert "was taken over by another process" in process.communicate()[1]


def test_what_was_read_may_be_overtaken(tmp_path, monkeypatch):
    """Between looking and locking others came and went: the number that was free then is no lock now."""
    folder = tmp_path / "lock"
    folder.mkdir()
    (folder / "3.json").write_text(json.dumps({"ended": True}))
    monkeypatch.setattr(module, "_newest", lambda _: (1, {"ended": True}))
    assert module._take(module.epath.Path(folder)) is None
    assert [path.name for path in folder.iterdir()] == ["3.json"]


def test_of_many_that_try_at_once_one_succeeds(tmp_path):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock/1.json").write_text(json.dumps({"ended": True}))
    processes = [start(tmp_path) for _ in range(4)]
    for process in processes:
        tell(process)
    others = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert others.count("") == 1
