"""What is measured: sides that are compared, and the figures they answer with."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.turns import Answer

OVERHEAD = 1.5  # seconds of a worker beside its turns: its first calls, and cooled caches


@dataclasses.dataclass(frozen=True)
class Side:
    """A worker to be.

    Parameters
    ----------
    module
        What it runs.
    task
        What the module is asked to do.
    is_peer
        Whether it runs PyTorch, in the peer's interpreter.
    xla_flags
        Further flags of XLA.
    """

    module: str
    task: Mapping[str, Any]
    is_peer: bool = False
    xla_flags: str = ""


@dataclasses.dataclass
class Figures:
    """What a worker has answered, or why it has not.

    Attributes
    ----------
    ready
        Seconds from the start until it had compiled.
    compiled, warm, rounds
        Its answers.
    together
        Units of work a second beside another worker.
    missing
        Why there are no more.
    """

    ready: float = 0.0
    compiled: Answer = dataclasses.field(default_factory=dict)
    warm: Answer = dataclasses.field(default_factory=dict)
    rounds: list[Answer] = dataclasses.field(default_factory=list)
    together: float | None = None
    missing: str = ""

    @property
    def rates(self) -> list[float]:
        """Units of work a second, by turn."""
        return [answer["rate"] for answer in self.rounds]

    @property
    def rate(self) -> float:
        """Their median."""
        return statistics.median(self.rates)


Entry = Callable[[Mapping[str, Figures]], Answer]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Workers that are compared with each other, and what is recorded of them.

    Parameters
    ----------
    place
        Where the entry is in the JSON: a part, and a name where it has several.
    sides
        The workers by name.
    entry
        Makes the entry of their figures.
    turns
        Of each worker; 0 for workers that are asked once and compute beside the others.
    seconds
        Length of a turn.
    is_timed
        Whether workers have first calls, which are not timed.
    pair
        Two workers that also take a turn at the same time.
    """

    place: tuple[str, ...]
    sides: Mapping[str, Side]
    entry: Entry
    turns: int = 0
    seconds: float = 0.0
    is_timed: bool = True
    pair: tuple[str, str] | None = None

    @property
    def duration(self) -> float:
        """Seconds that it keeps the machine for itself, roughly."""
        if not self.turns:
            return 0.0
        return len(self.sides) * (self.turns * self.seconds + OVERHEAD)
