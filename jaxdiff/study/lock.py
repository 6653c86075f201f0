"""Who works on what, where several processes share a folder: one has its lock at a time, and a dead one's is taken over.

A lock is a file FOLDER/lock/K.json with a number of its own, made only where it was not there; the highest number counts. So taking
over needs no removal, and of two that try one succeeds. While its owner works the file is written anew every 20 seconds. The owner
is dead where its process is gone, on this machine; elsewhere, where its file was seen unchanged for two minutes: no clocks are
compared.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, parallel

BEAT, STALE, LOOK, SETTLE = 20.0, 120.0, 2.0, 3.0  # seconds

Record = dict[str, Any]

# Of each lock that was seen: as last read, since when it is so, and whether it ever changed.
_seen: dict[str, tuple[Record, float, bool]] = {}


@contextlib.contextmanager
def lock(folder: epath.PathLike, wait: Callable[[str], object] | None = None) -> Iterator[str]:
    """Lock the folder in this block: "" where that is so, else whose it is.

    wait: is called with that name every other second until they have ended or died, and then the lock is this process's; with
    "" when it is. Of several processes on one cell the leader locks for all.
    """
    with (
        _alone(epath.Path(folder) / "lock", wait)
        if parallel.is_leader()
        else contextlib.nullcontext("") as other
    ):
        parallel.barrier(f"lock {folder}")
        yield "" if parallel.broadcast(np.bool_(not other)) else other or "another process"


def is_alive(folder: epath.PathLike) -> bool:
    """Whether the owner of a lock that was seen before is known to work: here, or elsewhere by a heartbeat since. Of several
    processes the leader says it for all."""
    folder, alive = epath.Path(folder) / "lock", False
    if parallel.is_leader():
        last, record = _newest(folder)
        path = folder / f"{last}.json"
        alive = _lives(path, record) and (_is_here(record) or _seen[os.fspath(path)][2])
    return bool(parallel.broadcast(np.bool_(alive)))


@contextlib.contextmanager
def _alone(folder: epath.Path, wait: Callable[[str], object] | None) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    waited = False
    while not (mine := _take(folder)):
        other = _name(_newest(folder)[1])
        if wait is None:
            yield other
            return
        wait(other)
        waited = True
        time.sleep(LOOK)
    if wait is not None and waited:
        wait("")
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(mine, stop), daemon=True)
    beating.start()
    try:
        yield ""
    finally:
        stop.set()
        beating.join()
        _release(mine)


def _release(mine: epath.Path) -> None:
    try:
        files.write_json(mine, _me() | {"ended": True})
        for number in _numbers(mine.parent):
            if number < int(mine.stem):
                (mine.parent / f"{number}.json").unlink(missing_ok=True)
    except OSError:  # a full disk, say: removing works there
        mine.unlink(missing_ok=True)


def _take(folder: epath.Path) -> epath.Path | None:
    """The file by which the lock is this process's, None where it is another's."""
    last, there = _newest(folder)
    if last and _lives(folder / f"{last}.json", there):
        return None
    mine = folder / f"{last + 1}.json"
    if not _create(mine, _me()):
        return None
    if max(_numbers(folder), default=0) > last + 1:  # what was read had been overtaken
        mine.unlink(missing_ok=True)
        return None
    return mine


def _numbers(folder: epath.Path) -> list[int]:
    return [
        int(path.stem)
        for path in folder.iterdir()
        if path.suffix == ".json" and path.stem.isdigit()
    ]


def _newest(folder: epath.Path) -> tuple[int, Record]:
    """The number, 0 where there was none, and the record of the last owner, empty where it is just being written."""
    last = max(_numbers(folder), default=0) if folder.exists() else 0
    with contextlib.suppress(ValueError, OSError):
        return last, files.read_json(folder / f"{last}.json")
    return last, {}


def _create(path: epath.Path, record: Record) -> bool:
    """Write a file that nobody has written. In a bucket, where that cannot be asked for, the last writer has it."""
    if not files.is_in_bucket(path):
        with contextlib.suppress(FileExistsError), open(path, "x") as file:
            json.dump(record, file)
            return True
        return False
    if path.exists():
        return False
    files.write_json(path, record)
    time.sleep(SETTLE)
    return files.read_json(path) == record


def _lives(path: epath.Path, record: Record) -> bool:
    if record.get("ended"):
        return False
    if _is_here(record):
        return _started(record["pid"]) == record["started"]
    key, now = os.fspath(path), time.monotonic()
    before, since, changed = _seen.get(key, (record, now, False))
    if record != before:
        since, changed = now, True
    _seen[key] = (record, since, changed)
    return now - since < STALE


def _is_here(record: Record) -> bool:
    """Whether the owner is among the processes that this one can see."""
    return bool(record.get("started")) and record.get("machine") == _machine() != ""


def _me(beats: int = 0) -> Record:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": pid,
        "started": _started(pid),
        "beats": beats,
    }


def _machine() -> str:
    """Where process numbers mean the same and can be asked for: this boot, container and user. "" where that cannot be told."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as boot:
        return f"{socket.gethostname()} {boot.read().strip()} {os.readlink('/proc/self/ns/pid')} {os.getuid()}"
    return ""


def _started(pid: int) -> str:
    """When a process began, which tells it from others of its number; "" where there is none, or none that still works."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _name(record: Record) -> str:
    return f"{record['host']}, process {record['pid']}" if record else "another process"


def _beat(path: epath.Path, stop: threading.Event) -> None:
    beats = 0
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):  # a full disk, say; the next may be written
            if max(_numbers(path.parent)) > int(path.stem):
                os.write(
                    2,
                    f"error: {path.parent.parent} was taken over by another process, since this one was not heard of\n".encode(),
                )
                os._exit(1)  # two must not write the same files
            beats += 1
            files.write_json(path, _me(beats))
