"""Fields of the JSON files of others: nonsense is refused by name, before memory is asked for."""

import json

import pytest

from jaxdiff import diffusers_config, diffusers_scheduler, files
from jaxdiff.diffusers_config import RULES, read_config
from jaxdiff.field_rules import FLAG, NULL, check_fields, list_of, number, one_of, whole
from jaxdiff.stable_diffusion import folder as folders
from jaxdiff.stable_diffusion.pipeline import Pipeline
from tests.conftest import TINY_CONFIG
from tests.stable_diffusion import tiny

# No field of any file may have one of these.
NONSENSE = [-1, 10**30, 1e9, -0.5, float("nan"), float("inf"), {}, [], [[]], [True], ["zz", 3], ""]
SCHEDULER = {"_class_name": "DDIMScheduler"}


@pytest.mark.parametrize(
    ("rule", "accepted", "refused"),
    [
        (whole(0, 3), [0, 3], [True, False, -1, 4, 1.0, "1", None, [1]]),
        (number(0, 1), [0, 1, 0.5], [True, -1e-9, 1.1, float("nan"), 10**400, "0.5", None]),
        (FLAG, [True, False], [0, 1, "true", None, []]),
        (one_of("a", "b"), ["a"], ["c", None, ["a"], {}]),
        (NULL | whole(1, 2), [None, 1], [0, False, "null"]),
        (list_of(whole(1, 2), 2, 3), [[1, 2], (1, 2, 2)], [[1], [1] * 4, [1, 3], "12", 2, None]),
    ],
)
def test_a_rule_accepts_values_of_its_type_and_range(rule, accepted, refused):
    assert all(map(rule.accepts, accepted))
    assert not any(map(rule.accepts, refused))


def test_the_message_is_short():
    with pytest.raises(ValueError, match=r"f.json sets a to \[0, .*\.\.\.; it must be true or fal"):
        check_fields({"a": [0] * 1000}, {"a": FLAG}, "f.json")


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (None, FLAG, "sets a to null; it must be true or false"),
        (False, NULL, "sets a to false; it must be null"),
        ("x", whole(1, 2), 'sets a to "x"; it must be a whole number from 1 to 2'),
        (3, list_of(FLAG, 2, 2), "sets a to 3; it must be a list of 2 values, each true or false"),
    ],
)
def test_the_message_has_values_as_json_has_them(value, rule, message):
    with pytest.raises(ValueError, match=f"^f.json {message}$"):
        check_fields({"a": value}, {"a": rule}, "f.json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("[]", r"\[\]"), ("null", "null"), ("3", "3"), ('"x"', '"x"'), ("true", "true")],
)
def test_a_file_that_holds_no_object_is_refused(tmp_path, text, shown):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"must hold a JSON object, got {shown}; write it again"):
        files.read_json(path)


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize("key", RULES)
def test_nonsense_in_a_unets_config_is_refused_by_name(key, value):
    config = diffusers_config.write_config(TINY_CONFIG)
    with pytest.raises(ValueError, match=rf"config.json.*{key}"):
        read_config(config | {key: value}, "config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("flip_sin_to_cos", "zz"),
        ("norm_num_groups", -1),
        ("dropout", 1e9),
        ("dropout", 1),
        ("layers_per_block", 10**9),
        ("layers_per_block", 0),
        ("in_channels", True),
        ("block_out_channels", [8, 10**9]),
        ("block_out_channels", 8),
        ("down_block_types", "DownBlock2D"),
        ("sample_size", [8, 8, 8]),
        ("add_attention", 1),
        ("act_fn", None),
        ("norm_eps", "1e-5"),
    ],
)
def test_a_unets_config_with_wrong_types_and_ranges_is_refused(key, value):
    config = diffusers_config.write_config(TINY_CONFIG)
    with pytest.raises(ValueError, match=f"config.json sets {key} to"):
        read_config(config | {key: value}, "config.json")


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize("key", [*diffusers_scheduler.RULES, "beta_schedule", "variance_type"])
def test_nonsense_in_a_scheduler_is_refused_by_name(key, value, tmp_path):
    fields = {"_class_name": "DDPMScheduler", key: value}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"scheduler_config.json sets {key} to"):
        diffusers_scheduler.read(tmp_path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"trained_betas": [0.1, 0.2]}, "to 1000 and has 2 trained_betas"),
        ({"num_train_timesteps": 5, "steps_offset": 5}, "it must be below num_train_timesteps, 5"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "the second no smaller"),
        ({"beta_start": 0}, "the first must be above 0"),
        ({"num_train_timesteps": 3, "trained_betas": [0.0] * 3}, "trained_betas to values from 0"),
        ({"num_train_timesteps": 3, "trained_betas": [1.0] * 3}, "above 0 and below 1, or the la"),
        ({"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, "which needs 2 steps"),
    ],
)
def test_fields_of_a_scheduler_that_contradict_are_refused(fields, sentence, tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(SCHEDULER | fields))
    with pytest.raises(ValueError, match=sentence):
        diffusers_scheduler.read(tmp_path)


ZERO_SNR = {"rescale_betas_zero_snr": True}


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("fields", [ZERO_SNR, {"beta_end": 1}])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_eps_is_refused_where_sampling_begins_without_signal(
    name, fields, spacing, prediction, tmp_path
):
    """Where x0 would be divided by zero; DDIM with leading steps begins before."""
    content = fields | {
        "_class_name": name,
        "timestep_spacing": spacing,
        "prediction_type": prediction,
    }
    (tmp_path / "scheduler_config.json").write_text(json.dumps(content))
    if prediction == "epsilon" and (spacing, name) != ("leading", "DDIMScheduler"):
        with pytest.raises(ValueError, match="leaves no signal at the last step"):
            diffusers_scheduler.read(tmp_path)
        return
    read = diffusers_scheduler.read(tmp_path)
    assert diffusers_scheduler.build_schedule(read).alpha_bar[-1] == 0


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize("key", folders.UNET_RULES)
def test_nonsense_in_stable_diffusions_unet_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        folders.unet_config(tiny.SMALL_UNET | {key: value}, "config.json")


AUTOENCODER_KEYS = sorted(folders.AUTOENCODER_RULES.keys() & folders.AUTOENCODER_FIELDS)


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize("key", AUTOENCODER_KEYS)
def test_nonsense_in_an_autoencoder_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        folders.vae_config(tiny.SMALL_VAE | {key: value}, "config.json")


@pytest.mark.parametrize("key", folders.TEXT_RULES)
@pytest.mark.parametrize("value", [-1, 10**30, {}, [], None, float("nan"), [1]], ids=repr)
def test_nonsense_in_a_text_encoder_is_refused_by_name(key, value, tmp_path):
    folder = tiny.write_configs(tmp_path / "folder")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=rf"text_encoder.config.json sets {key} to"):
        Pipeline.load(folder)


def test_equal_heads_of_every_level_are_read():
    config = folders.unet_config(tiny.SMALL_UNET | {"attention_head_dim": [2, 2]}, "config.json")
    assert config.heads == 2
