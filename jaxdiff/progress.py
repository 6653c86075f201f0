"""How long-running functions report progress to their caller."""

from collections.abc import Callable

# Called with the task's name, the units done, the units in all, and a short note such as the loss.
Progress = Callable[[str, int, int, str], None]


def no_progress(task: str, done: int, total: int, note: str) -> None:
    """Report nothing."""
