"""A cell's folder is bound to its settings and to the contents of its data."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.cells import context as cell_context
from jaxdiff.cells.context import CellContext
from jaxdiff.cells.data import DataPaths, open_cell_dataset
from jaxdiff.progress import no_progress
from jaxdiff.records import write_record
from jaxdiff.stage import NO_REDO, Redo
from jaxdiff.study import grid, sample_stage, stages, train_stage
from jaxdiff.study.config import default_config
from jaxdiff.study.stages import open_cell


@pytest.mark.parametrize("change", ["labels", "images", "classes"])
def test_training_does_not_go_on_from_a_checkpoint_of_other_data(tmp_path, monkeypatch, change):
    config = default_config()
    config.data.n = (50,)
    config.measures.k = (1,)
    cell = grid.expand(config)[0]
    dataset = open_cell_dataset(cell)
    folder = epath.Path(tmp_path) / "cells" / cell.name
    files.write_json(folder / "data.json", {"dataset": dataset.contents})
    files.write(folder / "checkpoints" / "40" / "weights", "of other data")
    changes = {
        "labels": {"labels": np.roll(dataset.labels, 1)},
        "images": {"source": dataclasses.replace(dataset.source, identity={"pixels": "other"})},
        "classes": {"classes": dataset.classes[::-1]},
    }
    changed = dataclasses.replace(dataset, **changes[change])
    monkeypatch.setattr(cell_context, "open_cell_dataset", lambda cell, data_dir: changed)
    with pytest.raises(ValueError, match=f"{cell.name} was made with other data \\(data.dataset"):
        open_cell(cell, epath.Path(tmp_path), DataPaths("", str(tmp_path)), no_progress)
    assert not (tmp_path / "shared").exists(), "no classifier is trained first"


def test_training_does_not_go_on_from_a_checkpoint_of_other_images(tmp_path, monkeypatch):
    """Of the same dataset, as an edit of how training sets are chosen would give them."""
    config = default_config()
    config.data.n = (50,)
    config.measures.k = (1,)
    cell = grid.expand(config)[0]
    folder = epath.Path(tmp_path) / "cells" / cell.name
    context = CellContext(cell, epath.Path(tmp_path), DataPaths("", ""))
    files.write_json(folder / "data.json", context.training_data())
    measured = context.digest("train")
    choose = cell_context.cell_training_set
    monkeypatch.setattr(
        cell_context, "cell_training_set", lambda cell, dataset: choose(cell, dataset) + 1
    )
    with pytest.raises(ValueError, match=r"was made with other data \(data.training_set"):
        open_cell(cell, epath.Path(tmp_path), DataPaths("", str(tmp_path)), no_progress)
    other = CellContext(cell, epath.Path(tmp_path), DataPaths("", ""))
    assert other.digest("train") != measured


def test_a_cell_that_does_not_name_its_training_images_is_trained_on(tmp_path, monkeypatch):
    """It was trained before they were recorded; now they are."""
    monkeypatch.setattr(stages, "_run_classifiers", lambda context, redo: None)
    monkeypatch.setattr(CellContext, "check_prepared", lambda context: None)
    cell = grid.expand(default_config())[0]
    cell = dataclasses.replace(cell, measures=dataclasses.replace(cell.measures, inverted=0))
    folder = epath.Path(tmp_path) / "cells" / cell.name
    files.write_json(folder / "data.json", {"dataset": open_cell_dataset(cell).contents})
    write_record(folder, "data", ["data.json"])
    for _ in range(2):
        context = open_cell(cell, epath.Path(tmp_path), DataPaths("", ""), no_progress)
        assert files.read_json(folder / "data.json") == context.training_data()
        assert "training_set" in context.training_data()


def test_samples_of_another_dtype_are_drawn_again(tmp_path, monkeypatch):
    drawn = []

    def write_samples(context):
        drawn.append(context.cell.sample.dtype)
        for name in ("samples.npz", "common.npz"):
            files.write(context.folder / name, "samples")

    monkeypatch.setattr(sample_stage, "write_samples", write_samples)
    config = default_config()
    for dtype in ("float32", "bfloat16", "bfloat16", "float32"):
        config.sample.dtype = dtype
        cell = grid.expand(config)[0]
        context = CellContext(cell, epath.Path(tmp_path), DataPaths("", ""))
        sample_stage.run_sample(context, NO_REDO)
    assert drawn == ["float32", "bfloat16", "float32"]


@pytest.mark.parametrize(
    "edited", ["diffusion", "samplers", "sampling", "sampling_method", "sampling_programs"]
)
@pytest.mark.parametrize("name", ["sampler", "checkpoints", "leveled_sampler", "random_sampler"])
def test_an_edit_of_sampling_code_changes_what_depends_on_a_sampler(
    tmp_path, monkeypatch, edit_code, name, edited
):
    cell = grid.expand(default_config())[0]
    context = CellContext(cell, epath.Path(tmp_path), DataPaths("", ""))
    monkeypatch.setattr(context, "training_inputs", dict)
    before = context.digest(name)
    edit_code(f"jaxdiff.{edited}")
    assert context.digest(name) != before


def test_nothing_of_the_old_weights_is_kept_when_a_cell_is_trained_again(tmp_path):
    cell = grid.expand(default_config())[0]
    context = CellContext(cell, epath.Path(tmp_path), DataPaths("", ""))
    context.training_data = dict
    (context.folder / "checkpoints").mkdir(parents=True)
    names = ("config", "data", "train", "sample", "classify", "memorization", "result", "run")
    names_of_logs = ("metrics.jsonl", "tracked_run.json", "tensorboard/events")
    logged = [context.folder / name for name in names_of_logs]
    for path in logged:
        files.write(path, "of the old weights")
    for name in names:
        files.write(context.folder / f"{name}.txt", name)
        write_record(context.folder, name, [f"{name}.txt"])
    for redo, kept in ((NO_REDO, names), (Redo(("all",)), names), (Redo(("train",)), names[:2])):
        train_stage._train_stage(context, redo)
        assert {path.stem for path in (context.folder / "stages").iterdir()} == set(kept)
        assert all(path.exists() == (kept == names) for path in logged)
