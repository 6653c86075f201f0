"""The plan of a study, and the rules that no single setting shows."""

import pytest
from etils import epath

from jaxdiff import files
from jaxdiff.analysis.plan import Plan
from jaxdiff.records import write_record
from jaxdiff.setting_fields import to_json
from jaxdiff.study import grid
from jaxdiff.study.config import default_config, fixed_settings
from jaxdiff.study.planned import planned_settings


def make_config(**changes):
    config = default_config()
    config.models = {"2": "2", "3": "3"}
    config.width = 0.25
    for key, value in changes.items():
        config[key] = value
    return config


def plan_study(config, path):
    return planned_settings(to_json(config.to_dict()), grid.expand(config), path)


def test_seeds_that_are_added_later_are_not_planned(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    begun = plan_study(make_config(seeds=(0, 1)), path)
    files.write_json(path, begun)
    grown = plan_study(make_config(seeds=(0, 1, 2)), path)
    assert grown["seeds"] == [0, 1, 2]
    assert grown["planned"]["seeds"] == [0, 1]
    assert grown["planned"]["models"] == ["2", "3"]
    assert grown["planned"]["primary"] == ["2", "3"]
    assert fixed_settings(grown) == fixed_settings(begun)


def test_a_study_from_before_plans_were_written_is_bound_to_its_seeds(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    settings = to_json(make_config(seeds=(0, 1)).to_dict())
    older = {key: value for key, value in settings.items() if key not in ("look", "secondary")}
    files.write_json(path, older)
    assert plan_study(make_config(seeds=(0, 1)), path)["planned"]["seeds"] == [0, 1]
    assert fixed_settings(settings) == fixed_settings(older)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"planned": 5}, "planned in .*study.json must be an object"),
        ({"planned": {"seeds": "zz"}}, "seeds in .*study.json must be"),
        ({"planned": {"primary": ["2"]}}, "primary in .*study.json must be"),
        ({"seeds": [[]]}, "seeds in .*study.json must be"),
        ({"data": 5}, "data in .*study.json must be an object"),
    ],
)
def test_an_edited_plan_is_named(tmp_path, changes, sentence):
    """By its types, as older code left no record; then by its record, with --dry_run too."""
    path = epath.Path(tmp_path) / "study.json"
    begun = plan_study(make_config(), path)
    files.write_json(path, begun)
    write_record(path.parent, "study", ["study.json"])
    files.write_json(path, begun | changes)
    with pytest.raises(ValueError, match=r"study.json was changed after the run wrote it"):
        plan_study(make_config(), path)
    (path.parent / "stages" / "study.json").unlink()
    with pytest.raises(ValueError, match=sentence):
        plan_study(make_config(), path)


def test_the_primary_pair_is_of_unchanged_rows_and_stays(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    config = make_config(models={"3": "3", "2": "2", "5-eps": {"row": "5"}})
    begun = plan_study(config, path)
    assert begun["planned"]["primary"] == ["2", "3"], "5-eps is a control"
    files.write_json(path, begun)
    grown = plan_study(make_config(models={"2": "2", "3": "3", "4": "4"}), path)
    assert grown["planned"]["primary"] == ["2", "3"]


def test_the_form_of_the_share_stays_in_a_begun_study():
    begun = to_json(make_config().to_dict())
    changed = make_config()
    changed.measures.share = "gated"
    assert fixed_settings(to_json(changed.to_dict())) != fixed_settings(begun)
    changed.measures.share = "forced_choice"
    changed.measures.queries = 1
    assert fixed_settings(to_json(changed.to_dict())) == fixed_settings(begun)


def test_a_study_from_before_sampling_had_a_dtype_goes_on_in_float32():
    config = make_config()
    older = to_json(config.to_dict())
    del older["sample"]["dtype"]
    assert fixed_settings(to_json(config.to_dict())) == fixed_settings(older)
    config.sample.dtype = "bfloat16"
    assert fixed_settings(to_json(config.to_dict())) != fixed_settings(older)


def test_a_folder_of_an_evaluation_is_refused_by_its_settings(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    files.write_json(path, {"name": "sets", "data": {"sets": ["a"]}})
    assert plan_study(make_config(), path)["planned"]["seeds"] == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"look": 2, "seeds": (0, 1, 2)}, "config.look is 2 and there are 3 seeds"),
        ({"look": 3, "seeds": tuple(range(6))}, "at least 4, with as many even as odd seeds"),
        ({"look": 2, "seeds": (0, 1, 2, 3)}, "at least 4, with as many even as odd seeds"),
        ({"look": 4, "seeds": (0, 2, 4, 6, 1, 3, 5, 7)}, "with as many even as odd seeds"),
        ({"primary": ("2", "2")}, "name the shallow and the deep model"),
        ({"secondary": (("2", "7"),)}, "config.secondary holds \\('2', '7'\\); each entry"),
        ({"secondary": ("2",)}, "config.secondary holds '2'"),
        ({"model_seeds": {"7": (0,)}}, "config.model_seeds names '7'; the models are 2, 3"),
        ({"model_seeds": {"2": (5,)}}, "some of config.seeds, \\(0,\\)"),
        ({"model_seeds": {"2": ()}}, "config.model_seeds\\['2'\\] is \\(\\)"),
        ({"model_seeds": {"2": 0}}, "config.model_seeds\\['2'\\] is 0; it is a tuple"),
        ({"model_seeds": {"2": (0,)}}, "config.primary is not; name the two models"),
        (
            {"model_seeds": {"2": (0,)}, "primary": ("2", "3")},
            "config.model_seeds holds '2', a model of config.primary",
        ),
    ],
)
def test_plans_that_cannot_be_kept(changes, message):
    with pytest.raises(ValueError, match=message):
        grid.expand(make_config(**changes))


