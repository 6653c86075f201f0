"""Files of a run, edited and damaged, for `experiments.report` and `experiments.sweep`."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.report import page
from tests.experiments.fuzz import npz_inputs
from tests.experiments.fuzz.boundary import Command, Input, Outcome
from tests.experiments.fuzz.config_inputs import BASE
from tests.experiments.fuzz.model_inputs import CONTENTS
from tests.report.small_results import make_losses, write_sets, write_study

CELL = "cells/2-s0"
SET = "sets/ours"
JSON_FILES = (
    "study.json",
    "shared/comparisons.json",
    "shared/confusion.json",
    f"{CELL}/config.json",
    f"{CELL}/probe.json",
    f"{CELL}/result.json",
    f"{CELL}/run.json",
    f"{CELL}/measures/share.json",
    f"{CELL}/measures/lpips.json",
)
SET_FILES = ("study.json", f"{SET}/result.json", f"{SET}/run.json", f"{SET}/measures/lpips.json")
# One of each type; an entry gets those of other types than its own.
VALUES = ("zz", -1, 1.5, float("nan"), 10**400, True, None, [], {}, [[]], [{}], ["zz", None])
OUTPUTS = ("report.html", "figures", "tables")
NULLABLE = ("value", "low", "high", "n", "bottleneck", "figure", "majority", "minority", "trained")
# What tells an estimate from others is printed as it stands.
FREE_LABELS = (
    "denoiser",
    "images",
    "levels",
    "memory",
    "note",
    "queries",
    "role",
    "share_form",
    "why",
)
GONE = 5  # every fifth entry is left out as well
RECORDS: tuple[Any, ...] = (
    {"outputs": 5},
    {"outputs": ["samples.npz"]},
    {"outputs": {"samples.npz": None}},
    {"outputs": {"samples.npz": 5}},
    {"outputs": {"samples.npz": "zz"}},
    {"outputs": {"gone.npz": "zz"}},
    {"outputs": {"../../../other": "zz"}},
    {"outputs": {"/etc/hostname": "zz"}},
    {"outputs": {"": "zz"}},
    {"inputs": "zz"},
)
METRICS: tuple[list[Any], ...] = (
    [{"step": 1, "loss": "x"}],
    [{"step": 1, "loss": None}],
    [{"step": 1, "loss": float("nan")}],
    [{"step": 1, "loss": 10**400}],
    [{"step": 1}],
    [{"loss": 1.0}],
    [{"step": 1.5, "loss": 1.0}],
    [{"step": "1", "loss": 1.0}],
    [{"step": True, "loss": 1.0}],
    [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 1.0}],
    [{"step": 1, "loss": 1.0}, {"step": 1, "loss": 1.0}],
    [{"step": 1, "loss": 1.0}, '{"step": 2, "lo'],
    [5],
    [[]],
    [None],
    ["[" * 100_000],
    ["x"],
    ['{"step": ' + "1" * 5000 + "}"],
)
# Arrays of npz_inputs that can be a cell's.
SAME_SHAPE = {"neighbors": ("five axes",)}
LABELS = {
    "floats": {"label": np.zeros(4), "common": np.zeros(4, int)},
    "text": {"label": np.array(list("abcd")), "common": np.zeros(4, int)},
    "too few": {"label": np.zeros(3, int), "common": np.zeros(4, int)},
    "two axes": {"label": np.zeros((4, 1), int), "common": np.zeros(4, int)},
    "a number": {"label": np.array(5), "common": np.zeros(4, int)},
}
LOSSES: dict[str, dict[str, Any]] = {
    "whole numbers": {"train": np.zeros((2, 8, 3), int)},
    "complex": {"train": np.zeros((2, 8, 3), complex)},
    "two axes": {"unseen": np.zeros((2, 8))},
    "a checkpoint more": {"unseen": np.zeros((3, 8, 3))},
    "a level less": {"unseen": np.zeros((2, 7, 3))},
    "steps of two axes": {"steps": np.zeros((2, 1), int)},
    "levels as text": {"t": np.array(list("abcdefgh"))},
    "an array more": {"more": np.zeros(3)},
}
Keys = tuple[str | int, ...]


def patch(monkeypatch: Any) -> None:
    """Leave out the figures, which take most of a report's time."""
    monkeypatch.setattr(page, "draw_svg", lambda workdir, name, draw: None)


