"""Results in one small file: what is drawn from it, and what it leaves out."""

import dataclasses
import json
import re
import shutil
import tarfile

import numpy as np
import pytest

from jaxdiff import files, report, results
from jaxdiff.report import figures
from jaxdiff.results_archive import add_to_archive
from tests.report.small_results import SHARE, make_info, write_sets, write_study


def unpack(archive, folder):
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder


def read_tables(workdir):
    return {path.name: path.read_text() for path in (workdir / "tables").iterdir()}


def numbers_in(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


@pytest.mark.parametrize("write", [write_study, write_sets])
def test_an_archive_has_the_tables_and_figures_of_the_study(write, tmp_path):
    workdir = write(tmp_path / "study")
    page = report.write(workdir).read_text()
    assert add_to_archive(workdir, tmp_path / "results.tar.xz") == 2
    again = unpack(tmp_path / "results.tar.xz", tmp_path / "again")
    assert report.write(again).read_text() == page
    tables, expected = read_tables(again), read_tables(workdir)
    # The means of losses are rounded to float32.
    rounded = [numbers_in(table.pop("held_out_loss.csv", "")) for table in (tables, expected)]
    assert tables == expected
    assert rounded[0] == pytest.approx(rounded[1], rel=1e-6)


def test_an_archive_has_the_images_of_the_grids():
    assert results.NUM_ARCHIVED >= figures.MAX_COLUMNS


def test_an_archive_keeps_the_first_images_and_every_class(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "NUM_ARCHIVED", 2)
    workdir = write_study(tmp_path / "study")
    (workdir / "cells/2-s0/checkpoints").mkdir()
    (workdir / "cells/2-s0/checkpoints/weights").write_bytes(b"large")
    page = report.write(workdir).read_text()
    add_to_archive(workdir, tmp_path / "results.tar.xz")
    again = unpack(tmp_path / "results.tar.xz", tmp_path / "again")
    assert not (again / "cells/2-s0/checkpoints").exists()
    (whole, _), (cut, _) = results.read_cells(workdir), results.read_cells(again)
    np.testing.assert_array_equal(cut.samples, whole.samples[:2])
    np.testing.assert_array_equal(cut.common, whole.common[:2])
    np.testing.assert_array_equal(cut.nearest, whole.nearest[:2])
    np.testing.assert_array_equal(cut.labels, whole.labels)
    counted = "2 models with 4 samples each"
    assert counted in page
    assert counted in report.write(again).read_text()


def test_an_archive_does_not_name_the_machine(tmp_path):
    workdir = write_study(tmp_path / "study")
    study = files.read_json(workdir / "study.json")
    study["data"] |= {"dir": "/home/me/mnist", "cache": "/home/me/cache"}
    study["measures"] = {"weights_dir": "/home/me/weights", "inception": "/home/me/weights.npz"}
    files.write_json(workdir / "study.json", study)
    config = {"train": {"steps": 20}, "measures": study["measures"]}
    files.write_json(workdir / "cells/2-s0/config.json", config)
    run = files.read_json(workdir / "cells/2-s0/run.json")
    files.write_json(workdir / "cells/2-s0/run.json", run | {"host": "my-laptop"})
    add_to_archive(workdir, tmp_path / "results.tar.xz")
    again = unpack(tmp_path / "results.tar.xz", tmp_path / "again")
    texts = [path.read_bytes() for path in again.rglob("*.json")]
    assert len(texts) > 10
    assert not any(word in text for text in texts for word in (b"/home", b"my-laptop"))
    assert files.read_json(again / "cells/2-s0/run.json") == {**run, "host": ""}


def write_part(whole, folder, model, gate):
    """What is left of a study on a machine that has one cell of it, with a gate of its own."""
    shutil.copytree(whole, folder)
    for other in ("2-s0", "3-s0"):
        if other != f"{model}-s0":
            shutil.rmtree(folder / "cells" / other)
    path = folder / f"cells/{model}-s0/result.json"
    result = files.read_json(path)
    result["quality"][0] |= {"value": gate, "low": gate, "high": gate}
    files.write_json(path, result)
    comparisons = files.read_json(folder / "shared/comparisons.json")
    for row in comparisons["flips"] + comparisons["similarity"]:
        row |= {"a": f"{model}-s0", "b": f"{model}-s0"}
    files.write_json(folder / "shared/comparisons.json", comparisons)
    return folder


def test_parts_of_a_study_are_merged(tmp_path):
    whole = write_study(tmp_path / "whole")
    first = write_part(whole, tmp_path / "first", "2", 0.91)
    second = write_part(whole, tmp_path / "second", "3", 0.92)
    archive = tmp_path / "results.tar.xz"
    assert [add_to_archive(part, archive) for part in (first, second)] == [1, 2]
    merged = results.read_study(unpack(archive, tmp_path / "merged"))
    assert {cell.name: float(cell.find("quality", "gate")) for cell in merged.cells} == {
        "2-s0": 0.91,
        "3-s0": 0.92,
    }
    rows = merged.comparisons
    assert [row["a"] for row in rows["flips"]] == ["2-s0", "3-s0"]
    assert [row["a"] for row in rows["similarity"]] == ["2-s0", "2-s0", "3-s0", "3-s0"]
    # The seeds of the whole study are in neither part.
    assert rows["bias_variance"] == []
    other_order = tmp_path / "other.tar.xz"
    for part in (second, first):
        add_to_archive(part, other_order)
    assert other_order.read_bytes() == archive.read_bytes()


def test_what_is_added_again_is_replaced_with_its_comparisons(tmp_path):
    whole = write_study(tmp_path / "whole")
    archive = tmp_path / "results.tar.xz"
    add_to_archive(whole, archive)
    later = write_part(whole, tmp_path / "later", "3", 0.5)
    (later / "shared/comparisons.json").unlink()
    study = files.read_json(later / "study.json")
    files.write_json(later / "study.json", study | {"seeds": [0, 1], "track": ["tensorboard"]})
    assert add_to_archive(later, archive) == 2
    merged = results.read_study(unpack(archive, tmp_path / "merged"))
    assert [float(cell.find("quality", "gate")) for cell in merged.cells] == [0.9, 0.5]
    # They compared model 2 with the model 3 that was replaced.
    assert merged.comparisons["flips"] == []
    assert merged.settings["seeds"] == [0, 1]


def test_a_cell_that_diverged_is_archived(tmp_path):
    workdir = write_study(tmp_path / "study")
    info = dataclasses.asdict(make_info("4"))
    files.write_json(workdir / "cells/4-s0" / results.DIVERGED, {"cell": info})
    assert add_to_archive(workdir, tmp_path / "results.tar.xz") == 2
    again = unpack(tmp_path / "results.tar.xz", tmp_path / "again")
    assert [info.name for info in results.read_study(again).diverged] == ["4-s0"]


def test_what_cannot_be_archived_gets_a_sentence_and_leaves_the_archive(tmp_path):
    workdir = write_study(tmp_path / "study", [SHARE])
    archive = tmp_path / "results.tar.xz"
    with pytest.raises(ValueError, match="holds no finished cell or set"):
        add_to_archive(tmp_path / "nothing", archive)
    assert not archive.exists()
    archive.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"must be an archive of results .*; choose another"):
        add_to_archive(workdir, archive)
    with tarfile.open(archive, "w:xz") as file:
        file.add(tmp_path / "study/cells", "cells")
    with pytest.raises(ValueError, match=r"must be an archive of results, and has no study\.json"):
        add_to_archive(workdir, archive)
    archive.unlink()
    add_to_archive(workdir, archive)
    before = archive.read_bytes()
    study = files.read_json(workdir / "study.json")
    (workdir / "study.json").write_text(json.dumps(study | {"name": "other"}))
    named = 'with other settings \\(study.name is "small" there and "other" here\\); choose another'
    with pytest.raises(ValueError, match=named):
        add_to_archive(workdir, archive)
    assert archive.read_bytes() == before
    damaged = bytearray(before)
    damaged[len(before) // 3] ^= 0xFF
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"must be an archive of results .*; choose another"):
        add_to_archive(workdir, archive)
