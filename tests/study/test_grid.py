"""A study expands to a grid of cells, and says in a sentence what it cannot use."""

import importlib

import pytest

from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import check_training_sets
from jaxdiff.denoiser import count_parameters
from jaxdiff.study import grid
from jaxdiff.study.config import default_config

LEARNED = {"row": "2", "time_embedding_type": "learned"}


def build_config(**changes):
    """A small study; a key is written section__name."""
    config = default_config()
    config.width = 0.25
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            config[section][name] = value
        else:
            config[section] = value
    return config


def change(config, changes):
    """The config with values that a file may set: of any type, and of keys that do not exist."""
    config.unlock()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if key == "models":
            config.models = {}
        target = config[section] if name else config
        target[name or section] = value
    return config


def test_a_grid_of_cells():
    config = build_config(
        seeds=(0, 1), data__n=(100, 300), data__proportions=((0.8, 0.2), (0.6, 0.4))
    )
    config.models = {
        "2": "2",
        "2-wide": {"row": "2", "block_out_channels": (16, 32), "norm_num_groups": 8},
    }
    cells = grid.expand(config)
    assert len({cell.name for cell in cells}) == len(cells) == 16
    assert cells[0].name == "2-80_20-n100-s0"
    assert cells[0].counts == {6: 80, 9: 20}
    assert cells[-1].counts == {9: 180, 6: 120}, "odd seeds give the majority to the second class"
    assert cells[1].network.block_out_channels == (16, 32)
    shards = [grid.select(cells, shard=f"{i}/3") for i in (1, 2, 3)]
    names = [cell.name for shard in shards for cell in shard]
    assert sorted(names) == sorted(cell.name for cell in cells)
    assert len(grid.select(cells, "2-wide-*-s1")) == 4


def test_a_cell_survives_its_config_json():
    config = build_config(seeds=(1,))
    config.data.proportions = ((0.4, 0.2, 0.3, 0.1),)
    config.data.source = "colored_digits"
    (cell,) = grid.expand(config)
    assert cell.is_grouped
    assert cell.proportions == pytest.approx((0.6, 0.4))
    assert Cell.from_json(cell.name, cell.to_json()) == cell