def entries(value: Any, path: Keys = ()) -> Iterator[Keys]:
    """The places of all entries of a JSON value; of a list those of its first entry."""
    children: Any = ()
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list) and value:
        children = [(0, value[0])]
    for key, child in children:
        yield (*path, key)
        yield from entries(child, (*path, key))


def replaced(content: Any, path: Keys, value: Any) -> Any:
    """A JSON value with another entry at a place."""
    content = copy.deepcopy(content)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return content


def removed(content: Any, path: Keys) -> Any:
    """A JSON value without the entry at a place."""
    content = copy.deepcopy(content)
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return content


class Workdir:
    """A finished study or evaluation, one of whose files is changed for each input."""

    def __init__(self, folder: Path, command: Command, *flags: str):
        self.folder = folder
        self._command = command
        self._flags = flags

    def run(self, name: str, data: bytes | None) -> Outcome:
        """With other bytes of a file, or without it."""
        path = self.folder / name
        before = path.read_bytes() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True) if data is None else path.write_bytes(data)
        try:
            outcome = self._command.run(f"--workdir={self.folder}", *self._flags)
        finally:
            path.unlink(missing_ok=True) if before is None else path.write_bytes(before)
        written = [part for part in OUTPUTS if (self.folder / part).exists()]
        if outcome.status and written:
            outcome = Outcome(outcome.status, f"{written} left behind; {outcome.error}")
        for part in written:
            path = self.folder / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return outcome

    def input(self, name: str, title: str, data: bytes | None, **expected: Any) -> Input:
        """An input with other bytes of a file."""
        return Input(f"{name}: {title}", lambda: self.run(name, data), **expected)


