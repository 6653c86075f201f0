"""The plan of a study, and the rules that no single setting shows."""

import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.settings import to_json
from jaxdiff.study import grid
from jaxdiff.study.config import default_config, fixed_settings, planned_settings


def make_config(**changes):
    config = default_config()
    config.models = {"2": "2", "3": "3"}
    config.width = 0.25
    for key, value in changes.items():
        config[key] = value
    return config


def test_seeds_that_are_added_later_are_not_planned(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    begun = planned_settings(to_json(make_config(seeds=(0, 1)).to_dict()), path)
    files.write_json(path, begun)
    grown = planned_settings(to_json(make_config(seeds=(0, 1, 2)).to_dict()), path)
    assert grown["seeds"] == [0, 1, 2]
    assert grown["planned"]["seeds"] == [0, 1]
    assert grown["planned"]["models"] == ["2", "3"]
    assert fixed_settings(grown) == fixed_settings(begun)


def test_a_study_from_before_plans_were_written_is_bound_to_its_seeds(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    settings = to_json(make_config(seeds=(0, 1)).to_dict())
    older = {key: value for key, value in settings.items() if key not in ("look", "secondary")}
    files.write_json(path, older)
    assert planned_settings(settings, path)["planned"]["seeds"] == [0, 1]
    assert fixed_settings(settings) == fixed_settings(older)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"look": 2, "seeds": (0, 1, 2)}, "config.look is 2 and there are 3 seeds"),
        ({"look": 3, "seeds": tuple(range(6))}, "a multiple of 2 that is at least 4"),
        ({"look": 2, "seeds": (0, 1, 2, 3)}, "a multiple of 2 that is at least 4"),
        ({"secondary": (("2", "7"),)}, "config.secondary holds \\('2', '7'\\); each entry"),
        ({"secondary": ("2",)}, "config.secondary holds '2'"),
    ],
)
def test_plans_that_cannot_be_kept(changes, message):
    with pytest.raises(ValueError, match=message):
        grid.expand(make_config(**changes))


def test_a_look_after_half_of_the_seeds():
    assert len(grid.expand(make_config(look=4, seeds=tuple(range(8))))) == 16
