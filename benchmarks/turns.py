"""Two processes that take turns, so that a noisy machine is equally noisy for both.

A worker reads a JSON line for each request and answers with a JSON line; its first answer says
that it has compiled.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Answer = dict[str, Any]
MALLOC_SETTINGS = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # on both sides


class Worker:
    """A process running `python -m MODULE JSON`."""

    def __init__(self, python: str, module: str, task: Mapping[str, Any]):
        self.command = [python, "-m", module, json.dumps(task)]
        self.process = subprocess.Popen(
            self.command,
            text=True,
            env=os.environ | MALLOC_SETTINGS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, request: str) -> Answer:
        """The worker's answer to "warm" or "round"; RuntimeError where the worker has ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            command = " ".join(self.command[:3])
            raise RuntimeError(f"{command} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(
    run_steps: Callable[[int], None],
    batch: int,
    seconds: float,
    describe: Callable[[], Answer],
) -> None:
    """Answer requests from standard input until it ends: a worker's loop.

    Parameters
    ----------
    run_steps
        Runs a number of steps and waits for them.
    batch
        Images a step.
    seconds
        Length of a round, which is as many steps as take so long; 0 is a single step.
    describe
        Further entries of the first answer.
    """
    count = 3 if seconds else 1

    def time_steps() -> float:
        start = time.perf_counter()
        run_steps(count)
        return time.perf_counter() - start

    for line in sys.stdin:
        if json.loads(line)["do"] == "warm":
            answer = {"compiled": time_steps()} | describe()
            count = max(3, round(count * seconds / time_steps())) if seconds else 1
        else:
            if seconds:
                run_steps(1)  # the other process's turn has cooled the caches
            answer = {"rate": count * batch / time_steps()}
        print(json.dumps(answer), flush=True)


def measure(
    sides: Mapping[str, tuple[str, str]], task: Mapping[str, Any], rounds: int
) -> tuple[dict[str, Answer], dict[str, list[float]]]:
    """Let workers take turns.

    Parameters
    ----------
    sides
        Interpreter and module of each worker, by name.
    task
        What the workers are asked to do.
    rounds
        Turns of each worker.

    Returns
    -------
    tuple
        Each worker's first answer, and its rates in images a second.
    """
    workers = {name: Worker(*side, task) for name, side in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    try:
        warm = {name: worker.ask("warm") for name, worker in workers.items()}
        for _ in range(rounds):
            for name, worker in workers.items():
                rates[name].append(worker.ask("round")["rate"])
    finally:
        for worker in workers.values():
            worker.close()
    return warm, rates


def ratio(rates: Mapping[str, Sequence[float]]) -> str:
    """Ratios of our rates to the peer's, turn by turn: above 1, ours is faster."""
    ratios = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
    return f"{statistics.median(ratios):5.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def peak() -> float:
    """Peak of this process's resident memory, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(values: Sequence[float]) -> str:
    """The median, and the lowest and the highest."""
    return f"{statistics.median(values):8.1f} [{min(values):.1f}, {max(values):.1f}]"
