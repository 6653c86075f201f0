"""The settings of a study: read from a config, and those that stay once it has begun."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxdiff import setting_fields
from jaxdiff.cells.cell import NEWER_DATA_SETTINGS, NEWER_TRAIN_SETTINGS
from jaxdiff.measures.registry import load_measures
from jaxdiff.plugins import import_plugins
from jaxdiff.setting_fields import Config, to_json
from jaxdiff.settings import MeasureSettings, SampleSettings, StudySettings
from jaxdiff.study.rules import ALONG_TRAINING, RULES
from jaxdiff.study.variants import expand_models
from jaxdiff.typed_values import checked_value

# What may grow in a study that has begun.
AXES = ("seeds", "models", "model_seeds", "axes", "data.proportions", "data.n")
# Studies that began before these settings existed have their defaults.
CLAIM_DEFAULTS: Mapping[str, Any] = {"secondary": [], "look": 0}
SAMPLE_DEFAULTS = {"dtype": SampleSettings.dtype}  # older files do not name it
PATH_KEYS = ("data.dir", "data.cache")  # what a result does not depend on


def default_config() -> ml_collections.ConfigDict:
    """A new study's config with every default, for a config file's get_config()."""
    return setting_fields.default_config(StudySettings)


def read_settings(config: Config) -> StudySettings:
    """The typed settings of a config, checked; its models in every combination of config.axes.

    Raises
    ------
    ValueError
        Naming the key, the value and what is allowed, for the first value that cannot be used.
    """
    load_measures()
    plugins = config.get("plugins", ())
    # Before the other settings, whose choices they extend.
    import_plugins(checked_value("config.plugins", plugins, tuple[str, ...], {}))
    study = setting_fields.from_config(StudySettings, config)
    study = dataclasses.replace(study, models=expand_models(study.models, study.axes))
    for rule in RULES:
        rule(study)
    return study


def fixed_settings(study: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay as it is in a study that has begun: it may gain cells and measures."""
    free = (*AXES, "planned", "measures", "plugins", "parallel", "track")
    study = {**CLAIM_DEFAULTS, **study}
    data = study.get("data", {})
    # What claims are made of is part of their rule, though measures may change.
    measures = study.get("measures", {})
    share = measures.get("share", MeasureSettings.share)
    claimed = {"lpips": ["lpips"], "checkpoints": ALONG_TRAINING}
    rule = {
        key: measures.get(key)
        for key, claims in claimed.items()
        if any(claim in study["secondary"] for claim in claims)
    }
    fixed_data = {key: data[key] for key in data if f"data.{key}" not in AXES + PATH_KEYS}
    fixed_data = to_json(NEWER_DATA_SETTINGS) | fixed_data
    fixed = {key: value for key, value in study.items() if key not in free}
    fixed["sample"] = SAMPLE_DEFAULTS | study.get("sample", {})
    fixed["train"] = NEWER_TRAIN_SETTINGS | study.get("train", {})
    return fixed | {"data": fixed_data, "share": share, "measures": rule}
