"""Locks by which several processes share a study: each works on what no other one works on.

A lock is a soft lease of the library filelock: a file that its owner touches. The owner is dead
where its process is gone, on this machine; elsewhere, where the file was unchanged for two
minutes. Buckets (gs://, s3://) have no locks: divide the cells by --shard there.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator

import filelock
import numpy as np
from etils import epath

from jaxdiff import files, parallel

LEASE_SECONDS = 120.0
HEARTBEAT_SECONDS = 10.0
POLL_SECONDS = 2.0
FILE_NAME = "in_use.lock"

_first_touch: dict[str, int] = {}  # of each lock that another process holds, as first seen


@contextlib.contextmanager
def lock(folder: epath.PathLike, wait: Callable[[str], object] | None = None) -> Iterator[str]:
    """Lock a folder within a block.

    Parameters
    ----------
    folder
        The folder; it is made where it does not exist.
    wait
        Without it a lock that another process holds is not waited for. Otherwise it is called
        with the owner's name every two seconds, and with "" when the lock is this process's.

    Yields
    ------
    owner
        "" where the lock is this process's, else the name of its owner. Where several processes
        run one cell, the first one locks for all.
    """
    path = epath.Path(folder)
    owner = ""
    with contextlib.ExitStack() as stack:
        if parallel.is_leader() and not files.is_in_bucket(path):
            owner = stack.enter_context(_local_lock(path, wait))
        parallel.barrier(f"lock {folder}")
        is_held = bool(parallel.broadcast(np.bool_(owner != "")))
        # Only the first process has asked, and knows the owner's name.
        if is_held and not owner:
            owner = "another process"
        yield owner


@contextlib.contextmanager
def _local_lock(folder: epath.Path, wait: Callable[[str], object] | None) -> Iterator[str]:
    folder.mkdir(parents=True, exist_ok=True)
    lease = _lease(folder)
    owner = _acquire(lease)
    waited = False
    while owner and wait is not None:
        wait(owner)
        waited = True
        time.sleep(POLL_SECONDS)
        owner = _acquire(lease)
    if wait is not None and waited:
        wait("")
    try:
        yield owner
    finally:
        lease.release()


@functools.cache
def _lease(folder: epath.Path) -> filelock.SoftFileLease:
    """One object a folder: it remembers since when another owner's file is unchanged."""
    return filelock.SoftFileLease(
        os.fspath(folder / FILE_NAME),
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        on_compromise=_end_process,
        thread_local=False,
    )


def _acquire(lease: filelock.SoftFileLease) -> str:
    """Take the lease; "" where that succeeds, else the name of its owner."""
    try:
        lease.acquire(blocking=False)
    except filelock.Timeout:
        record = lease.owner
        return f"{record.hostname}, process {record.pid}" if record else "another process"
    return ""


def _end_process(compromise: filelock.LeaseCompromise) -> None:
    """Two processes must not write the same files: the one that was not heard of ends."""
    message = f"error: {compromise.lock_file} was taken over by another process\n"
    os.write(2, message.encode())
    os._exit(1)


def is_active(folder: epath.PathLike) -> bool:
    """Whether the owner of a folder's lock was seen at work: a heartbeat since the first look."""
    path = epath.Path(folder) / FILE_NAME
    active = False
    if parallel.is_leader():
        with contextlib.suppress(OSError):  # released in the meantime
            touched = os.stat(path).st_mtime_ns
            active = touched > _first_touch.setdefault(os.fspath(path), touched)
    return bool(parallel.broadcast(np.bool_(active)))