def test_without_locks_a_task_of_an_array_takes_its_own_cells_alone():
    cells = grid.expand(build_config(data__n=(100, 200, 300), seeds=(0, 1)))
    tasks = len(cells) + 1
    taken = []
    for task in range(tasks):
        environment = {"JAXDIFF_SHARD_INDEX": str(task), "JAXDIFF_SHARD_COUNT": str(tasks)}
        taken.append(grid.order_for_array_task(cells, environment, has_locks=False))
    assert taken == [[cell] for cell in cells] + [[]]
    gaps = {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0"}
    with pytest.raises(ValueError, match=r"numbered without gaps.*use --array=1-3"):
        grid.order_for_array_task(cells, gaps, has_locks=False)
    assert grid.order_for_array_task(cells, {}, has_locks=False) == cells


def test_a_learned_time_embedding_of_every_step_is_taken():
    models = {"f": {**LEARNED, "num_train_timesteps": 1000}}
    (cell,) = grid.expand(build_config(models=models, primary=(), seeds=(0,)))
    assert cell.network.time_embedding_type == "learned"


def test_the_tasks_of_an_array_begin_at_different_cells():
    cells = grid.expand(build_config(data__n=(100, 200, 300), seeds=(0, 1)))
    orders = []
    for task in (7, 8, 12):
        environment = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "3"}
        orders.append(grid.order_for_array_task(cells, environment))
    assert {order[0].name for order in orders} == {cell.name for cell in cells[:3]}
    names = sorted(cell.name for cell in cells)
    for order in orders:
        assert sorted(cell.name for cell in order) == names
    environment = {"JAXDIFF_SHARD_INDEX": "1", "JAXDIFF_SHARD_COUNT": "2"}
    assert grid.order_for_array_task(cells, environment) == [*cells[1::2], *cells[::2]]
    assert grid.order_for_array_task(cells, {}) == cells
    assert grid.is_array_task(environment)
    assert not grid.is_array_task({})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train__batch": -4}, r"config.train.batch must be at least 1, got -4"),
        ({"train__learning_rate": -1.0}, r"config.train.learning_rate must be at least 0, got -1"),
        ({"models": {"7": "7"}}, r"model '7' is not known .* choose one of 2, 2-large, 3, 4, 5, 6"),
        (
            {"models": {"2": {"row": "2", "depth": 3}}},
            r"config.models.2 sets 'depth'; a UNetConfig",
        ),
        ({"models": {"a": {"type": "none"}}}, r"config.models.a is of type 'none'; choose one of"),
        (
            {"train__checkpoint_every": 500, "train__keep_every": 300},
            r"config.train.keep_every is 300; it must be a multiple of checkpoint_every, 500",
        ),
        (
            {"models": {"f": {"row": "2", "time_embedding_type": "fourier"}}},
            r"time_embedding_type fourier, which takes continuous noise levels",
        ),
        (
            {"models": {"f": {**LEARNED, "num_train_timesteps": 999}}},
            r"has num_train_timesteps 999 and config.diffusion.steps is 1000",
        ),
        ({"data__proportions": ((0.8, 0.3),)}, r"sum to 1.1"),
        ({"data__proportions": ((0.2, 0.8),)}, r"write the majority first"),
        ({"data__proportions": ((0.4, 0.2, 0.3, 0.1),)}, r"set config.data.group"),
        ({"data__n": (5000,)}, r"at most 300 can be had"),
        ({"data__n": (301,)}, r"301"),
        ({"data__size": 17}, r"17 px"),
        ({"data__classes": (6, 6)}, r"two different classes"),
        ({"data__others": (9, 3), "data__others_share": 0.5}, r"name classes other than \(6, 9\)"),
        ({"data__others": (3,)}, r"set both, the share between 0 and 1, or neither"),
        ({"data__others_share": 0.5}, r"set both, the share between 0 and 1, or neither"),
        ({"data__others": (10,), "data__others_share": 0.5}, r"config.data.others holds 10"),
        ({"data__others": (1, 2), "data__others_share": 0.5, "data__n": (6,)}, r"6 images cannot"),
        ({"data__source": "nothing"}, r"config.data.source is 'nothing'"),
        ({"data__dir": "/nowhere"}, r"config.data.dir is /nowhere, which does not exist"),
        ({"diffusion__prediction": "noise"}, r"choose one of eps, v, x0"),
        ({"sample__steps": 2000}, r"there are only 1000 noise levels"),
        ({"width": 0.3}, r"width 0.3 gives channels and groups"),
        ({"measures__k": (500,)}, r"holds 500; there are only 300 training images"),
        ({"measures__spaces": ("pixels", "clip")}, r"'clip'; choose among pixels, vgg"),
        ({"measures__spaces": ("pixels", "inception")}, r"as config.measures.inception"),
        ({"measures__lpips": "alex"}, r"needs 32 px; config.data.size is 16, so choose vgg"),
        ({"primary": ("2", "5")}, r"config.primary is .*; name the shallow and the deep model"),
        ({"measures__spaces": ("vgg",)}, r"pixels must be among them"),
        ({"measures__inception": "nowhere.pth"}, r"nowhere.pth, which does not exist"),
        ({"sample__common": 1}, r"at least 2 samples can be compared"),
        ({"train__accumulate": 5}, r"config.train.accumulate is 5; it must divide train.batch"),
        ({"seeds": ()}, r"config.seeds is empty"),
        ({"plugins": ("no.such_module",)}, r"plugin 'no.such_module' cannot be imported"),
    ],
)
def test_bad_values_get_a_sentence(changes, sentence):
    config = change(build_config(), changes)
    with pytest.raises(ValueError, match=sentence):
        check_training_sets(grid.expand(config))


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": (0, 1, 0)},
        {"data__n": (100, 100)},
        {"data__proportions": ((0.8, 0.2), [0.8, 0.2])},
        {"models": {"A": "2", "a": "3"}},
    ],
)
def test_two_cells_in_one_folder_are_refused(changes):
    with pytest.raises(ValueError, match=r"two are named .*-80_20-n\d+-s0; remove"):
        grid.expand(change(build_config(), changes))


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "a\\b", "[2]", "2*", ".2", "a b"])
def test_the_name_of_a_model_is_fit_for_a_folder(name):
    with pytest.raises(ValueError, match=r"config.models holds the name .*letters, digits"):
        grid.expand({"models": {name: "2"}})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pattern": "9-*"}, "matches no cell; the cells are 2-80_20-n300-s0"),
        ({"shard": "3/2"}, "write i/n"),
        ({"shard": "1"}, "write i/n"),
        ({"shard": "a/b"}, "write i/n"),
    ],
)
def test_selections_of_nothing_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid.select(grid.expand(build_config()), **options)


def test_the_configs_of_the_repository():
    quickstart = grid.expand(importlib.import_module("configs.quickstart").get_config())
    assert [cell.name for cell in quickstart] == ["2-80_20-n300-s0", "4-80_20-n300-s0"]
    paper = grid.expand(importlib.import_module("configs.paper_mnist").get_config())
    assert len(paper) == 5 * 4 * 6, "depths 2 to 6, four proportions, six seeds"
    with pytest.raises(ValueError, match="at most 260 can be had"):
        check_training_sets(paper)


