"""Models in other widths, lengths of training and learning rates: each combination is a model.

What is compared by model, such as claims, tables and figures, then needs to know nothing of axes.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxdiff.setting_fields import keys
from jaxdiff.settings import AxesSettings, StudySettings, TrainSettings
from jaxdiff.typed_values import checked_value


class Axis(NamedTuple):
    """An axis of `AxesSettings`.

    Parameters
    ----------
    field
        Its name there, and in the entry of a model.
    letters
        What begins its part of a model's name, before the value.
    settings_class, setting
        The setting that an entry's value replaces.
    """

    field: str
    letters: str
    settings_class: type
    setting: str


AXES = (
    Axis("width", "w", StudySettings, "width"),
    Axis("train_steps", "t", TrainSettings, "steps"),
    Axis("learning_rate", "lr", TrainSettings, "learning_rate"),
)
OF_TRAINING = tuple(axis.field for axis in AXES if axis.settings_class is TrainSettings)


def expand_models(models: Mapping[str, Any], axes: AxesSettings) -> dict[str, Any]:
    """The models by name, each in every combination of the axes that have values.

    Parameters
    ----------
    models
        `StudySettings.models`: an entry is a row, or a dict that may hold values of axes itself.
    axes
        The values; a study without any keeps its models as they are.

    Raises
    ------
    ValueError
        Where an entry and an axis say the same thing, or an axis has a value twice.
    """
    used = [axis for axis in AXES if getattr(axes, axis.field)]
    if not used:
        return dict(models)
    for axis in used:
        values = getattr(axes, axis.field)
        if len({f"{value:g}" for value in values}) < len(values):
            raise ValueError(
                f"config.axes.{axis.field} is {values}; values that are written alike, as "
                "2-w0.5, would be one folder, so leave out what it holds twice"
            )
    return {
        name: fields
        for model, entry in models.items()
        for name, fields in _variants(model, entry, used, axes)
    }


def _variants(
    model: str, entry: Any, used: list[Axis], axes: AxesSettings
) -> Iterator[tuple[str, dict[str, Any]]]:
    fields = dict(entry) if isinstance(entry, Mapping) else {"row": entry}
    for axis in used:
        if axis.field in fields:
            raise ValueError(
                f"config.models.{model} sets {axis.field}, and config.axes.{axis.field} gives it "
                "to all models; leave one of them out"
            )
    for values in itertools.product(*(getattr(axes, axis.field) for axis in used)):
        pairs = list(zip(used, values, strict=True))
        suffix = "".join(f"-{axis.letters}{value:g}" for axis, value in pairs)
        yield model + suffix, fields | {axis.field: value for axis, value in pairs}


def axis_values(entry: Any) -> tuple[float, ...]:
    """The values of the axes that an entry of the models sets, in the axes' order."""
    fields = entry if isinstance(entry, Mapping) else {}
    return tuple(float(fields[axis.field]) for axis in AXES if axis.field in fields)


def train_settings(study: StudySettings, model: str) -> TrainSettings:
    """The settings of training, with what the entry of a model has of its own.

    Raises
    ------
    ValueError
        Where the entry's value is out of the setting's bounds.
    """
    return dataclasses.replace(study.train, **_own_settings(study, model, TrainSettings))


def model_width(study: StudySettings, model: str) -> float:
    """The factor on the channels of a model; raises ValueError as `train_settings`."""
    return _own_settings(study, model, StudySettings).get("width", study.width)


def _own_settings(study: StudySettings, model: str, settings_class: type) -> dict[str, Any]:
    """The settings of a class that the entry of a model sets, checked as the class has them."""
    entry = study.models[model]
    fields = entry if isinstance(entry, Mapping) else {}
    kinds = {key.name: key for key in keys(settings_class)}
    own = {}
    for axis in AXES:
        if axis.settings_class is settings_class and axis.field in fields:
            key = kinds[axis.setting]
            name = f"config.models.{model}.{axis.field}"
            own[axis.setting] = checked_value(
                name, fields[axis.field], key.kind, key.field.metadata
            )
    return own
