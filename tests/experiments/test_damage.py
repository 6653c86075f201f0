"""A byte flipped in each file of a finished run: the sweep and the report notice all of them."""

import json
import os
import shutil

import numpy as np
import pytest
from etils import epath

from jaxdiff import files, report, results, timing
from jaxdiff.cells.data import DataPaths
from jaxdiff.datasets import prepare
from jaxdiff.measures.registry import load_measures
from jaxdiff.progress import no_progress
from jaxdiff.setting_fields import to_json
from jaxdiff.stage import NO_REDO, Redo, reserve_folder
from jaxdiff.study import grid, pairwise
from jaxdiff.study.config import fixed_settings
from jaxdiff.study.lock import lock
from jaxdiff.study.planned import planned_settings
from jaxdiff.study.stages import open_cell, run_cell
from tests.experiments.tiny_study import get_config

pytestmark = pytest.mark.slow

DRAWN = ("report.html", "figures/", "tables/")  # every report draws them anew
UNREAD_BY_REPORTS = ("checkpoints/", "shared/data/")  # large, and the sweep reads them
RECORDS = ("stages/", "checkpoints/2.json", "checkpoints/4.json", "checksums.json")
# A training that is run again has other speeds, and Orbax gives its files random names.
OF_TRAINING = ("checkpoints/4", "metrics.jsonl", "stages/train.json")


def sweep(workdir: epath.Path, redo: Redo = NO_REDO) -> None:
    """What experiments.sweep does before it draws, in this process."""
    config = get_config()
    config.data.n = (20,)
    config.train.steps = 4
    config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.sample.num = 4
    config.sample.common = 4
    config.sample.batch = 32
    config.classifier.steps = 2
    config.measures.k = (1,)
    config.measures.lpips = "none"
    for name in ("queries", "checkpoints", "probe"):
        config.measures[name] = 0
    prepare._verify_once.cache_clear()  # as in a new process
    (cell,) = grid.expand(config)
    study = workdir / "study.json"
    reserve_folder(
        study,
        planned_settings(to_json(config.to_dict()), [cell], study),
        fixed=fixed_settings,
    )
    with lock(workdir / "cells" / cell.name):
        context = open_cell(cell, workdir, DataPaths("", ""), no_progress, redo)
        run_cell(context, redo=redo)
    pairwise.run_comparisons(results.read_cells(workdir), workdir, cell.measures, redo=redo)
    results.read_study(workdir)


def read_files(workdir: epath.Path) -> dict[str, bytes]:
    """Every file of a run, by path."""
    paths = files.walk(workdir)
    return {path.relative_to(workdir).as_posix(): path.read_bytes() for path in paths}