@pytest.mark.parametrize(
    ("name", "part", "count"),
    [
        ("scaling_demo", (), 20),
        ("scaling_h100", (), 20),
        ("scaling_pod", (), 324),
        ("scaling_pod", ("rates",), 36),
        ("scaling_pod", ("memorization",), 72),
    ],
)
def test_the_configs_of_scaling_studies(name, part, count):
    """Every length but the longest starts from a stem, and cells differ as a fit allows."""
    config = importlib.import_module(f"configs.{name}").get_config(*part)
    cells = grid.expand(config)
    assert len(cells) == count
    assert config.name == "_".join([name, *part])
    assert config.measures.held_out
    longest = max(cell.train.steps for cell in cells)
    assert all(bool(cell.stem) == (cell.train.steps < longest) for cell in cells)
    assert len({(cell.majority, cell.shares, cell.train.batch) for cell in cells}) == 1
    assert len({cell.network for cell in cells}) == len(config.models) * len(config.axes.width)


def test_the_demonstration_of_scaling_has_its_images():
    check_training_sets(grid.expand(importlib.import_module("configs.scaling_demo").get_config()))
    with pytest.raises(ValueError, match="'x' is no part; choose rates or memorization"):
        importlib.import_module("configs.scaling_pod").get_config("x")


def test_the_pilots_of_the_study_differ_in_their_variant_alone():
    study = importlib.import_module("configs.study")
    for name, variant in study.VARIANTS.items():
        cells = grid.expand(study.get_config(f"pilot-{name}"))
        assert [cell.name for cell in cells] == [
            f"{model}-80_20-n1000-s{seed}" for seed in (100, 101) for model in ("2", "6")
        ]
        assert {cell.network.norm_num_groups for cell in cells} == {variant.groups}
        assert {cell.diffusion.prediction for cell in cells} == {variant.prediction}
    with pytest.raises(ValueError, match="'x' is no variant; choose one of eps, eps-4groups, v"):
        study.get_config("pilot-x")


@pytest.mark.parametrize(
    ("name", "count", "shallow"),
    [
        ("eps", 36, "2-4groups"),
        ("eps-4groups", 30, "2"),
        ("v", 36, "2-4groups"),
        ("v-long", 24, "2-4groups"),
    ],
)
def test_every_variant_of_the_study_can_be_run(name, count, shallow):
    study = importlib.import_module("configs.study")
    config = study.study_config(study.VARIANTS[name])
    cells = grid.expand(config)
    assert len(cells) == count
    assert config.secondary[0] == (shallow, "6-slim")
    networks = {cell.model: cell.network for cell in cells}
    sizes = {model: count_parameters(network) for model, network in networks.items()}
    assert sizes["6-slim"] == 69_129
    assert sizes[shallow] == sizes["2"] == 64_193
    assert sizes["6"] == 1_715_569


@pytest.mark.parametrize(
    ("seeds", "setting", "devices", "count"),
    [
        (8, 0, 8, 8),
        (9, 0, 8, 8),
        (7, 0, 8, 1),
        (7, 4, 8, 4),
        (8, 1, 8, 1),
        (1, 0, 1, 1),
    ],
)
def test_as_many_cells_at_once_as_devices_where_there_are_so_many(seeds, setting, devices, count):
    config = default_config()
    config.seeds = tuple(range(seeds))
    config.models = {"2": "2", "3": "3"}
    cells = grid.expand(config)
    for cell in cells:
        assert grid.count_at_once(cell, cells, devices, setting) == count


def test_the_tasks_of_an_array_have_cells_each():
    config = default_config()
    config.seeds = tuple(range(8))
    cells = grid.expand(config)
    environment = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
    tasks = grid.count_array_tasks(environment)
    assert (tasks, grid.count_array_tasks({})) == (4, 1)
    assert grid.count_at_once(cells[0], cells, 2, tasks=tasks) == 2
    assert grid.count_at_once(cells[0], cells, 4, tasks=tasks) == 1


def test_cells_at_once_differ_in_seed_proportion_and_data_alone():
    config = default_config()
    config.data.proportions = ((0.8, 0.2), (0.5, 0.5))
    config.data.n = (100, 200)
    config.seeds = (0, 1)
    cells = grid.expand(config)
    assert all(grid.share_program(cells[0], cell) for cell in cells)
    config.train.learning_rate = 1e-3
    assert not grid.share_program(cells[0], grid.expand(config)[0])
    config.models = {"2": {"row": "2", "mid_block": False}}
    assert not grid.share_program(grid.expand(config)[0], cells[0])


def test_weights_that_are_split_are_trained_on_all_devices():
    config = default_config()
    config.seeds = (0, 1)
    config.train.shard_params = True
    cells = grid.expand(config)
    assert grid.count_at_once(cells[0], cells, 2) == 1
    config.parallel.cells = 2
    with pytest.raises(ValueError, match=r"config.parallel.cells is 2 and config.train.shard_par"):
        grid.expand(config)


def test_more_cells_at_once_than_devices_are_refused():
    cells = grid.expand(default_config())
    with pytest.raises(ValueError, match=r"config.parallel.cells is 4; .* so choose at most 2"):
        grid.count_at_once(cells[0], cells, 2, 4)
