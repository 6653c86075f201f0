"""Stages of a run: work from files to files that is skipped where it is done.

A stage is done when its record names the inputs that it would have now and its outputs still
have the bytes that it wrote, so running the same command again resumes.
"""

import contextlib
import dataclasses
import fnmatch
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxdiff import files, parallel, precision, timing
from jaxdiff.records import (
    check_records,
    is_written_since,
    read_record,
    read_seconds,
    remove_record,
    write_record,
)

Outputs = dict[str, str]  # path inside the folder -> SHA-256


class Redo:
    """The stages that are made again although they are done.

    Each is made again once: what was made since this object was, by this process for another cell
    or by another process that shares the folder, is not made once more.

    Parameters
    ----------
    patterns
        Names of stages, or globs; "all" is every stage but training.
    """

    def __init__(self, patterns: Sequence[str] = ()):
        self.patterns = tuple(patterns)
        self.begun = time.time()

    def matches(self, name: str) -> bool:
        """Whether a name is among those of the stages that are made again."""
        if "all" in self.patterns and name != "train":
            return True
        return any(fnmatch.fnmatch(name, pattern) for pattern in self.patterns)

    def asks_for(self, folder: epath.Path, name: str) -> bool:
        """Whether a stage of this folder is still to be made again."""
        return self.matches(name) and not is_written_since(folder, name, self.begun)

    def check_all_matched(self, names: Sequence[str]) -> None:
        """Raise ValueError, listing the stages, for a pattern that matches none of them."""
        for pattern in self.patterns:
            if pattern != "all" and not fnmatch.filter(names, pattern):
                stages = ", ".join(sorted(names))
                raise ValueError(f"--redo {pattern} matches no stage; the stages are {stages}")


NO_REDO = Redo()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Parameters
    ----------
    folder
        Holds the outputs, and the record as stages/NAME.json.
    name
        Name of the stage.
    inputs
        All that the outputs depend on, as JSON holds it.
    outputs
        Files and folders that it writes, by their path in `folder`.
    is_measured
        Whether the outputs are measurements, whose float32 products are exact: all but what
        training and sampling make.
    part
        What the stage's time is counted as, except compilation (see `jaxdiff.timing`).
    redo
        The stages that are made again.
    """

    folder: epath.Path
    name: str
    inputs: Any
    outputs: Sequence[str]
    is_measured: bool = True
    part: str = "measuring"
    redo: Redo = NO_REDO

    @property
    def fingerprint(self) -> str:
        """Digest of the inputs, and of the precision of what is measured."""
        inputs = self.inputs
        if self.is_measured:
            inputs = {"inputs": inputs, "precision": precision.MEASURED}
        return files.fingerprint(inputs)

    def is_done(self) -> bool:
        """Whether the outputs are there, of these inputs; the same answer in every process."""
        done = not self.redo.asks_for(self.folder, self.name) and self._is_recorded()
        return bool(parallel.broadcast(np.bool_(done)))

    def _is_recorded(self) -> bool:
        record = read_record(self.folder, self.name)
        try:
            same_inputs = record.get("inputs") == self.fingerprint
            return same_inputs and files.checksums(self.folder, self.outputs) == record["outputs"]
        except OSError:  # an output is gone
            return False

    @contextlib.contextmanager
    def making(self) -> Iterator[timing.Seconds]:
        """Invalidate the record and time a block, at whose end the yielded dict has its seconds.

        Until the stage is done it has no record, or one that names no outputs and holds what was
        spent so far, by earlier processes too, to which the next one adds.
        """
        is_unfinished = not read_record(self.folder, self.name).get("outputs")
        earlier = read_seconds(self.folder, self.name) if is_unfinished else {}
        total: dict[str, float] = {}

        def keep(seconds: timing.Seconds) -> None:
            # Where the disk is full, the work itself says so.
            with contextlib.suppress(OSError):
                if parallel.is_leader():
                    spent = timing.add(earlier, seconds)
                    write_record(self.folder, self.name, (), seconds=spent)

        def begin() -> None:
            if earlier:
                keep({})
            else:
                remove_record(self.folder, self.name)

        parallel.on_leader(f"begin {self.name}", begin)
        with timing.clock(self.part, keep) as clock:
            try:
                yield total
            except BaseException:
                timing.keep()
                raise
        total.update(timing.add(earlier, clock.seconds()))

    def finish(self, seconds: timing.Seconds) -> None:
        """Record that the outputs are those of the inputs, and what making them took."""

        def write() -> None:
            write_record(self.folder, self.name, self.outputs, self.fingerprint, seconds)

        parallel.on_leader(self.name, write)

    def checksums(self) -> Outputs:
        """SHA-256 of every output file of a stage that is done: the inputs of later stages."""
        record = read_record(self.folder, self.name)
        # Another host of a shared disk may see what the leader has written some seconds later.
        deadline = time.monotonic() + parallel.SHARED_SECONDS
        while record.get("inputs") != self.fingerprint and time.monotonic() < deadline:
            if parallel.is_leader():
                break
            time.sleep(1)
            record = read_record(self.folder, self.name)
        return record["outputs"]

    def run(self, make: Callable[[], object], all_processes: bool = False) -> Outputs:
        """Call `make`, which writes the outputs, unless the stage is done.

        Parameters
        ----------
        make
            Does the work.
        all_processes
            Whether all processes that share the run take part; otherwise the first does it alone.
        """
        if not self.is_done():
            with self.making() as seconds:
                if all_processes or parallel.is_leader():
                    with precision.measuring() if self.is_measured else contextlib.nullcontext():
                        make()
            self.finish(seconds)
        return self.checksums()


def run_stage(
    folder: epath.Path,
    name: str,
    inputs: Any,
    outputs: Sequence[str],
    make: Callable[[], object],
    *,
    part: str = "measuring",
    redo: Redo = NO_REDO,
) -> Outputs:
    """Make what is measured, in the first process, unless it is done (see `Stage`).

    Returns
    -------
    checksums
        SHA-256 of every output file, which are the inputs of later stages.
    """
    return Stage(folder, name, inputs, outputs, part=part, redo=redo).run(make)


def reserve_folder(
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
            _write_settings(path, settings)
    except OSError as error:
        raise ValueError(
            f"{path.parent} cannot be written ({error.strerror}); choose another --workdir"
        ) from None


def _write_settings(path: epath.Path, settings: Mapping[str, Any]) -> None:
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
    """Raise ValueError where a folder was made with other settings; see `reserve_folder`."""
    if not path.exists():
        return
    before = fixed(files.read_json(path))
    after = fixed(settings)
    if before != after:
        noun = "settings" if kind == "config" else kind
        raise ValueError(
            f"{path.parent} was made with other {noun} ({files.difference(before, after, kind)}); "
            "choose another --workdir or remove that folder"
        )
