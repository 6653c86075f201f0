"""Where the time of a run goes: seconds by part, with compilation apart from what it is for.

Every second between the start and the end of a clock belongs to one part: the clock's own, that of
a clock that runs within it, or compilation, of which JAX itself tells. What another thread does
meanwhile takes no time of its own.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

import jax

COMPILING = "compiling"
OTHER = "other"
# As a table shows them.
PARTS = (
    "preparing data",
    "classifiers",
    COMPILING,
    "training",
    "sampling",
    "measuring",
    "report",
    OTHER,
)
COMPILE_EVENTS = "/jax/core/compile/"  # tracing, lowering, and XLA's own work

Seconds = Mapping[str, float]  # by part


class Clock:
    """Measures what passes from its start on.

    Parameters
    ----------
    part
        What the time belongs to.
    keep
        Writes the seconds so far, so that a killed process does not take them with it.
    outer
        The clock within which it runs.
    """

    def __init__(
        self,
        part: str,
        keep: Callable[[Seconds], object] | None = None,
        outer: "Clock | None" = None,
    ):
        self.part = part
        self.keep = keep
        self.outer = outer
        self._start = time.monotonic()
        self._within: Seconds = {}
        self._compiled: list[tuple[float, float]] = []  # start and end, none within another

    def seconds(self) -> dict[str, float]:
        """Seconds since the start by part; they add up to all that have passed."""
        return self.seconds_with({})

    def seconds_with(self, running: Seconds) -> dict[str, float]:
        """The same, with those of a clock that runs within this one and has not ended."""
        compiled = sum(end - start for start, end in self._compiled)
        parts = add(self._within, running, {COMPILING: compiled} if compiled else {})
        passed = time.monotonic() - self._start - sum(parts.values())
        return add(parts, {self.part: max(passed, 0.0)})

    def add_compilation(self, start: float, end: float) -> None:
        """Count a span of compilation; of what was compiled within it no second counts twice."""
        # JAX tells of a span when it ends, so that the spans within it came before.
        while self._compiled and self._compiled[-1][0] >= start:
            self._compiled.pop()
        self._compiled.append((start, end))

    def add_clock(self, clock: "Clock") -> None:
        """Count what a clock measured that ran within this one."""
        self._within = add(self._within, clock.seconds())


_running: ContextVar[Clock | None] = ContextVar("running", default=None)  # of each thread


@contextlib.contextmanager
def clock(part: str, keep: Callable[[Seconds], object] | None = None) -> Iterator[Clock]:
    """Measure a block; see `Clock`."""
    outer = _running.get()
    inner = Clock(part, keep, outer)
    token = _running.set(inner)
    try:
        yield inner
    finally:
        _running.reset(token)
        if outer is not None:
            outer.add_clock(inner)


def keep() -> None:
    """Write the seconds so far, of every running clock that can."""
    running = _running.get()
    within: Seconds = {}
    while running is not None:
        # An outer clock learns of an inner one when that one ends.
        seconds = running.seconds_with(within)
        if running.keep is not None:
            running.keep(seconds)
        within = seconds
        running = running.outer


def add(*several: Seconds) -> dict[str, float]:
    """The sums over several, by part."""
    total: Counter[str] = Counter()
    for seconds in several:
        for part, value in seconds.items():
            total[part] += value  # type: ignore[assignment]  # a Counter adds floats too
    return dict(total)


def _hear(event: str, start_time: float, end_time: float, **_: str | int) -> None:
    running = _running.get()
    if running is not None and event.startswith(COMPILE_EVENTS):
        running.add_compilation(start_time, end_time)


jax.monitoring.register_event_time_span_listener(_hear)
