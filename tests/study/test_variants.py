"""Widths, lengths of training and learning rates as axes of a study's models."""

import pytest
from etils import epath
from ml_collections import ConfigDict

from jaxdiff.setting_fields import to_json
from jaxdiff.settings import AxesSettings
from jaxdiff.study import grid
from jaxdiff.study.config import default_config
from jaxdiff.study.planned import planned_settings
from jaxdiff.study.variants import expand_models
from jaxdiff.unet import TABLE_A


def build_config(**axes):
    config = default_config()
    config.models = ConfigDict({"2": "2", "3": {"row": "3", "dropout": 0.1}})
    for name, values in axes.items():
        config.axes[name] = values
    return config


def test_every_combination_is_a_model():
    config = build_config(width=(0.25, 0.5), train_steps=(100, 200), learning_rate=(1e-3,))
    cells = grid.expand(config)
    assert [cell.name for cell in cells[:4]] == [
        "2-w0.25-t100-lr0.001-80_20-n300-s0",
        "2-w0.25-t200-lr0.001-80_20-n300-s0",
        "2-w0.5-t100-lr0.001-80_20-n300-s0",
        "2-w0.5-t200-lr0.001-80_20-n300-s0",
    ]
    assert len(cells) == 8
    for cell in cells:
        row, width, steps, _ = cell.model.split("-")
        factor = float(width[1:])
        channels = [factor * number for number in TABLE_A[row].block_out_channels]
        assert list(cell.network.block_out_channels) == channels
        assert (cell.train.steps, cell.train.learning_rate) == (int(steps[1:]), 1e-3)
        assert cell.network.dropout == (0.1 if row == "3" else 0.0)


def test_without_axes_nothing_changes():
    config = build_config()
    assert [cell.model for cell in grid.expand(config)] == ["2", "3"]
    assert expand_models({"2": "2"}, AxesSettings()) == {"2": "2"}


def test_a_model_has_values_of_its_own():
    config = build_config()
    config.models["wide"] = ConfigDict({"row": "2", "width": 2.0, "train_steps": 7})
    wide = grid.expand(config)[-1]
    assert wide.network.block_out_channels[0] == 2 * TABLE_A["2"].block_out_channels[0]
    assert (wide.train.steps, wide.train.learning_rate) == (7, config.train.learning_rate)


@pytest.mark.parametrize(
    ("fields", "axes", "sentence"),
    [
        ({"train_steps": 0}, {}, "config.models.x.train_steps must be at least 1, got 0"),
        ({"width": -1.0}, {}, "config.models.x.width must be above 0"),
        ({"learning_rate": "big"}, {}, "config.models.x.learning_rate must be a number"),
        ({"width": 0.5}, {"width": (0.25,)}, "config.models.x sets width, and config.axes.width"),
        ({}, {"train_steps": (0,)}, r"config.axes.train_steps\[0\] must be at least 1, got 0"),
        ({}, {"width": (0.5, 0.5)}, "leave out what it holds twice"),
    ],
)
def test_bad_values_are_one_sentence(fields, axes, sentence):
    config = build_config(**axes)
    if fields:
        config.models["x"] = ConfigDict({"row": "2", **fields})
    with pytest.raises(ValueError, match=sentence):
        grid.expand(config)


def test_the_primary_pair_is_that_of_the_largest_values(tmp_path):
    config = build_config(width=(0.5, 0.25), train_steps=(200, 100))
    config.models["4"] = "4"
    settings = to_json(config.to_dict())
    planned = planned_settings(settings, grid.expand(config), epath.Path(tmp_path) / "study.json")
    models = planned["planned"]["models"]
    assert len(models) == 12
    assert planned["planned"]["primary"] == ["2-w0.5-t200", "4-w0.5-t200"], "3 is a control"
