"""Stages of a run: work from files to files that is skipped where it is done.

A stage is done when its record names the inputs that it would have now and its outputs still
have the bytes that it wrote, so running the same command again resumes.
"""

import contextlib
import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, parallel, precision, timing
from jaxdiff.records import (
    check_records,
    read_record,
    read_seconds,
    remove_record,
    write_record,
)

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
    is_measured: bool = True,
    part: str = "measuring",
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
    is_measured
        Whether the outputs are measurements, whose float32 products are exact: all but what
        training and sampling make.
    part
        What the stage's time is counted as, but for compilation (see `jaxdiff.timing`).
    redo
        The stages that are made again.

    Returns
    -------
    checksums
        SHA-256 of every output file, which are the inputs of later stages.
    """
    if is_measured:
        inputs = {"inputs": inputs, "precision": precision.MEASURED}
    fingerprint = files.fingerprint(inputs)
    done = not redo.matches(name) and _is_done(folder, name, fingerprint, outputs)
    if not parallel.broadcast(np.bool_(done)):
        with _timed(folder, name, part) as seconds:
            if all_processes or parallel.is_leader():
                with precision.measuring() if is_measured else contextlib.nullcontext():
                    make()
        parallel.on_leader(name, lambda: write_record(folder, name, outputs, fingerprint, seconds))
    return read_record(folder, name)["outputs"]


@contextlib.contextmanager
def _timed(folder: epath.Path, name: str, part: str) -> Iterator[dict[str, float]]:
    """Begin a stage and measure it; the seconds are known after the block.

    Until the stage is done it has no record, or one that names no outputs and holds what was
    spent so far, by earlier processes too, to which the next one adds.
    """
    is_unfinished = not read_record(folder, name).get("outputs")
    earlier = read_seconds(folder, name) if is_unfinished else {}
    total: dict[str, float] = {}

    def keep(seconds: timing.Seconds) -> None:
        # Where the disk is full, the work itself says so.
        with contextlib.suppress(OSError):
            if parallel.is_leader():
                write_record(folder, name, (), seconds=timing.add(earlier, seconds))

    parallel.on_leader(
        f"begin {name}", lambda: keep({}) if earlier else remove_record(folder, name)
    )
    with timing.clock(part, keep) as clock:
        try:
            yield total
        except BaseException:
            timing.keep()
            raise
    total.update(timing.add(earlier, clock.seconds()))


def _is_done(folder: epath.Path, name: str, fingerprint: str, outputs: Sequence[str]) -> bool:
    record = read_record(folder, name)
    try:
        same_inputs = record.get("inputs") == fingerprint
        return same_inputs and files.checksums(folder, outputs) == record.get("outputs")
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
        Where the folder was made with other settings, they were changed by hand, or it cannot be
        written.
    """
    if path.exists():
        check_records(path.parent, [path.stem])
    check_settings(path, settings, fixed, kind)
    try:
        if parallel.is_leader():
            _write_claim(path, settings)
    except OSError as error:
        raise ValueError(
            f"{path.parent} cannot be written ({error.strerror}); choose another --workdir"
        ) from None


def _write_claim(path: epath.Path, settings: Mapping[str, Any]) -> None:
    """Write the settings and their record, where they are not there yet."""
    recorded = read_record(path.parent, path.stem).get("outputs")
    is_recorded = path.exists() and recorded == files.checksums(path.parent, [path.name])
    if is_recorded and files.read_json(path) == settings:
        return
    remove_record(path.parent, path.stem)
    files.write_json(path, settings)
    write_record(path.parent, path.stem, [path.name])


def check_settings(
    path: epath.Path,
    settings: Mapping[str, Any],
    fixed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    kind: str = "config",
) -> None:
    """Raise ValueError where a folder was made with other settings; see `claim_folder`."""
    if not path.exists():
        return
    before = fixed(files.read_json(path))
    after = fixed(settings)
    if before != after:
        noun = "settings" if kind == "config" else kind
        raise ValueError(
            f"{path.parent} was made with other {noun} ({difference(before, after, kind)}); "
            "choose another --workdir or remove that folder"
        )


def difference(before: Any, after: Any, key: str = "config") -> str:
    """The first key at which two JSON values differ, in words."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return difference(before.get(name), after.get(name), f"{key}.{name}")
    return f"{key} is {json.dumps(before)} there and {json.dumps(after)} here"
