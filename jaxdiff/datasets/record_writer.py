"""Write images to array_record files, in several processes where that takes long.

A record is a serialized tf.train.Example. For images of one size the records differ in the pixels
alone: TFDS serializes one of them, and `head` and `tail` are put around the pixels of the others.
Worker processes import neither TFDS nor JAX, unless the dataset's own module does.
"""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from array_record.python.array_record_module import ArrayRecordWriter

from jaxdiff.datasets.base import Image

Decode = Callable[[int], Image]
IMAGES_A_REPORT = 256
SECONDS_A_REPORT = 0.5
TIMED_IMAGES = 16
# Less work is done sooner by this process alone, since another one takes a second to start.
MIN_PARALLEL_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """A file to write, and the indices of its images."""

    path: str
    images: range


@dataclasses.dataclass(frozen=True)
class RecordTemplate:
    """The bytes before and after the pixels of every record."""

    head: bytes
    tail: bytes


def write_records(
    decode: Decode,
    files: Sequence[RecordFile],
    template: RecordTemplate,
    report: Callable[[int], None],
) -> None:
    """Write every file, in as many processes as there are cores where that is worth their start.

    Parameters
    ----------
    decode
        Returns the image of an index.
    files
        The files and the images of each.
    template
        What stands around the pixels of a record.
    report
        Called from time to time with the number of images written.

    Raises
    ------
    ValueError
        For an image that cannot be decoded.
    OSError
        Where a file cannot be written or a worker process is killed.
    """
    processes = min(os.cpu_count() or 1, len(files))
    if processes > 1 and _is_slow(decode, files) and _is_importable(decode):
        _write_in_processes(decode, files, template, report, processes)
        return
    # few or cheap images, one core, or a function that cannot be sent
    written = 0

    def count(images: int) -> None:
        nonlocal written
        written += images
        report(written)

    for file in files:
        _write_file(decode, file, template, count)


def _is_slow(decode: Decode, files: Sequence[RecordFile]) -> bool:
    """Whether decoding all images takes longer than MIN_PARALLEL_SECONDS, from a few of them."""
    images = files[0].images[:TIMED_IMAGES]
    start = time.perf_counter()
    for index in images:
        decode(index)
    seconds_an_image = (time.perf_counter() - start) / len(images)
    return seconds_an_image * sum(len(file.images) for file in files) >= MIN_PARALLEL_SECONDS


def _is_importable(decode: Decode) -> bool:
    """Whether another process can have the function: not one of a notebook or of a closure."""
    try:
        return b"__main__" not in pickle.dumps(decode)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


def _write_file(
    decode: Decode, file: RecordFile, template: RecordTemplate, count: Callable[[int], None]
) -> None:
    """Write one file; `count` is called with the number of images since its last call."""
    # TFDS's own writer packs the pixels, which saves a tenth of the room and costs an eighth of
    # the time
    writer = ArrayRecordWriter(file.path, "group_size:1,uncompressed")
    try:
        for first in range(0, len(file.images), IMAGES_A_REPORT):
            images = file.images[first : first + IMAGES_A_REPORT]
            for index in images:
                writer.write(template.head + decode(index).tobytes() + template.tail)
            count(len(images))
    finally:
        writer.close()


def _write_in_processes(
    decode: Decode,
    files: Sequence[RecordFile],
    template: RecordTemplate,
    report: Callable[[int], None],
    processes: int,
) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of JAX's threads
    written = context.Value("q", 0)
    stop = context.Event()
    state = _WorkerState(decode, template, written, stop)
    executor = concurrent.futures.ProcessPoolExecutor(
        processes, context, initializer=_start_worker, initargs=(state,)
    )
    with executor:
        try:
            # The executor starts its processes within submit.
            with _without_main_module():
                pending = {executor.submit(_write_in_worker, file) for file in files}
            while pending:
                done, pending = concurrent.futures.wait(
                    pending, SECONDS_A_REPORT, concurrent.futures.FIRST_EXCEPTION
                )
                for future in done:
                    future.result()
                report(written.value)
        except BrokenProcessPool:
            raise OSError(
                "a process that prepared images ended before its work was done; try again"
            ) from None
        finally:
            stop.set()  # the executor waits for its workers, which end at their next image


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep processes started meanwhile from importing the main module again.

    Workers need nothing of it, and it may import JAX or be a script without a main guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@dataclasses.dataclass(frozen=True)
class _WorkerState:
    """What a worker process is given when it starts."""

    decode: Decode
    template: RecordTemplate
    written: Synchronized
    stop: Event


_state: _WorkerState | None = None  # set in worker processes alone


def _start_worker(state: _WorkerState) -> None:
    global _state
    _state = state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which stops us
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """A parent that is killed cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_in_worker(file: RecordFile) -> None:
    state = _state
    assert state is not None

    def decode(index: int) -> Image:
        if state.stop.is_set():
            raise concurrent.futures.CancelledError
        return state.decode(index)

    def count(images: int) -> None:
        with state.written.get_lock():
            state.written.value += images

    _write_file(decode, file, state.template, count)