@pytest.mark.parametrize(
    ("claim", "changes", "message"),
    [
        ("equal_loss", {"measures.checkpoints": 0}, "needs samples of early checkpoints"),
        ("training_time", {"measures.checkpoints": 0}, "needs samples of early checkpoints"),
        ("equal_loss", {"measures.share": "loss_corrected"}, "have no loss_corrected share"),
        (
            "equal_loss",
            {"train.keep_log_spaced": False, "train.keep_last": 1},
            "only the last checkpoint stays",
        ),
        ("training_time", {"train.keep_log_spaced": False}, "those at 875, 1000 stay"),
        ("training_time", {"train.checkpoint_every": 150}, "the checkpoint at a quarter"),
        ("training_time", {"train.steps": 1500}, "the checkpoint at a quarter"),
        ("lpips", {"measures.lpips": "none"}, "config.measures.lpips is none"),
    ],
)
def test_claims_whose_data_are_not_made(claim, changes, message):
    config = make_config(secondary=(claim,))
    config.update_from_flattened_dict(
        {"train.steps": 1000, "train.checkpoint_every": 125, "train.keep_log_spaced": True}
    )
    assert grid.expand(config)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        grid.expand(config)


def test_a_model_may_have_fewer_seeds(tmp_path):
    models = {"2": "2", "3": "3", "2-wide": "2"}
    seeds = tuple(range(6))
    control = {"2-wide": (0, 1, 2, 3)}
    config = make_config(models=models, seeds=seeds, model_seeds=control, primary=("2", "3"))
    names = [cell.name for cell in grid.expand(config)]
    assert len(names) == 16
    assert [name for name in names if name.startswith("2-wide")] == [
        f"2-wide-80_20-n300-s{seed}" for seed in range(4)
    ]
    begun = plan_study(config, epath.Path(tmp_path) / "study.json")
    assert begun["planned"]["model_seeds"] == {"2-wide": [0, 1, 2, 3]}
    plan = Plan.from_study(begun)
    assert plan.seeds_of(["2"]) == list(range(6))
    assert plan.seeds_of(["2", "2-wide"]) == [0, 1, 2, 3]


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2), (0, 2, 4, 6), (0, 1, 2, 3, 4)])
def test_compared_models_have_balanced_seeds_in_common(seeds):
    config = make_config(
        models={"2": "2", "3": "3", "2-wide": "2"},
        seeds=tuple(range(8)),
        primary=("2", "3"),
        secondary=(("2", "2-wide"),),
    )
    config.model_seeds = {"2-wide": (0, 1, 2, 3)}
    assert grid.expand(config)
    config.model_seeds = {"2-wide": seeds}
    with pytest.raises(ValueError, match=r"leaves 2 and 2-wide the seeds .* in common; a comp"):
        grid.expand(config)


@pytest.mark.parametrize(
    ("claim", "key", "value"), [("lpips", "lpips", "alex"), ("equal_loss", "checkpoints", 16)]
)
def test_what_claims_are_made_of_stays_in_a_begun_study(claim, key, value):
    config = make_config()
    config.data.size = 32
    begun = to_json(config.to_dict())
    config.measures[key] = value
    assert fixed_settings(to_json(config.to_dict())) == fixed_settings(begun)
    begun["secondary"] = [claim]
    config.secondary = (claim,)
    assert fixed_settings(to_json(config.to_dict())) != fixed_settings(begun)


def test_a_look_after_half_of_the_seeds():
    assert len(grid.expand(make_config(look=4, seeds=tuple(range(8))))) == 16


def test_seeds_that_are_added_to_a_study_do_not_move_its_look(tmp_path):
    path = epath.Path(tmp_path) / "study.json"
    more = make_config(look=4, seeds=tuple(range(10)))
    with pytest.raises(ValueError, match=r"config.look is 4 and there are 10 seeds"):
        plan_study(more, path)
    begun = plan_study(make_config(look=4, seeds=tuple(range(8))), path)
    files.write_json(path, begun)
    assert plan_study(more, path)["planned"] == begun["planned"]


def test_models_of_one_depth_have_no_primary_pair_by_default(tmp_path):
    config = make_config(models={"2": "2", "2-large": "2-large"})
    planned = plan_study(config, epath.Path(tmp_path) / "study.json")["planned"]
    assert planned["primary"] == ["2", "2"]
    config.primary = ("2", "2-large")
    planned = plan_study(config, epath.Path(tmp_path) / "other.json")["planned"]
    assert planned["primary"] == ["2", "2-large"], "whoever names them means them"
