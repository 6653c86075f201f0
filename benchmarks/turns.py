"""Processes that take turns, so that a noisy machine is equally noisy for all of them.

A worker reads a JSON line for each request and answers with a JSON line. "compile" prepares what
can be prepared beside other work, "warm" makes the first calls, "round" is a timed turn.
"""

import contextlib
import json
import os
import queue
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

Answer = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
MALLOC_SETTINGS = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # on both sides
CLOSE_SECONDS = 10.0  # that a worker has for ending by itself


class Worker:
    """A process running `python -m MODULE JSON`, in a process group of its own.

    Parameters
    ----------
    python
        The interpreter.
    module
        What it runs.
    task
        What the module is asked to do.
    environment
        Of the process; by default this one's.
    niceness
        By how much it stands back behind others.
    cores
        Those that it runs on, on Linux; by default all.
    errors
        File of its standard error; by default that of this process.
    """

    def __init__(
        self,
        python: str,
        module: str,
        task: Mapping[str, Any],
        *,
        environment: Mapping[str, str] = os.environ,
        niceness: int = 0,
        cores: Sequence[int] = (),
        errors: IO[str] | None = None,
    ):
        self.command = [python, "-m", module, json.dumps(task)]
        with pinned(cores):
            self.process = subprocess.Popen(
                ["nice", "-n", str(niceness), *self.command],
                text=True,
                cwd=ROOT,
                env={**environment, **MALLOC_SETTINGS},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                process_group=0,  # its own processes are stopped and ended with it
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                if line.startswith("{"):  # libraries print too
                    self._lines.put(line)
        self._lines.put("")

    def send(self, request: str) -> None:
        """Ask for something; `receive` waits for the answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `receive` says that it has ended
            self.process.stdin.write(json.dumps({"do": request}) + "\n")
            self.process.stdin.flush()

    def has_answered(self) -> bool:
        """Whether `receive` need not wait; true of a worker that has ended."""
        return not self._lines.empty()

    def receive(self, timeout: float | None = None) -> Answer:
        """The answer to the last request.

        Raises
        ------
        RuntimeError
            Where the worker has ended.
        TimeoutError
            Where there is no answer after so many seconds.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no answer after {timeout:.0f} s") from None
        if not line:
            command = " ".join(self.command[:3])
            raise RuntimeError(f"{command} ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, request: str, timeout: float | None = None) -> Answer:
        """Send a request and receive its answer."""
        self.send(request)
        return self.receive(timeout)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the process, by force where it does not end by itself."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self.process.stdin.close()
        end_process(self.process, seconds)
        self._reader.join(1.0)


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Let processes that begin meanwhile have these cores alone; all where there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def signal_process(process: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to a process that leads a group, and to its group."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def end_process(process: subprocess.Popen, seconds: float) -> None:
    """Wait for a process that leads a group; end the group where it takes longer."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        signal_process(process, signal.SIGKILL)
        process.wait()


def answer_requests(answers: Mapping[str, Callable[[], Answer]]) -> None:
    """Answer requests from standard input until it ends: a worker's loop."""
    for line in sys.stdin:
        answer = answers[json.loads(line)["do"]]()
        print(json.dumps(answer), flush=True)


def nothing() -> Answer:
    """The answer of a worker that has nothing to say."""
    return {}


def serve(
    run_calls: Callable[[int], None],
    images: int,
    seconds: float,
    describe: Callable[[], Answer] = nothing,
    prepare: Callable[[], Answer] = nothing,
) -> None:
    """Time a function whenever it is asked for: the loop of a worker that is measured.

    Parameters
    ----------
    run_calls
        Runs a number of calls and waits for them.
    images
        Images, or other units of work, of a call.
    seconds
        Length of a round, which is as many whole calls as take so long; 0 is a single call.
    describe
        Further entries of the answer to "warm".
    prepare
        What is done for "compile", beside what this process did before it served.
    """
    count = 1

    def time_calls() -> float:
        start = time.perf_counter()
        run_calls(count)
        return time.perf_counter() - start

    def warm() -> Answer:
        nonlocal count
        answer = {"compiled": time_calls()}
        if seconds:
            count = max(1, round(seconds / time_calls()))
        return answer | describe()

    def time_round() -> Answer:
        if seconds:
            run_calls(1)  # the other process's turn has cooled the caches
        return {"rate": count * images / time_calls()}

    answer_requests({"compile": prepare, "warm": warm, "round": time_round})


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
