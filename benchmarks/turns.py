"""Two processes that take turns, so that a noisy machine is as noisy for both.

A worker reads one JSON line a request and answers with one; the first answer says that it has compiled.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


class Worker:
    """A process running `python -m MODULE JSON`."""

    def __init__(self, python: str, module: str, task: dict[str, Any]):
        self.command = [python, "-m", module, json.dumps(task)]
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # on both sides
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            self.command, text=True, env=environment, stdin=pipe, stdout=pipe
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises RuntimeError where it has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{' '.join(self.command[:3])} ended with status {self.process.wait()}"
            )
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(
    steps: Callable[[int], None], batch: int, seconds: float, about: Callable[[], dict[str, Any]]
) -> None:
    """A worker's loop. steps: does so many and waits for them; a round is as many as take `seconds`, or one where that is 0.

    The answer to the first request holds what `about` measures besides.
    """
    count = 3 if seconds else 1

    def timed() -> float:
        then = time.perf_counter()
        steps(count)
        return time.perf_counter() - then

    for line in sys.stdin:
        if json.loads(line)["do"] == "warm":
            answer = {"compiled": timed()} | about()
            count = max(3, round(count * seconds / timed())) if seconds else 1
        else:
            if seconds:
                steps(1)  # the other's turn has cooled the caches
            answer = {"rate": count * batch / timed()}
        print(json.dumps(answer), flush=True)


def measure(
    sides: dict[str, tuple[str, str]], task: dict[str, Any], rounds: int
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """What each side (an interpreter and a module) says of its first request, and its rates in `rounds` turns."""
    workers = {name: Worker(*side, task) for name, side in sides.items()}
    try:
        warm = {name: worker.ask({"do": "warm"}) for name, worker in workers.items()}
        turns = [
            {name: worker.ask({"do": "round"})["rate"] for name, worker in workers.items()}
            for _ in range(rounds)
        ]
    finally:
        for worker in workers.values():
            worker.close()
    return warm, {name: [turn[name] for turn in turns] for name in sides}


def ratio(rates: dict[str, list[float]]) -> str:
    """Of ours to the peer's, turn by turn: above 1, ours is faster."""
    each = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
    return f"{statistics.median(each):5.2f} [{min(each):.2f}, {max(each):.2f}]"


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(values: list[float]) -> str:
    """The median, and the lowest and the highest."""
    return f"{statistics.median(values):8.1f} [{min(values):.1f}, {max(values):.1f}]"
