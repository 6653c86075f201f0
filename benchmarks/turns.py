"""Two processes that take turns, so that a noisy machine is as noisy for both.

A worker reads one JSON line a request and answers with one; the first answer says that it has compiled.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


class Worker:
    """A process running `python -m MODULE JSON`."""

    def __init__(self, python: str, module: str, task: dict[str, Any]):
        command = [python, "-m", module, json.dumps(task)]
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # on both sides
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises RuntimeError where it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[:3])} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(steps: Callable[[int], None], batch: int, seconds: float, about: Callable[[], dict[str, Any]]) -> None:
    """A worker's loop. steps: does so many and waits for them; a round is as many as take `seconds`.

    The answer to the first request holds what `about` measures besides.
    """
    count = 3

    def timed() -> float:
        then = time.perf_counter()
        steps(count)
        return time.perf_counter() - then

    for line in sys.stdin:
        if json.loads(line)["do"] == "warm":
            answer = {"compiled": timed()} | about()
            count = max(3, round(count * seconds / timed()))
        else:
            steps(1)  # the other's turn has cooled the caches
            answer = {"rate": count * batch / timed()}
        print(json.dumps(answer), flush=True)


def rounds(workers: dict[str, Worker], count: int) -> Iterator[dict[str, float]]:
    """`count` rounds; in each, every worker in turn gives what it measured."""
    for _ in range(count):
        yield {name: worker.ask({"do": "round"})["rate"] for name, worker in workers.items()}


def spread(values: list[float]) -> str:
    """The median, and the lowest and the highest."""
    return f"{statistics.median(values):8.1f} [{min(values):.1f}, {max(values):.1f}]"
