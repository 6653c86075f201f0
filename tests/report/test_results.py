"""Results as they are read back."""

import dataclasses

import pytest
from etils import epath

from jaxdiff import files, results
from jaxdiff.results import CellInfo, SetInfo
from tests.report.small_results import (
    LPIPS,
    NEIGHBORS,
    QUALITY,
    SHARE,
    make_info,
    write_sets,
    write_study,
)


def test_fields_that_an_older_file_lacks_get_defaults():
    info = CellInfo.from_json({"model": "2", "depth": 2, "proportions": [0.8, 0.2], "new": 1})
    assert info == CellInfo(model="2", depth=2, proportions=(0.8, 0.2))
    assert info.bottleneck is None
    assert SetInfo.from_json({"name": "a"}).proportions == ()
    assert SetInfo(trained=0.25).proportions == (0.75, 0.25)


def test_cells_are_read_as_they_were_written(tmp_path):
    workdir = write_study(tmp_path, [SHARE, NEIGHBORS])
    (workdir / "cells/unfinished").mkdir()
    cells = results.read_cells(workdir)
    assert [cell.info for cell in cells] == [make_info("2"), make_info("3")]
    cell = cells[0]
    assert cell.estimates("share") == list(SHARE.estimates)
    assert cell.samples.shape == (4, 8, 8, 1)
    assert cell.labels.tolist() == [6, 9, 6, 3]
    assert cell.metrics[-1]["step"] == 20


def test_estimates_are_found_by_name_and_labels(tmp_path):
    cell = results.read_cells(write_study(tmp_path, [NEIGHBORS]))[0]
    assert len(cell.estimates("neighbors", "kth")) == 2
    held_out = cell.find("neighbors", "kth", images="held_out", k=1)
    assert held_out is not None
    assert held_out.labels["images"] == "held_out"
    assert cell.find("neighbors", "kth", k=99) is None
    assert cell.find("nothing", "kth") is None


def test_sets_are_read_in_their_order(tmp_path):
    sets = results.read_sets(write_sets(tmp_path, trained=0.2))
    assert [item.name for item in sets] == ["theirs", "ours"]
    assert sets[0].info.reference == "faces"
    assert sets[0].labels.tolist() == [-1] * 4
    study = results.read_study(tmp_path)
    assert study.results == study.sets
    assert not study.cells


def test_a_section_has_the_estimates_of_every_cell(tmp_path):
    workdir = write_study(tmp_path, [LPIPS, QUALITY])
    sections = results.collect_sections(results.read_cells(workdir))
    assert [section.name for section in sections] == ["lpips", "quality"]
    assert sections[0].title == "Title of lpips"
    assert sections[0].figure == results.DepthFigure("all_pairs", "LPIPS", 100.0, "training_data")
    assert sections[0].estimates == {name: tuple(LPIPS.estimates) for name in ("2-s0", "3-s0")}


def test_an_incomplete_estimate_is_named(tmp_path):
    workdir = write_study(tmp_path, [LPIPS])
    path = workdir / "cells/2-s0/result.json"
    content = files.read_json(path)
    del content["lpips"][0]["low"]
    files.write_json(path, content)
    with pytest.raises(ValueError, match=r"every entry of 'lpips' in .* must have 'low', and it"):
        results.read_cells(workdir)


def test_folders_without_results_get_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no finished cell"):
        results.read_cells(tmp_path)
    with pytest.raises(ValueError, match=r"holds no measured set; run python -m experiments.eval"):
        results.read_sets(tmp_path)


def test_whether_a_cell_has_diverged_since_a_time(tmp_path):
    """Of the same command in another process; a cell of an earlier one is trained again."""
    assert not results.has_diverged_since(epath.Path(tmp_path), 100.0)
    files.write_json(tmp_path / results.DIVERGED, {"cell": {}, "reason": "", "written": 150.0})
    assert results.has_diverged_since(epath.Path(tmp_path), 100.0)
    assert not results.has_diverged_since(epath.Path(tmp_path), 200.0)
    files.write_json(tmp_path / results.DIVERGED, {"cell": {}, "reason": ""})
    assert not results.has_diverged_since(epath.Path(tmp_path), 100.0), "of older code"


def test_a_class_without_test_images_is_the_one_that_has_fewer(tmp_path):
    workdir = write_study(tmp_path)
    study = results.read_study(workdir)
    matrix = [[1000, 0, 0], [0, 0, 0], [0, 0, 0]]
    confusion = {"matrix": {"convolutional": matrix}}
    settings = {**study.settings, "data": {**study.settings["data"], "classes": [0, 1]}}
    study = dataclasses.replace(study, confusion=confusion, settings=settings)
    assert study.classifier_test_images == 0
