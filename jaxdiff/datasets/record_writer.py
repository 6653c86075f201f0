"""Writing images to array_record files, by this process and by others beside it.

A record is a serialized tf.train.Example. For images of one size the records differ in the pixels alone, so that TFDS
serializes one of them, and the processes put `head` and `tail` around the pixels of the others.
"""

import concurrent.futures
import dataclasses
import functools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence

from array_record.python.array_record_module import ArrayRecordWriter

from jaxdiff.datasets.base import Image

Decode = Callable[[int], Image]
REPORTED = 256  # images between two reports


@dataclasses.dataclass(frozen=True)
class Task:
    """Files to write, each a path and the images that it holds; and what stands around the pixels of a record."""

    files: tuple[tuple[str, range], ...]
    head: bytes
    tail: bytes


def write(decode: Decode, task: Task, report: Callable[[int], None]) -> None:
    """The files one after the other; `report` hears from time to time how many images are written."""
    done = 0
    for path, images in task.files:
        # TFDS's own writer packs the pixels, which saves a tenth of the room and costs an eighth of the time
        writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
        for i in images:
            writer.write(task.head + decode(i).tobytes() + task.tail)
            done += 1
            if done % REPORTED == 0:
                report(done)
        writer.close()
    report(done)


def write_together(decode: Decode, tasks: Sequence[Task], report: Callable[[int], None]) -> None:
    """The first task here, each other one in a process of its own. Raises ValueError for an image that cannot be decoded."""
    done, others = [0] * len(tasks), tasks[1:]
    messages = [
        pickle.dumps((decode, task)) for task in others
    ]  # what cannot be pickled starts no process
    command = [sys.executable, "-m", "jaxdiff.datasets.record_writer"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in others
    ]

    def count(place: int, images: int) -> None:
        done[place] = images
        report(sum(done))

    def check() -> None:
        for heard in listening:
            if heard.done():
                heard.result()

    def count_mine(images: int) -> None:
        check()
        count(0, images)

    with concurrent.futures.ThreadPoolExecutor(len(tasks)) as pool:
        listening = [
            pool.submit(_listen, process, message, functools.partial(count, place))
            for place, (process, message) in enumerate(zip(running, messages, strict=True), 1)
        ]
        try:
            write(decode, tasks[0], count_mine)
            concurrent.futures.wait(listening, return_when=concurrent.futures.FIRST_EXCEPTION)
            check()
        finally:
            for process in running:
                process.kill()


def _listen(process: subprocess.Popen, task: bytes, report: Callable[[int], None]) -> None:
    """Hand a process its task and pass on what it reports."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdout as lines:
        process.stdin.write(task)
        process.stdin.close()
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                raise ValueError(message["error"])
            report(message["done"])
    if process.returncode:
        raise OSError(
            f"a process that prepared images ended with status {process.returncode}; try again"
        )


def main() -> None:
    """A process's own part: a task from stdin; to stdout JSON lines, how many images are written or what is wrong."""

    def say(**message):
        return print(json.dumps(message), flush=True)

    decode, task = pickle.load(sys.stdin.buffer)
    try:
        write(decode, task, lambda done: say(done=done))
    except ValueError as error:
        say(error=str(error))


if __name__ == "__main__":
    main()
