"""Settings are typed and checked where a config enters; help, bounds and defaults are one."""

import dataclasses

import ml_collections
import pytest

from jaxdiff.setting_fields import default_config, explain, from_config, keys, nearest_key, to_json
from jaxdiff.settings import DataSettings, StudySettings, TrainSettings


def test_defaults_survive_the_config_and_json():
    config = default_config(StudySettings)
    assert from_config(StudySettings, config) == StudySettings()
    assert to_json(config.to_dict()) == to_json(StudySettings())
    assert from_config(TrainSettings, to_json(TrainSettings())) == TrainSettings()


def test_lists_become_tuples_at_every_depth():
    data = from_config(DataSettings, {"proportions": [[0.9, 0.1]], "n": [10]})
    assert data.proportions == ((0.9, 0.1),)
    assert data.n == (10,)


def test_every_setting_is_explained():
    text = explain(StudySettings)
    for key in keys(StudySettings):
        assert f"--config.{key.name}=" in text
        assert key.field.metadata["help"]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"steps": 0}, "config.steps must be at least 1, got 0"),
        ({"steps": 2.5}, "config.steps must be a whole number, got 2.5"),
        ({"steps": True}, "config.steps must be a whole number, got True"),
        ({"steps": "many"}, "config.steps must be a whole number, got 'many'"),
        ({"flip": 1}, "config.flip must be True or False, got 1"),
        ({"ema": 1.5}, "config.ema must be at least 0 and at most 1, got 1.5"),
        ({"learning_rate": float("nan")}, "config.learning_rate must be at least 0, got nan"),
        ({"optimizer": "adam"}, "config.optimizer is 'adam'; choose one of adamw, lion, sgd"),
        ({"stepz": 5}, "config.stepz does not exist; did you mean config.steps"),
    ],
)
def test_a_bad_value_is_one_sentence(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_config(TrainSettings, section)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 3}, r"config.seeds must be a tuple, got 3; write one entry as \(x,\)"),
        ({"seeds": ()}, "config.seeds is empty"),
        ({"seeds": (-1,)}, r"config.seeds.0. must be at least 0, got -1"),
        ({"width": 0.0}, "config.width must be above 0 and at most 64, got 0.0"),
        ({"train": 7}, "config.train must be a section of settings, got 7"),
        (
            {"train": {"stepz": 5}},
            "config.train.stepz does not exist; did you mean config.train.steps",
        ),
        ({"models": "2"}, "config.models must be a dict, got '2'"),
        ({"models": {2: "2"}}, "config.models must have strings as names, got 2"),
    ],
)
def test_a_bad_section_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_config(StudySettings, changes)


def test_a_config_file_may_not_add_settings():
    config = default_config(StudySettings)
    config.unlock()
    config.train.stepz = 5
    with pytest.raises(ValueError, match=r"config.train.stepz does not exist"):
        from_config(StudySettings, config)


def test_whole_numbers_become_floats_where_these_are_expected():
    """JSON, and so a cell's fingerprint, tells 1 from 1.0."""
    assert isinstance(from_config(TrainSettings, {"clip": 1}).clip, float)


def test_the_nearest_key_is_named():
    assert nearest_key("train.stepz", StudySettings) == "train.steps"
    assert nearest_key("learning_rate", StudySettings) == "train.learning_rate"
    assert nearest_key("train.steps", StudySettings) is None
    assert nearest_key("models.2", StudySettings) is None


def test_a_settings_class_of_its_own():
    @dataclasses.dataclass(frozen=True)
    class Small:
        scale: float = 1.0

    assert from_config(Small, ml_collections.ConfigDict({"scale": 2.0})).scale == 2.0
