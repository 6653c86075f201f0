"""Who works on what, where several processes share a folder: it has one holder at a time, and a dead one is taken over from.

A holder is a file FOLDER/held/K.json with a number of its own, made only where it was not there; the highest number counts. So taking
over needs no removal, and of two that try one succeeds. While its holder works a file is written anew every 20 seconds. It is
dead where its process is gone (on this machine), or where that has not happened for two minutes by the clock of the folder's
own disk, which all machines see alike.
"""

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, parallel
from jaxdiff.datasets.source import Progress

BEAT, STALE, LOOK, SETTLE = 20.0, 120.0, 2.0, 3.0  # seconds

Record = dict[str, Any]


@contextlib.contextmanager
def hold(folder: epath.PathLike, wait: Callable[[str], object] | None = None) -> Iterator[str]:
    """Hold the folder in this block: "" where that is so, else who holds it.

    wait: is called with that name every other second until they have ended or died, and then this process has it. Of
    several processes on one cell the leader holds for all.
    """
    with _alone(epath.Path(folder) / "held", wait) if parallel.is_leader() else contextlib.nullcontext("") as other:
        parallel.wait(f"held {folder}")
        yield "" if parallel.leaders(np.bool_(not other)) else other or "another process"


def waiting(what: str, progress: Progress) -> Callable[[str], object]:
    """A `wait` that says once whom it is for."""
    return functools.cache(lambda other: progress("waits", 0, 1, f"for {what}, on which {other} works"))


@contextlib.contextmanager
def _alone(folder: epath.Path, wait: Callable[[str], object] | None) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    while not (mine := _take(folder)):
        other = _name(_newest(folder)[1])
        if wait is None:
            yield other
            return
        wait(other)
        time.sleep(LOOK)
    stop = threading.Event()
    beating = threading.Thread(target=_beat, args=(mine, stop), daemon=True)
    beating.start()
    try:
        yield ""
    finally:
        stop.set()
        beating.join()
        with contextlib.suppress(OSError):  # where it cannot be written this process's end says it
            files.write_json(mine, _me() | {"ended": True})
            for path in folder.glob("*.json"):
                if int(path.stem) < int(mine.stem):
                    path.unlink(missing_ok=True)


def _take(folder: epath.Path) -> epath.Path | None:
    """The file that makes this process the holder, None where another one is."""
    last, there = _newest(folder)
    if last and _lives(folder / f"{last}.json", there):
        return None
    mine = folder / f"{last + 1}.json"
    return mine if _create(mine, _me()) else None


def _newest(folder: epath.Path) -> tuple[int, Record]:
    """The number, 0 where there was none, and the record of the last holder, empty where it is just being written."""
    last = max((int(path.stem) for path in folder.glob("*.json")), default=0)
    with contextlib.suppress(ValueError, OSError):
        return last, files.read_json(folder / f"{last}.json")
    return last, {}


def _create(path: epath.Path, record: Record) -> bool:
    """Write a file that nobody has written. In a bucket, where that cannot be asked for, it is whose who wrote last."""
    if "://" not in os.fspath(path):
        try:
            with open(path, "x") as file:
                json.dump(record, file)
        except FileExistsError:
            return False
        return True
    if path.exists():
        return False
    files.write_json(path, record)
    time.sleep(SETTLE)
    return files.read_json(path) == record


def _lives(path: epath.Path, record: Record) -> bool:
    if record.get("ended"):
        return False
    if record.get("started") and record["machine"] == _machine():
        return _started(record["pid"]) == record["started"]
    clock = path.parent / f".{uuid.uuid4().hex}"
    clock.write_text("")
    age = clock.stat().mtime - path.stat().mtime
    clock.unlink()
    return age < STALE


def _me() -> Record:
    pid = os.getpid()
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _machine() -> str:
    """Where process numbers mean the same: this boot, and this container. Only the host where that cannot be told."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as boot:
        return f"{socket.gethostname()} {boot.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _started(pid: int) -> str:
    """When a process began, which tells it from others of its number; "" where there is none, or none that still works."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _name(record: Record) -> str:
    return f"{record['host']}, process {record['pid']}" if record else "another process"


def _beat(path: epath.Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):  # a full disk, say; the next may be written
            files.write_json(path, _me())
