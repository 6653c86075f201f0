import importlib

import pytest

from jaxdiff.cells import cell as cells
from jaxdiff.cells import data
from jaxdiff.study.config import TABLE, default_config, explain, nearest_key


def study(**changes):
    config = default_config()
    config.width = 0.25
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        if leaf:
            config[section][leaf] = value
        else:
            config[section] = value
    return config


def test_a_grid_of_cells():
    config = study(seeds=(0, 1), data__n=(100, 300), data__proportions=((0.8, 0.2), (0.6, 0.4)))
    config.models = {
        "2": "2",
        "2-wide": {"row": "2", "block_out_channels": (16, 32), "norm_num_groups": 8},
    }
    grid = cells.expand(config)
    assert len(grid) == len({cell.name for cell in grid}) == 16
    assert grid[0].name == "2-80_20-n100-s0"
    assert grid[0].counts == {6: 80, 9: 20}
    assert grid[-1].counts == {9: 180, 6: 120}, "odd seeds give the majority to the second class"
    assert grid[1].unet.block_out_channels == (16, 32)
    shards = [cells.select(grid, shard=f"{i}/3") for i in (1, 2, 3)]
    assert sorted(c.name for s in shards for c in s) == sorted(c.name for c in grid)
    assert len(cells.select(grid, "2-wide-*-s1")) == 4


def test_the_tasks_of_an_array_begin_at_different_cells():
    grid = cells.expand(study(data__n=(100, 200, 300), seeds=(0, 1)))
    orders = [
        cells.in_turn(grid, {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_ARRAY_TASK_COUNT": "3"})
        for i in (7, 8, 12)
    ]
    assert {order[0].name for order in orders} == {cell.name for cell in grid[:3]}
    for order in orders:
        assert sorted(cell.name for cell in order) == sorted(cell.name for cell in grid)
    one = {"JAXDIFF_SHARD_INDEX": "1", "JAXDIFF_SHARD_COUNT": "2"}
    assert [cell.name for cell in cells.in_turn(grid, one)] == [
        cell.name for cell in (*grid[1::2], *grid[::2])
    ]
    assert cells.in_turn(grid, {}) == grid
    assert cells.is_array(one)
    assert not cells.is_array({})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train__batch": -4}, r"config.train.batch is -4; it must be a number, at least 1"),
        ({"train__learning_rate": -1.0}, r"config.train.learning_rate is -1.0"),
        ({"models": {"7": "7"}}, r"model '7' is not known .* choose one of 2, 2-large, 3, 4, 5, 6"),
        (
            {"models": {"2": {"row": "2", "depth": 3}}},
            r"config.models.2 sets 'depth'; a UNetConfig has",
        ),
        ({"data__proportions": ((0.8, 0.3),)}, r"sum to 1.1; they must be >= 0 and sum to 1"),
        ({"data__proportions": ((0.2, 0.8),)}, r"write the majority first"),
        ({"data__n": (5000,)}, r"too few images .* at most 300 can be had"),
        ({"data__n": (301,)}, r"301"),
        ({"data__size": 17}, r"an image of 17 px cannot be halved 1 times"),
        ({"data__classes": (6, 6)}, r"two different classes"),
        ({"diffusion__prediction": "noise"}, r"choose one of eps, v, x0"),
        ({"sample__steps": 2000}, r"there are only 1000 noise levels"),
        ({"width": 0.3}, r"width 0.3 gives channels and groups"),
        ({"measures__k": (500,)}, r"holds 500; there are only 300 training images"),
        ({"measures__spaces": ("pixels", "clip")}, r"'clip'; choose among pixels, vgg"),
        (
            {"measures__spaces": ("pixels", "inception")},
            r"give its weights file as config.measures.inception",
        ),
        ({"measures__lpips": "alex"}, r"needs 32 px; config.data.size is 16, so choose vgg"),
        ({"primary": ("2", "5")}, r"config.primary is .*; the shallow and the deep model, of 2"),
        ({"measures__spaces": ("vgg",)}, r"pixels must be among them"),
        ({"measures__inception": "nowhere.pth"}, r"nowhere.pth, which does not exist"),
        ({"sample__common": 1}, r"at least 2 samples can be compared"),
        ({"seeds": ()}, r"config.seeds is empty"),
    ],
)
def test_bad_values_get_a_sentence(changes, sentence):
    config = study()
    config.unlock()
    for key in changes:
        if key == "models":
            config.models = {}
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        (config[section] if leaf else config)[leaf or section] = value
    with pytest.raises(ValueError, match=sentence):
        data.check_training_sets(cells.expand(config))


def test_selections_that_choose_nothing():
    grid = cells.expand(study())
    with pytest.raises(ValueError, match="matches no cell; the cells are 2-80_20-n300-s0"):
        cells.select(grid, "9-*")
    with pytest.raises(ValueError, match="write i/n"):
        cells.select(grid, shard="3/2")


def test_the_nearest_key_is_named():
    assert nearest_key("train.stepz") == "train.steps"
    assert nearest_key("learning_rate") == "train.learning_rate"
    assert nearest_key("train.steps") is None
    assert all(f"--config.{key}=" in explain() for key, _, _ in TABLE)


def test_the_configs_of_the_repository():
    assert [c.name for c in cells.expand(importlib.import_module("configs.quickstart").get_config())] == [
        "2-80_20-n300-s0", "3-80_20-n300-s0", "4-80_20-n300-s0",
    ]  # fmt: skip
    paper = cells.expand(importlib.import_module("configs.paper_mnist").get_config())
    assert len(paper) == 5 * 4 * 3, "depths 2 to 6, four proportions, three seeds"
    with pytest.raises(ValueError, match="at most 260 can be had"):
        data.check_training_sets(paper)
