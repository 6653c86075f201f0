"""The JSON of a run, written anew after every figure."""

import json
import math
import time
from typing import Any

from etils import epath

from jaxdiff import files


class Record:
    """Entries by part, kept in a file.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    entries
        What is recorded.
    """

    def __init__(self, path: epath.PathLike):
        self.entries: dict[str, Any] = {}
        self._path = path
        self._start = time.monotonic()

    def __call__(self, place: tuple[str, ...], entry: Any) -> None:
        """Put an entry in its place, and write the file."""
        folder = self.entries
        for name in place[:-1]:
            folder = folder.setdefault(name, {})
        folder[place[-1]] = _rounded(entry)
        self.entries["seconds"] = round(time.monotonic() - self._start, 1)
        files.write(self._path, json.dumps(self.entries, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    """The same with five digits a number, and text for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else str(value)
    return value