def build(report: Command, sweep: Command, folder: Path) -> Iterator[Input]:
    """The inputs of the report, and those of a sweep that goes on."""
    study = Workdir(Path(write_study(folder / "study")), report)
    sets = Workdir(Path(write_sets(folder / "evaluation")), report)
    for workdir, names in ((study, JSON_FILES), (sets, SET_FILES)):
        for name in names:
            yield from _entries(workdir, name)
    for name in JSON_FILES:
        yield from _contents(study, name)
    yield from _metrics(study)
    yield from _arrays(study)
    for content in (*RECORDS, *CONTENTS.values()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        yield study.input(
            f"{CELL}/stages/sample.json", f"{data!r:.40}", data, names=("sample", "gone.npz")
        )
    yield from _begun(sweep, folder / "begun")


def _begun(sweep: Command, folder: Path) -> Iterator[Input]:
    """study.json of a study that goes on, as its record has it and without a record."""
    folder.mkdir()
    flags = (f"--config={BASE}", "--dry_run", "--config.measures.lpips=none")
    _, settings = sweep.run(*flags, f"--workdir={folder}").value
    (folder / "study.json").write_text(json.dumps(settings))
    begun = Workdir(folder, sweep, *flags)
    yield begun.input("study.json", "as it was", json.dumps(settings).encode(), is_right=bool)
    yield from _contents(begun, "study.json")
    for position, path in enumerate(entries(settings)):
        for value in (("zz",), ([[]],))[position % 2]:
            title = f"{'.'.join(map(str, path))} is {value!r}"
            data = json.dumps(replaced(settings, path, value)).encode()
            # What may grow, and what the study is measured by, may be anything of its type.
            may_be_right = (
                bool if path[0] in ("plugins", "measures", "parallel") or is_text(path) else None
            )
            yield begun.input("study.json", title, data, is_right=may_be_right, may_be_refused=True)


def is_text(path: Keys) -> bool:
    """Whether an entry is a text that a study may change, or a model that it may gain."""
    is_model = path[0] == "models" or path[:2] == ("planned", "models")
    return is_model or path[-1] in ("dir", "cache") or path[1:] == ("primary", 0)


def _contents(workdir: Workdir, name: str) -> Iterator[Input]:
    for title, data in CONTENTS.items():
        if title != "an empty object":
            yield workdir.input(name, title, data, names=(Path(name).name,))


def _metrics(workdir: Workdir) -> Iterator[Input]:
    name = f"{CELL}/metrics.jsonl"
    for lines in METRICS:
        data = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        yield workdir.input(name, f"{data:.60}", data.encode(), names=("metrics.jsonl",))
    yield workdir.input(name, "nothing", b"", is_right=lambda _: True)


def _arrays(workdir: Workdir) -> Iterator[Input]:
    for name, key in (("samples", "arr_0"), ("common", "arr_0"), ("neighbors", "images")):
        file = f"{CELL}/{name}.npz"
        # Of two sizes either may be the wrong one.
        names = (name, "common.npz must hold images like those of samples.npz")
        for title, arrays in npz_inputs.ARRAYS.items():
            if arrays and title not in SAME_SHAPE.get(name, ()):
                data = npz_inputs.to_npz(**{key: next(iter(arrays.values()))})
                yield workdir.input(file, title, data, names=names)
    for name in ("samples", "common", "neighbors", "classes", "losses"):
        file = f"{CELL}/{name}.npz"
        data = (workdir.folder / file).read_bytes()
        for length in (0, 10, len(data) // 2, len(data) - 1):
            yield workdir.input(file, f"cut at {length}", data[:length], names=(name,))
    for header in npz_inputs.HEADERS[:8]:
        data = npz_inputs.to_zip(npz_inputs.to_npy(header))
        yield workdir.input(f"{CELL}/samples.npz", header, data, names=("samples",))
    for title, arrays in LABELS.items():
        data = npz_inputs.to_npz(**arrays)
        yield workdir.input(f"{CELL}/classes.npz", title, data, names=("classes.npz",))
    for title, change in LOSSES.items():
        data = npz_inputs.to_npz(**make_losses(2) | change)
        yield workdir.input(f"{CELL}/losses.npz", title, data, names=("losses.npz",))


def _entries(workdir: Workdir, name: str) -> Iterator[Input]:
    content = json.loads((workdir.folder / name).read_bytes())
    rng = np.random.default_rng(0)
    for position, path in enumerate(entries(content)):
        if "measures/" in name and path[0] == "estimates":  # read in result.json
            continue
        entry = content
        for key in path:
            entry = entry[key]
        values = [value for value in VALUES if not is_alike(value, entry)]
        value = values[rng.integers(len(values))]
        data = json.dumps(replaced(content, path, value)).encode()
        title = f"{'.'.join(map(str, path))} is {value!r:.20}"
        is_free = value is None and path[-1] in NULLABLE
        is_free |= name.endswith("result.json") and path[-1] in FREE_LABELS and is_scalar(value)
        yield workdir.input(
            name, title, data, is_right=(lambda _: True) if is_free else None,
            may_be_refused=is_free, names=(Path(name).name,),
        )  # fmt: skip
        if position % GONE:
            continue
        data = json.dumps(removed(content, path)).encode()
        title = f"{'.'.join(map(str, path))} is gone"
        yield workdir.input(
            name, title, data, is_right=lambda _: True, may_be_refused=True,
            names=(Path(name).name,),
        )  # fmt: skip


def is_alike(value: Any, entry: Any) -> bool:
    """Whether a value is of an entry's type: any number that a float holds, for a float."""
    is_float = isinstance(entry, float) and isinstance(value, int | float)
    if is_float and not isinstance(value, bool) and abs(value) < 1e300:
        return True
    return type(value) is type(entry) and value not in ([[]], [{}], ["zz", None], 10**400)


def is_scalar(value: Any) -> bool:
    """Whether a value can stand in a table."""
    is_finite = not isinstance(value, int | float) or abs(value) < 1e300
    return not isinstance(value, list | dict) and is_finite
