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
from jaxdiff.stage import NO_REDO
from jaxdiff.study import grid, sample_stage
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
