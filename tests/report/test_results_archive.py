"""Results in one small file: what is drawn from it, and what it leaves out."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from jaxdiff import files, report, results, results_archive
from jaxdiff.results_archive import add_to_archive
from tests.report.small_results import SHARE, write_sets, write_study


def unpack(archive, folder):
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder


def read_tables(workdir):
    return {path.name: path.read_text() for path in (workdir / "tables").iterdir()}


@pytest.mark.parametrize("write", [write_study, write_sets])
def test_an_archive_has_the_tables_and_figures_of_the_study(write, tmp_path):
    workdir = write(tmp_path / "study")
    page = report.write(workdir).read_text()
    assert add_to_archive(workdir, tmp_path / "results.zip") == 2
    again = unpack(tmp_path / "results.zip", tmp_path / "again")
    assert report.write(again).read_text() == page
    assert read_tables(again) == read_tables(workdir)


def test_an_archive_keeps_the_first_images_and_every_class(tmp_path, monkeypatch):
    monkeypatch.setattr(results_archive, "NUM_IMAGES", 2)
    workdir = write_study(tmp_path / "study")
    (workdir / "cells/2-s0/checkpoints").mkdir()
    (workdir / "cells/2-s0/checkpoints/weights").write_bytes(b"large")
    page = report.write(workdir).read_text()
    add_to_archive(workdir, tmp_path / "results.zip")
    again = unpack(tmp_path / "results.zip", tmp_path / "again")
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
    for name, change in {
        "study.json": {"data": {"dir": "/home/me/mnist", "cache": "/scratch/me"}},
        "cells/2-s0/config.json": {"measures": {"weights_dir": "/home/me/weights"}},
        "cells/2-s0/run.json": {"host": "my-laptop"},
    }.items():
        content = files.read_json(workdir / name)
        merged = {**content.get("data", {}), **change.get("data", {})}
        files.write_json(workdir / name, content | change | ({"data": merged} if merged else {}))
    add_to_archive(workdir, tmp_path / "results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    assert not any(word in text for text in texts for word in (b"/home", b"/scratch", b"laptop"))


def test_parts_of_a_study_are_merged_whatever_machine_they_are_of(tmp_path):
    whole = write_study(tmp_path / "whole")
    archive = tmp_path / "results.zip"
    for model, other in (("2", "3"), ("3", "2")):
        part = tmp_path / model
        shutil.copytree(whole, part)
        shutil.rmtree(part / f"cells/{other}-s0")
        comparisons = files.read_json(part / "shared/comparisons.json")
        for row in comparisons["flips"] + comparisons["similarity"]:
            row["a"] = f"of part {model}"
        files.write_json(part / "shared/comparisons.json", comparisons)
    counts = [add_to_archive(tmp_path / model, archive) for model in ("2", "3", "2")]
    assert counts == [1, 2, 2]
    merged = results.read_study(unpack(archive, tmp_path / "merged"))
    assert [cell.name for cell in merged.cells] == ["2-s0", "3-s0"]
    for cell, expected in zip(merged.cells, results.read_cells(whole), strict=True):
        assert cell.sections == expected.sections
    rows = merged.comparisons
    assert [row["a"] for row in rows["flips"]] == ["of part 3", "of part 2"]
    assert len(rows["similarity"]) == 4
    # The seeds of the whole study are in neither part.
    assert rows["bias_variance"] == []


def test_equal_results_give_equal_bytes(tmp_path):
    workdir = write_study(tmp_path / "study")
    add_to_archive(workdir, tmp_path / "a.zip")
    add_to_archive(workdir, tmp_path / "b.zip")
    add_to_archive(workdir, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_cannot_be_archived_gets_a_sentence_and_leaves_the_archive(tmp_path):
    workdir = write_study(tmp_path / "study", [SHARE])
    archive = tmp_path / "results.zip"
    with pytest.raises(ValueError, match="holds no finished cell or set"):
        add_to_archive(tmp_path / "nothing", archive)
    assert not archive.exists()
    archive.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="must be an archive of results that can be read"):
        add_to_archive(workdir, archive)
    archive.unlink()
    add_to_archive(workdir, archive)
    before = archive.read_bytes()
    study = files.read_json(workdir / "study.json")
    (workdir / "study.json").write_text(json.dumps(study | {"name": "other"}))
    with pytest.raises(ValueError, match="of a study with other settings; choose another"):
        add_to_archive(workdir, archive)
    assert archive.read_bytes() == before
