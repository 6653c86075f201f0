"""What a run would refuse later is found before its first cell, and nothing is written."""

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jaxdiff import files
from jaxdiff.setting_fields import to_json
from jaxdiff.study import grid
from jaxdiff.study.config import default_config
from jaxdiff.study.planned import planned_settings
from jaxdiff.study.preflight import check_study


def check(workdir, **changes):
    config = default_config()
    config.width = 0.25
    config.measures.spaces = ("pixels",)
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    path = epath.Path(workdir) / "study.json"
    settings = planned_settings(to_json(config.to_dict()), grid.expand(config), path)
    check_study(grid.expand(config), settings, path)
    return path, settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data__source": "folder:/nowhere"}, "there is no folder /nowhere"),
        ({"data__source": "celeba"}, "CelebA is not here"),
        ({"data__attribute": "Male"}, "attribute 'Male' is not known"),
        ({"data__classes": (6, 90)}, "config.data.classes holds 90"),
        ({"data__n": (5000,)}, "at most 300 can be had"),
        (
            {"models__control": {"row": "2", "norm_num_groups": 3}},
            "config.models.control cannot be built",
        ),
        (
            {"data__source": "colored_digits", "data__attribute": "green", "data__classes": (0, 1)},
            "the attribute 'green' tells the two forms of an image of colored_digits apart",
        ),
        ({"measures__weights_dir": "."}, "there is no LPIPS weights file"),
        (
            {"measures__spaces": ("pixels", "inception"), "measures__inception": "pyproject.toml"},
            "pyproject.toml",
        ),
    ],
)
def test_what_is_missing_is_found_before(changes, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        check(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_a_published_part_without_a_class_is_found_before(tmp_path):
    """As where the labels of the test images are not published."""
    for name in ("train/cat/1", "train/dog/2", "val/cat/3", "val/dog/4", "test/unknown/5"):
        path = tmp_path / "pets" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), int(name[-1]), np.uint8)).save(path)
    source = f"folder:{tmp_path / 'pets'}"
    sentence = "holds 0 .cat., of which none of the 1 images is that are set aside as the class"
    with pytest.raises(ValueError, match=sentence):
        check(
            tmp_path / "run",
            data__source=source,
            data__classes=(0, 1),
            data__n=(5,),
            measures__k=(1,),
        )


def test_more_inverted_images_than_there_are(tmp_path):
    config = default_config()
    config.width = 0.25
    config.seeds = (0, 2, 4)
    config.measures.inverted = 100_000
    path = epath.Path(tmp_path) / "study.json"
    with pytest.raises(ValueError, match=r"config.measures.inverted is 100000; there are only"):
        check_study(grid.expand(config), to_json(config.to_dict()), path)


def test_a_batch_that_the_devices_of_several_processes_do_not_divide(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"must be a multiple of their 8 devices, got 30"):
        check(tmp_path, train__batch=30)


@pytest.mark.parametrize(("batch", "used"), [(16, 8), (12, 4), (33, 1)])
def test_devices_that_a_batch_leaves_idle_are_counted(batch, used, tmp_path, caplog):
    check(tmp_path, train__batch=batch)
    sentence = f"{used} of 8 devices are used: make config.train.batch / accumulate, {batch}, a mul"
    assert (sentence in caplog.text) == (used < 8)


def test_a_study_that_began_with_other_settings(tmp_path):
    path, settings = check(tmp_path)
    files.write_json(path, settings)
    check(tmp_path)
    with pytest.raises(ValueError, match=r"was made with other settings .*train.batch"):
        check(tmp_path, train__batch=16)


def test_a_study_may_go_on_with_other_cells_at_once(tmp_path):
    path, settings = check(tmp_path)
    files.write_json(path, settings)
    check(tmp_path, parallel__cells=4)
    with pytest.raises(ValueError, match=r"config.parallel.cells is 9; .* at most 8"):
        check(tmp_path, parallel__cells=9)


@pytest.mark.parametrize("section", ["train", "sample"])
def test_batches_of_several_processes_are_checked_for_every_model(section, tmp_path, monkeypatch):
    """A control with fewer seeds is split over the devices, where the others have one each."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = default_config()
    config.width = 0.25
    config.models = {"2": "2", "3": "3", "control": {"row": "2", "norm_num_groups": 4}}
    config.primary = ("2", "3")
    config.seeds = tuple(range(8))
    config.model_seeds = {"control": (0, 1, 2, 3)}
    config.train.batch = config.sample.batch = 16
    config[section].batch = 12
    path = epath.Path(tmp_path) / "study.json"
    with pytest.raises(ValueError, match=r"must be a multiple of their 8 devices, got 12"):
        check_study(grid.expand(config), to_json(config.to_dict()), path)


def test_idle_devices_are_told_once_for_models_with_the_same_batches(tmp_path, caplog):
    check(tmp_path, train__batch=12)
    assert caplog.text.count("of 8 devices are used") == 1
