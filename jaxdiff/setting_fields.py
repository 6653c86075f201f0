"""Settings declared as dataclasses, and configs: reading, checking and explaining them."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import ml_collections

from jaxdiff.typed_values import checked_value

T = TypeVar("T")
Config: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any]


def setting(
    default: object,
    help: str,
    *,
    min: float | int | None = None,
    max: float | int | None = None,
    above: float | int | None = None,
    choices: Any = None,
    nonempty: bool = False,
) -> Any:
    """A field of a settings dataclass.

    Parameters
    ----------
    default
        The default value; its type is the setting's type.
    help
        What the setting means, in one line.
    min, max, above
        Bounds of a number, or of each entry of a tuple; ``above`` is exclusive.
    choices
        The values that are allowed, or a function that returns them.
    nonempty
        Whether a tuple or dict needs at least one entry.
    """
    metadata = {
        "help": help,
        "min": min,
        "max": max,
        "above": above,
        "choices": choices,
        "nonempty": nonempty,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Key(typing.NamedTuple):
    """One setting: its dotted name, its field and the type of its value."""

    name: str
    field: dataclasses.Field
    kind: Any

    @property
    def default(self) -> Any:
        """The value where nothing is set."""
        if self.field.default is not dataclasses.MISSING:
            return self.field.default
        factory: Any = self.field.default_factory
        return factory()


def keys(settings_class: type, prefix: str = "") -> Iterator[Key]:
    """All settings of a dataclass and of the sections within it, in order."""
    kinds = typing.get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from keys(typing.cast(type, kind), f"{prefix}{field.name}.")
        else:
            yield Key(prefix + field.name, field, kind)


def default_config(settings_class: type) -> ml_collections.ConfigDict:
    """A new ConfigDict with every default."""
    return ml_collections.ConfigDict(dataclasses.asdict(settings_class()))


def check_keys(settings_class: type, config: Config) -> None:
    """Check that a config has every setting, and nothing else.

    Raises
    ------
    ValueError
        Naming the first key that does not exist or is missing.
    """
    _check_section_keys(settings_class, config, "", settings_class)


def _check_section_keys(kind: type, config: Config, prefix: str, root: type) -> None:
    _check_known(kind, config, prefix, root)
    for name, field_kind in typing.get_type_hints(kind).items():
        key = prefix + name
        if name not in config:
            raise ValueError(
                f"config.{key} is missing; begin with default_config() and leave every key in it"
            )
        if dataclasses.is_dataclass(field_kind):
            _check_section(key, config[name])
            _check_section_keys(typing.cast(type, field_kind), config[name], key + ".", root)


def _check_known(kind: type, config: Config, prefix: str, root: type) -> None:
    known = {field.name for field in dataclasses.fields(kind)}
    for name in config:
        if name not in known:
            key = f"{prefix}{name}"
            nearest = nearest_key(key, root)
            raise ValueError(f"config.{key} does not exist; did you mean config.{nearest}?")


def _check_section(key: str, value: Any) -> None:
    if not isinstance(value, Mapping | ml_collections.ConfigDict):
        raise ValueError(f"config.{key} must be a section of settings, got {value!r}")


def from_config(settings_class: type[T], config: Config) -> T:
    """The typed and checked settings of a config.

    Parameters
    ----------
    settings_class
        A settings dataclass, such as StudySettings.
    config
        A ConfigDict or a mapping with the same keys.

    Raises
    ------
    ValueError
        Naming the key, for a key that does not exist or a value that is not allowed.
    """
    return _build(settings_class, config, "", settings_class)


def _build(settings_class: Any, config: Config, prefix: str, root: type) -> Any:
    kinds = typing.get_type_hints(settings_class)
    _check_known(settings_class, config, prefix, root)
    values = {}
    for field in dataclasses.fields(settings_class):
        name = prefix + field.name
        if field.name not in config:
            continue
        kind = kinds[field.name]
        value = config[field.name]
        if dataclasses.is_dataclass(kind):
            _check_section(name, value)
            values[field.name] = _build(kind, value, name + ".", root)
        else:
            values[field.name] = checked_value(f"config.{name}", value, kind, field.metadata)
    return settings_class(**values)


def explain(settings_class: type) -> str:
    """All settings as text, for --help_config."""
    lines = []
    for key in keys(settings_class):
        metadata = key.field.metadata
        default = key.default
        choices = metadata.get("choices")
        allowed = choices() if callable(choices) else choices
        note = f" [{', '.join(map(str, allowed))}]" if allowed else ""
        lines.append(f"  --config.{key.name}={default!s:<14} {metadata['help']}{note}")
    return "\n".join(lines)


def nearest_key(name: str, settings_class: type) -> str | None:
    """The setting whose name is most like `name`; None where `name` exists."""
    names = [key.name for key in keys(settings_class)]
    sections = {key.split(".")[0] for key in names}
    if name in names or name in sections or name.startswith("models."):
        return None
    by_leaf = {key.split(".")[-1]: key for key in names}
    exact = by_leaf.get(name.split(".")[-1])
    # With a cutoff of 0 there is always one.
    return exact or difflib.get_close_matches(name, names, 1, 0.0)[0]


def kind_name(name: str, settings_class: type) -> str:
    """The type of a setting in words."""
    for key in keys(settings_class):
        if key.name == name:
            return type(key.default).__name__
    return "the default's type"


def to_json(value: Any) -> Any:
    """Settings as JSON holds them: dataclasses become objects, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    return [to_json(entry) for entry in value] if isinstance(value, list | tuple) else value
