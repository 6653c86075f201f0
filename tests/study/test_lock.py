"""A folder's lock has one owner; a dead one's is taken over."""

import os
import signal
import subprocess
import sys
import time

import filelock
import pytest

from jaxdiff.study import lock as locks
from jaxdiff.study.lock import lock

HOLDER = """
import sys
from jaxdiff.study.lock import lock
print("ready", flush=True)
sys.stdin.readline()
with lock(sys.argv[1]) as owner:
    print(owner, flush=True)
    if not owner:
        sys.stdin.readline()
"""


def start_holder(folder) -> subprocess.Popen:
    """A process that tries to lock the folder at the next line of its input.

    It leaves the folder at the line after that.
    """
    command = [sys.executable, "-W", "ignore", "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def send_line(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def holder(tmp_path):
    process = start_holder(tmp_path)
    send_line(process)
    assert process.stdout.readline() == "\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_anothers_until_that_process_is_killed(holder, tmp_path):
    with lock(tmp_path) as owner:
        assert owner.endswith(f"process {holder.pid}")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock(tmp_path) as owner:
        assert owner == ""


def test_a_living_owner_is_waited_for(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.05)
    owners = []

    def wait(owner):
        owners.append(owner)
        if len(owners) == 3:
            send_line(holder)

    with lock(tmp_path, wait) as owner:
        assert owner == ""
    assert all(name.endswith(f"process {holder.pid}") for name in owners[:3])
    assert owners[-1] == ""


@pytest.mark.parametrize("name", ["plain", "of [2024]*"])
def test_a_lock_leaves_nothing_behind(name, tmp_path):
    for _ in range(3):
        with lock(tmp_path / name) as owner:
            assert owner == ""
    assert list((tmp_path / name).iterdir()) == []


def test_elsewhere_an_unchanged_lease_ends(tmp_path, monkeypatch):
    """The owner's machine is another one: its process cannot be asked for."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.2)
    path = tmp_path / locks.FILE_NAME
    lease = filelock.SoftFileLease(path, lease_duration=0.6, heartbeat_interval=0.2)
    lease.acquire()
    content = path.read_bytes()
    hostname = lease.owner.hostname
    lease.release()
    path.write_bytes(content.replace(hostname.encode(), b"far-away"))
    with lock(tmp_path) as owner:
        assert owner.startswith("far-away, process")
    assert not locks.is_active(tmp_path)
    os.utime(path)
    assert locks.is_active(tmp_path), "a heartbeat was seen"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with lock(tmp_path) as owner:
            if not owner:
                return
        time.sleep(0.1)
    pytest.fail("the lease did not end")


@pytest.mark.slow
def test_of_many_that_try_at_once_one_succeeds(tmp_path):
    processes = [start_holder(tmp_path) for _ in range(4)]
    for process in processes:
        send_line(process)
    owners = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.communicate("\n")
    assert owners.count("") == 1
