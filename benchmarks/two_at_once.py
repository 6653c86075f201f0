"""Two networks that train at once, one a core, beside one that trains on both cores."""

import os
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.turns import Worker, ratio, spread

MODULE = "benchmarks.unet_jax"
COLUMNS = f"{'model':8} {'two at once, one a core':28} {'one on both cores':28} ratio"


def can_pin() -> bool:
    """Whether two processes can have a core each here."""
    return hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) >= 2


def measure_two_at_once(task: Mapping[str, Any], rounds: int) -> str:
    """Images a second of two trainings in all, of one training, and their ratio by turns.

    Each is a process of its own. One of the two has one core and so one device; the single one has
    both cores and splits its batch between two devices.

    Parameters
    ----------
    task
        What each worker is asked to do.
    rounds
        Turns of each side.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    sides = {"ours": [cores[:1], cores[1:]], "peer": [cores]}
    workers = {
        name: [Worker(sys.executable, MODULE, task, cores=chosen) for chosen in side]
        for name, side in sides.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for side in workers.values():
            for worker in side:
                worker.ask("warm")
        for _ in range(rounds):
            for name, side in workers.items():
                for worker in side:
                    worker.send("round")
                rates[name].append(sum(worker.receive()["rate"] for worker in side))
    finally:
        for side in workers.values():
            for worker in side:
                worker.close()
    return f"{spread(rates['ours']):28} {spread(rates['peer']):28} {ratio(rates)}"
