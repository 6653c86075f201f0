"""Files of a run that were edited or damaged: the report names each of them."""

import json

import numpy as np
import pytest
from etils import epath

from jaxdiff import files, results
from jaxdiff.records import check_records, write_record
from tests.report.small_results import make_losses, write_study

CELL = "cells/2-s0"
FILES = (
    "study.json",
    "shared/comparisons.json",
    "shared/confusion.json",
    f"{CELL}/classes.npz",
    f"{CELL}/common.npz",
    f"{CELL}/config.json",
    f"{CELL}/losses.npz",
    f"{CELL}/measures/lpips.json",
    f"{CELL}/metrics.jsonl",
    f"{CELL}/neighbors.npz",
    f"{CELL}/probe.json",
    f"{CELL}/result.json",
    f"{CELL}/run.json",
    f"{CELL}/samples.npz",
)
LOSSES = make_losses(2)
CHANGES = 16  # bytes of each file that are changed, one at a time


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small study without records, as older code left it."""
    return write_study(tmp_path_factory.mktemp("study"))


def changed_bytes(data: bytes):
    """Copies of a file: a byte flipped at many places, its first half, and nothing."""
    for position in np.linspace(0, len(data) - 1, CHANGES).astype(int):
        for flip in (0x01, 0xFF):
            changed = bytearray(data)
            changed[position] ^= flip
            yield bytes(changed)
    yield data[: len(data) // 2]
    yield b""


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_without_a_record_is_read_or_named(study, name):
    path = epath.Path(study) / name
    data = path.read_bytes()
    errors = []
    try:
        for changed in changed_bytes(data):
            path.write_bytes(changed)
            try:
                results.collect_sections(results.read_study(study).results)
            except ValueError as error:
                errors.append(str(error))
    finally:
        path.write_bytes(data)
    assert errors
    # The name of a section that was changed has no description of its own.
    assert all(path.stem in error or "must describe" in error for error in errors)
    results.read_study(study)


@pytest.mark.parametrize("name", FILES)
def test_every_changed_digit_of_a_recorded_file_is_named(tmp_path, name):
    workdir = write_study(tmp_path)
    folder = workdir / CELL
    write_record(workdir, "study", ["study.json"])
    write_record(workdir / "shared", "comparisons", ["comparisons.json", "confusion.json"])
    write_record(folder, "cell", [path.name for path in folder.iterdir() if path.name != "stages"])
    results.read_study(workdir)
    path = workdir / name
    data = path.read_bytes()
    for changed in changed_bytes(data):
        path.write_bytes(changed)
        with pytest.raises(
            ValueError, match=f"{path.name} was changed after .* run the command that"
        ):
            results.read_study(workdir)
    path.unlink()
    if path.name == "result.json":  # the cell is not finished
        assert [cell.name for cell in results.read_study(workdir).cells] == ["3-s0"]
        return
    with pytest.raises(ValueError, match=f"{path.name} is gone"):
        results.read_study(workdir)


def set_entry(value, *keys):
    """Replaces one entry of a JSON file."""

    def change(content):
        entry = content
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("study.json", set_entry(5, "data"), "data in .*study.json must be an object, got 5"),
        ("study.json", set_entry([], "name"), "name in .*study.json must be .*str.*, got "),
        (f"{CELL}/run.json", set_entry("1", "seconds"), "seconds in .*run.json must be "),
        (f"{CELL}/config.json", set_entry(2.5, "train", "steps"), "steps in .*config.json"),
        (f"{CELL}/result.json", set_entry("x", "cell", "depth"), "result.json .*depth is 'x'"),
        (f"{CELL}/result.json", set_entry(7, "cell"), "result.json must say what was measured"),
        (f"{CELL}/result.json", set_entry("x", "lpips", 0, "value"), "value in .*result.json"),
        (
            f"{CELL}/result.json",
            set_entry(3, "lpips"),
            "lpips in .* must be a list of objects",
        ),
        (f"{CELL}/probe.json", set_entry(3, "rows"), "rows in .*probe.json must be "),
        ("shared/comparisons.json", set_entry([3], "flips"), "flips in .*comparisons.json"),
        ("shared/confusion.json", set_entry("x", "gate", "held_out"), "held_out in .*confusion"),
        ("study.json", set_entry([0.5], "data", "proportions"), "proportions in .*study.json"),
        ("study.json", set_entry({"primary": ["2"]}, "planned"), "primary in .*study.json"),
        ("study.json", set_entry(10**400, "sample", "steps"), "steps in .*study.json"),
        (
            f"{CELL}/run.json",
            set_entry(10**400, "seconds"),
            "seconds in .*run.json .*0{40}\\.\\.\\.",
        ),
        (f"{CELL}/result.json", set_entry([1.0], "cell", "proportions"), "the shares of its two"),
        (f"{CELL}/result.json", set_entry([9, -8], "cell", "proportions"), "the shares of its two"),
        (f"{CELL}/result.json", set_entry([1], "neighbors", 0, "k"), "k in .*result.json"),
        (f"{CELL}/result.json", set_entry("1", "checkpoints", 0, "step"), "step in .*result.json"),
        (f"{CELL}/result.json", set_entry([1], "share", 0, "share_form"), "share_form in .*result"),
        (f"{CELL}/result.json", set_entry("1", "schema"), "schema in .*result.json"),
        (f"{CELL}/probe.json", set_entry("x", "rows", 0, "t"), "t in .*probe.json"),
        (f"{CELL}/probe.json", set_entry([0.1], "rows", 0, "errors"), "row 1 of .* as many errors"),
        (f"{CELL}/measures/lpips.json", set_entry(3, "figure"), "figure in .*lpips.json"),
        (f"{CELL}/measures/lpips.json", set_entry(3, "figure", "label"), "label in .*lpips.json"),
        ("shared/comparisons.json", set_entry("1", "flips", 0, "n"), "n in .*comparisons.json"),
        ("shared/comparisons.json", set_entry("x", "flips", 0, "bank"), "bank in .*comparisons"),
        ("shared/comparisons.json", set_entry("x", "similarity", 0, "low"), "low in .*comparisons"),
        ("shared/comparisons.json", set_entry(1, "bias_variance", 0, "model"), "model in .*compar"),
    ],
)
def test_an_entry_of_another_type_is_named(tmp_path, name, change, sentence):
    workdir = write_study(tmp_path)
    content = files.read_json(workdir / name)
    change(content)
    files.write_json(workdir / name, content)
    with pytest.raises(ValueError, match=sentence):
        results.read_study(workdir)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("study.json", ("data",)),
        ("study.json", ("data", "size")),
        ("study.json", ("diffusion",)),
        ("study.json", ("sample", "clip")),
        (f"{CELL}/config.json", ("train", "steps")),
        (f"{CELL}/run.json", ("seconds",)),
        (f"{CELL}/result.json", ("lpips", 0, "low")),
        (f"{CELL}/result.json", ("neighbors", 0, "space")),
        (f"{CELL}/probe.json", ("rows", 0, "values")),
        (f"{CELL}/measures/lpips.json", ("figure", "label")),
        ("shared/comparisons.json", ("flips", 0, "a")),
        ("shared/comparisons.json", ("flips", 0, "selections", 0, "n")),
        ("shared/comparisons.json", ("similarity", 0, "pairing")),
    ],
)
def test_an_entry_that_is_gone_is_named(tmp_path, name, keys):
    workdir = write_study(tmp_path)
    content = files.read_json(workdir / name)
    entry = content
    for key in keys[:-1]:
        entry = entry[key]
    del entry[keys[-1]]
    files.write_json(workdir / name, content)
    with pytest.raises(ValueError, match=rf"{name} must have '{keys[-1]}', and it is gone"):
        results.read_study(workdir)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([{"step": 10, "loss": 0.5}, {"step": 20, "loss": "x"}], "line 2 of .*metrics.jsonl"),
        ([{"step": 10}], "line 1 of .*metrics.jsonl must hold a step and numbers"),
        ([{"loss": 0.5}], "line 1 of .*metrics.jsonl must hold a step and numbers"),
        ([{"step": 10, "loss": float("nan")}], "line 1 of "),
        (
            [{"step": 20, "loss": 1}, {"step": 10, "loss": 1}],
            "the steps in .*metrics.jsonl must grow",
        ),
        ([3], "line 1 of "),
    ],
)
def test_metrics_are_numbers_at_growing_steps(tmp_path, lines, sentence):
    workdir = write_study(tmp_path)
    files.write(workdir / CELL / "metrics.jsonl", "\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=sentence):
        results.read_study(workdir)


@pytest.mark.parametrize(
    ("name", "arrays", "sentence"),
    [
        ("samples", {"arr_0": np.zeros((4, 8, 8, 1))}, "must hold images .uint8, 4 axes, the"),
        ("samples", {"arr_0": np.zeros((4, 8, 0, 1), np.uint8)}, "the last of 1 or 3"),
        ("samples", {"arr_0": np.zeros((4, 8, 8, 2), np.uint8)}, "the last of 1 or 3"),
        ("samples", {"images": np.zeros(3)}, "under arr_0, got none"),
        ("classes", {"label": np.zeros(3, int)}, "a class for each of 4 samples"),
        ("neighbors", {"images": np.zeros((4, 8), np.uint8)}, "uint8, 5 axes"),
        ("losses", {"train": np.zeros(3)}, "must hold steps, t, train, unseen"),
        ("losses", LOSSES | {"train": np.zeros((2, 8, 3), int)}, "must hold steps, t, train, unse"),
        ("losses", LOSSES | {"unseen": np.zeros((3, 8, 3))}, "must hold steps, t, train, unseen"),
        ("losses", LOSSES | {"t": np.arange(8.0)}, "must hold steps, t, train, unseen"),
        ("classes", {"label": np.zeros(4), "common": np.zeros(4, int)}, "a class for each of 4"),
        ("common", {"arr_0": np.zeros((4, 9, 9, 1), np.uint8)}, "like those of samples"),
        ("neighbors", {"images": np.zeros((4, 1, 8, 8, 3), np.uint8)}, "like those of sam"),
    ],
)
def test_arrays_of_another_form_are_named(tmp_path, name, arrays, sentence):
    workdir = write_study(tmp_path)
    results.write_npz(workdir / CELL / f"{name}.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        results.read_study(workdir)


def test_checkpoints_may_be_left_behind_and_an_older_record_is_of_no_account(tmp_path):
    folder = epath.Path(tmp_path)
    files.write(folder / "checkpoints" / "40" / "weights", "w")
    files.write(folder / "out.json", "old")
    write_record(folder, "old_name", ["out.json", "checkpoints/40"])
    files.write(folder / "out.json", "new")
    write_record(folder, "new_name", ["out.json"])
    (folder / "checkpoints").rmtree()
    check_records(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"outputs": {"a": 1}}',
        '{"outputs": {"": "0"}}',
        '{"outputs": {"../a": "0"}}',
        '{"outputs": {"/etc/hostname": "0"}}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, text):
    files.write(epath.Path(tmp_path) / "stages" / "sample.json", text)
    with pytest.raises(ValueError, match=r"sample\.json"):
        check_records(epath.Path(tmp_path))
