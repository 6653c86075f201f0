"""Workers that compile side by side and are then measured in turns, one at a time.

Compiling takes minutes and a measurement seconds. So everything is started at once; as soon as all
workers of a job are ready, the processes of the other jobs are stopped, and its workers take turns
on a quiet machine.
"""

import contextlib
import dataclasses
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accelerator.plans import Figures, Plan, Side
from benchmarks.turns import Answer, Worker, signal_process

POLL_SECONDS = 0.1
MAX_NICENESS = 14  # what comes later stands back; the study has 15
MAX_MESSAGE = 300
NO_TIME = "no time was left"
Recorder = Callable[[tuple[str, ...], Any], None]  # of an entry in its place


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Starts workers.

    Parameters
    ----------
    python, peer_python
        Interpreters of our side and of the peer's.
    environment, peer_environment
        Of their processes.
    logs
        Folder of what they print.
    """

    python: str
    peer_python: str
    environment: Mapping[str, str]
    peer_environment: Mapping[str, str]
    logs: Path

    def start(self, side: Side, name: str, niceness: int) -> tuple[Worker, Path]:
        """Start a worker and ask it to compile; the worker, and the file of its errors."""
        environment = dict(self.peer_environment if side.is_peer else self.environment)
        if side.xla_flags:
            flags = f"{environment.get('XLA_FLAGS', '')} {side.xla_flags}"
            environment["XLA_FLAGS"] = flags.strip()
        log = self.logs / f"{name.replace('/', '_').replace(' ', '_')}.log"
        with log.open("w") as errors:
            worker = Worker(
                self.peer_python if side.is_peer else self.python,
                side.module,
                side.task,
                environment=environment,
                niceness=niceness,
                errors=errors,
            )
        worker.send("compile")
        return worker, log


class Job:
    """A plan whose workers have been started.

    Parameters
    ----------
    plan
        The plan.
    launcher
        Starts its workers.
    niceness
        By how much they stand back behind others.
    """

    def __init__(self, plan: Plan, launcher: Launcher, niceness: int):
        self.plan = plan
        self.figures = {name: Figures() for name in plan.sides}
        self.workers: dict[str, Worker] = {}
        self._logs: dict[str, Path] = {}
        self._start = time.monotonic()
        for name, side in plan.sides.items():
            started = launcher.start(side, "/".join((*plan.place, name)), niceness)
            self.workers[name], self._logs[name] = started

    def poll(self) -> None:
        """Take the answers of workers that have compiled."""
        for name in list(self.unready()):
            if self.workers[name].has_answered():
                self.figures[name].ready = time.monotonic() - self._start
                self.figures[name].compiled = self._receive(name, 1.0)

    def unready(self) -> list[str]:
        """Workers that are compiling."""
        return [name for name in self.workers if not self.figures[name].ready]

    def ready(self) -> list[str]:
        """Workers that have compiled and answer."""
        return [
            name for name, figures in self.figures.items() if figures.ready and not figures.missing
        ]

    def measure(self, end: float) -> Iterator[None]:
        """Let the workers take their turns; yields after each one of all workers."""
        for name in self.unready():
            self.figures[
                name
            ].missing = f"not compiled after {time.monotonic() - self._start:.0f} s"
            self.workers[name].close(0)
        if self.plan.is_timed and self.plan.turns:
            for name in self.ready():
                self.workers[name].send("warm")
                self.figures[name].warm = self._receive(name, end - time.monotonic())
        for _ in range(self.plan.turns):
            for name in self.ready():
                self._take_turn(name, end)
            yield
        if self.plan.pair and set(self.plan.pair) <= set(self.ready()):
            self._take_turn_together(self.plan.pair, end)
            yield

    def entry(self) -> Answer:
        """What is recorded now."""
        return self.plan.entry(self.figures)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close(0)

    def _take_turn(self, name: str, end: float) -> None:
        self.workers[name].send("round")
        answer = self._receive(name, end - time.monotonic())
        if answer:
            self.figures[name].rounds.append(answer)

    def _take_turn_together(self, pair: tuple[str, str], end: float) -> None:
        for name in pair:
            self.workers[name].send("round")
        for name in pair:
            answer = self._receive(name, end - time.monotonic())
            self.figures[name].together = answer.get("rate")

    def _receive(self, name: str, seconds: float) -> Answer:
        """A worker's answer; where none comes, nothing, and why is kept."""
        try:
            return self.workers[name].receive(max(seconds, 0.0))
        except TimeoutError as error:
            self.figures[name].missing = str(error)
        except RuntimeError as error:
            lines = self._logs[name].read_text(errors="replace").strip().splitlines()
            reason = lines[-1][:MAX_MESSAGE] if lines else str(error)
            self.figures[name].missing = f"failed: {reason}"
        return {}


@contextlib.contextmanager
def stopped(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Stop processes and their children for a while."""
    for process in processes:
        signal_process(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            signal_process(process, signal.SIGCONT)


class Queue:
    """Starts jobs in order and measures each when it is ready.

    Parameters
    ----------
    plans
        What is measured, the most important first.
    launcher
        Starts workers.
    end
        Time, by time.monotonic, at which all has to be done.
    at_once
        Workers that may compile at the same time; None is all.
    bystanders
        Processes that are stopped too while something is measured.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        launcher: Launcher,
        end: float,
        at_once: int | None = None,
        bystanders: Sequence[subprocess.Popen] = (),
    ):
        self._plans = list(plans)
        self._jobs: list[Job] = []
        self._launcher = launcher
        self._end = end
        self._at_once = at_once
        self._bystanders = list(bystanders)
        self._started = 0

    def run(self, record: Recorder) -> None:
        """Measure everything there is time for; every figure is recorded when it is there."""
        try:
            while (self._plans or self._jobs) and time.monotonic() < self._end:
                self._start_plans()
                job = self._choose()
                if job is None:
                    time.sleep(POLL_SECONDS)
                    continue
                self._jobs.remove(job)
                try:
                    self._measure(job, record)
                finally:
                    job.close()
            for plan in [*(job.plan for job in self._jobs), *self._plans]:
                record(("skipped", " ".join(plan.place)), NO_TIME)
        finally:
            for job in self._jobs:
                job.close()

    def _start_plans(self) -> None:
        while self._plans:
            compiling = sum(len(job.unready()) for job in self._jobs)
            following = compiling + len(self._plans[0].sides)
            if self._at_once and compiling and following > self._at_once:
                return
            plan = self._plans.pop(0)
            niceness = min(2 * self._started, MAX_NICENESS)
            self._jobs.append(Job(plan, self._launcher, niceness))
            self._started += 1

    def _choose(self) -> Job | None:
        """The first job that is ready, or that cannot wait any longer for what is not."""
        for job in self._jobs:
            job.poll()
        for job in self._jobs:
            if not job.unready():
                return job
        # What is left of the time is for those of which something is ready.
        partly_ready = [job for job in self._jobs if job.plan.turns and job.ready()]
        needed = sum(job.plan.duration for job in partly_ready)
        is_late = time.monotonic() + needed > self._end
        return partly_ready[0] if partly_ready and is_late else None

    def _measure(self, job: Job, record: Recorder) -> None:
        others = [worker.process for other in self._jobs for worker in other.workers.values()]
        with stopped([*others, *self._bystanders] if job.plan.turns else []):
            for _ in job.measure(self._end):
                record(job.plan.place, job.entry())
        record(job.plan.place, job.entry())
