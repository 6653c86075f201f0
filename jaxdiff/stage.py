"""Stages of a run: work from files to files that is skipped where it is done.

A stage is done when its record names the inputs that it would have now and its outputs still
have the bytes that it wrote, so running the same command again resumes.
"""

import fnmatch
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, parallel

Outputs = dict[str, str]  # path inside the folder -> SHA-256


class Redo:
    """The stages that are made again although they are done.

    Parameters
    ----------
    patterns
        Names of stages, or globs; "all" is every stage but training.
    """

    def __init__(self, patterns: Sequence[str] = ()):
        self.patterns = tuple(patterns)

    def matches(self, name: str) -> bool:
        """Whether a stage is to be made again."""
        if "all" in self.patterns and name != "train":
            return True
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.patterns)

    def check_all_matched(self, names: Sequence[str]) -> None:
        """Raise ValueError, listing the stages, for a pattern that matches none of them."""
        for pattern in self.patterns:
            if pattern != "all" and not fnmatch.filter(names, pattern):
                stages = ", ".join(sorted(names))
                raise ValueError(f"--redo {pattern} matches no stage; the stages are {stages}")


NO_REDO = Redo()


def run_stage(
    folder: epath.Path,
    name: str,
    inputs: Any,
    outputs: Sequence[str],
    make: Callable[[], object],
    *,
    all_processes: bool = False,
    redo: Redo = NO_REDO,
) -> Outputs:
    """Run `make` unless the stage is done.

    Parameters
    ----------
    folder
        Holds the outputs, and the record as stages/NAME.json.
    name
        Name of the stage.
    inputs
        All that the outputs depend on, as JSON holds it.
    outputs
        Files and folders that `make` writes, by their path in `folder`.
    make
        Does the work. Where several processes share the run the first one does it alone, unless
        `all_processes` take part.
    redo
        The stages that are made again.

    Returns
    -------
    checksums
        SHA-256 of every output file, which are the inputs of later stages.
    """
    record = folder / "stages" / f"{name}.json"
    fingerprint = files.fingerprint(inputs)
    done = not redo.matches(name) and _is_done(record, fingerprint, folder, outputs)
    if not parallel.broadcast(np.bool_(done)):
        if all_processes or parallel.is_leader():
            make()

        def write_record() -> None:
            checksums = files.checksums(folder, outputs)
            files.write_json(record, {"inputs": fingerprint, "outputs": checksums})

        parallel.on_leader(name, write_record)
    return files.read_json(record)["outputs"]


def _is_done(
    record: epath.Path, fingerprint: str, folder: epath.Path, outputs: Sequence[str]
) -> bool:
    if not record.exists():
        return False
    done = files.read_json(record)
    try:
        return done["inputs"] == fingerprint and files.checksums(folder, outputs) == done["outputs"]
    except OSError:  # an output is gone
        return False


def claim_folder(
    path: epath.Path,
    settings: Mapping[str, Any],
    fixed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    kind: str = "config",
) -> None:
    """Write the settings or the data that a folder is for.

    Parameters
    ----------
    path
        The JSON file of the settings.
    settings
        What the folder is to hold.
    fixed
        The part of the settings that must not change.
    kind
        What is named where it differs: config or data.

    Raises
    ------
    ValueError
        Where the folder was made with other settings, or cannot be written.
    """
    if path.exists():
        before = fixed(files.read_json(path))
        after = fixed(settings)
        if before != after:
            noun = "settings" if kind == "config" else kind
            raise ValueError(
                f"{path.parent} was made with other {noun} ({difference(before, after, kind)}); "
                "choose another --workdir or remove that folder"
            )
    try:
        if parallel.is_leader():
            files.write_json(path, settings)
    except OSError as error:
        raise ValueError(
            f"{path.parent} cannot be written ({error.strerror}); choose another --workdir"
        ) from None


def difference(before: Any, after: Any, key: str = "config") -> str:
    """The first key at which two JSON values differ, in words."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return difference(before.get(name), after.get(name), f"{key}.{name}")
    return f"{key} is {json.dumps(before)} there and {json.dumps(after)} here"