def is_among(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def flip(data: bytes, where: float) -> bytes:
    """A copy with one bit changed; of an empty file a copy with a byte."""
    changed = bytearray(data or b"\0")
    changed[round(where * (len(changed) - 1))] ^= 0x01
    return bytes(changed)


def error_of(run, *arguments) -> str:
    """The sentence that a call ends in; empty where it succeeds."""
    try:
        run(*arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module", autouse=True)
def no_time_passes():
    """Files are compared, and no two runs take equally long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing.Clock, "seconds", lambda clock: {clock.part: 0.0})
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    load_measures()
    sweep(workdir)
    report.write(workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run."""
    return epath.Path(shutil.copytree(finished, tmp_path / "run"))


def has_same_outputs(path: epath.Path, data: bytes) -> bool:
    """Whether a record says the same of what a report reads as one of these bytes."""
    if path.parent.name != "stages" or error_of(files.read_json, path):
        return False
    before, after = (
        {n: digest for n, digest in outputs.items() if not is_among(n, UNREAD_BY_REPORTS)}
        for outputs in (json.loads(data)["outputs"], files.read_json(path).get("outputs", {}))
    )
    return before == after


def unnoticed_by_report(workdir: epath.Path, name: str, data: bytes) -> list[str]:
    """The flips of a file that `check_study` does not name."""
    unnoticed = []
    for where in np.linspace(0, 1, 5):
        (workdir / name).write_bytes(flip(data, where))
        sentence = error_of(results.check_study, workdir)
        assert not sentence or str(workdir) in sentence
        is_unread = is_among(name, UNREAD_BY_REPORTS) or has_same_outputs(workdir / name, data)
        if not sentence and not is_unread:
            unnoticed.append(f"report: {name} at {where}")
    (workdir / name).write_bytes(data)
    return unnoticed


def unnoticed_by_sweep(workdir: epath.Path, name: str, before: dict[str, bytes]) -> list[str]:
    """The flips of a file that a sweep neither names nor makes good."""
    unnoticed = []
    # The bytes of other files are not read but hashed, so that one stands for all.
    for where in (0.3, 0.9) if is_among(name, RECORDS) else (0.5,):
        changed = flip(before[name], where)
        (workdir / name).write_bytes(changed)
        sentence = error_of(sweep, workdir)
        assert not sentence or str(workdir) in sentence
        after = read_files(workdir)
        if not sentence and not is_made_good(name, before, after, changed):
            unnoticed.append(f"sweep: {name} at {where}")
        restore(workdir, before, after)
    return unnoticed


def is_made_good(
    name: str, before: dict[str, bytes], after: dict[str, bytes], changed: bytes
) -> bool:
    """Whether a file was written anew after its change, and all others are as before."""
    differing = {
        n
        for n in before.keys() | after.keys()
        if without_times(n, before.get(n)) != without_times(n, after.get(n))
    }
    if is_among(name, OF_TRAINING):
        return after.get(name) != changed and all(is_among(n, OF_TRAINING) for n in differing)
    # The record of settings has no inputs: nobody reads what it says of them.
    if differing == {name} and "stages/" in name and json.loads(before[name])["inputs"] == "":
        return json.loads(changed)["outputs"] == json.loads(before[name])["outputs"]
    return not differing


def without_times(name: str, data: bytes | None) -> bytes | dict | None:
    """A file without what it tells of time, which is no result."""
    if data is None or not is_among(name, ("stages/", "run.json")):
        return data
    try:
        content = json.loads(data)
    except ValueError:
        return data
    if name.endswith("stages/run.json"):
        return {}  # the digests of what tells the seconds
    if name.endswith("/run.json"):
        return {key: content[key] for key in ("device", "host", "versions")}
    return {key: content.get(key) for key in ("inputs", "outputs")}


def restore(workdir: epath.Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    for name in after.keys() - before.keys():
        (workdir / name).unlink()
    for name in before:
        if before[name] != after.get(name):
            files.write(workdir / name, before[name])


def test_every_changed_file_is_named_or_made_good(run):
    """By the report, which makes nothing; and by the sweep."""
    before = read_files(run)
    names = [name for name in sorted(before) if not is_among(name, DRAWN)]
    assert len(names) > 70
    # All of them take three minutes; JAXDIFF_FLIPS=1 flips them all.
    names = names[:: int(os.environ.get("JAXDIFF_FLIPS", "3"))]
    unnoticed = []
    for name in names:
        unnoticed += unnoticed_by_report(run, name, before[name])
        unnoticed += unnoticed_by_sweep(run, name, before)
    assert not unnoticed
    assert read_files(run) == before


def test_what_a_report_draws_is_drawn_again(run):
    before = read_files(run)
    drawn = [name for name in before if is_among(name, DRAWN)]
    assert len(drawn) > 3
    for name in drawn:
        (run / name).write_bytes(flip(before[name], 0.5))
    report.write(run)
    assert read_files(run) == before


def test_a_report_during_a_run_names_no_file_of_it(run, monkeypatch):
    """Whatever the sweep has written anew at the time."""
    before = read_files(run)
    write = files.write
    checked = []

    def write_and_check(path, data):
        write(path, data)
        results.check_study(run)
        checked.append(path)

    monkeypatch.setattr(files, "write", write_and_check)
    sweep(run, Redo(["all"]))
    assert len(checked) > 30
    after = read_files(run)
    assert after.keys() == before.keys()
    assert [
        name
        for name in before
        if without_times(name, after[name]) != without_times(name, before[name])
    ] == []
