"""The flag --config: a Python file whose get_config() returns the settings of a command."""

import ast
import contextlib
import dataclasses
import os
import re
import sys
import traceback
import typing
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from experiments._errors import ConfigFileError
from jaxdiff.setting_fields import check_keys
from jaxdiff.settings import StudySettings


def define_config(help: str, settings_class: type = StudySettings) -> None:
    """The flag --config, and --config.KEY=VALUE for each key of the settings."""
    config_flags.register_flag_parser_for_type(tuple, _TupleParser())
    config_flags.DEFINE_config_file("config", None, help)
    flags.FLAGS["config"].parser = _ConfigFileParser(settings_class)


class _ConfigFileParser(flags.ArgumentParser):
    """Loads a config file; whatever is wrong with it names the file, and the line or the key."""

    def __init__(self, settings_class: type):
        super().__init__()
        self._settings_class = settings_class

    def flag_type(self) -> str:
        return "config file"

    def parse(self, path: str) -> ConfigDict:
        # ml_collections finds the flags of single settings in sys.argv as well.
        _check_overrides(sys.argv, self._settings_class)
        config = load_config_file(path)
        try:
            check_keys(self._settings_class, config)
        except ValueError as error:
            raise ConfigFileError(f"{path}: {error}") from None
        return config.lock()


class _TupleParser(TupleParser):
    """Reads a tuple, a list or a single value; ml_collections takes sets, dicts and bytes too."""

    def parse(self, argument: Any) -> tuple[Any, ...]:
        literal = None
        if isinstance(argument, str):
            with contextlib.suppress(ValueError, SyntaxError):  # a text without quotes
                literal = ast.literal_eval(argument)
        if isinstance(literal, set | dict | bytes):
            raise ValueError(f"a tuple is expected, got {argument}")
        return super().parse(argument)


def _check_overrides(argv: Sequence[str], settings_class: type) -> None:
    """Refuse a flag for a whole section, which would drop the file's other settings of it."""
    kinds = typing.get_type_hints(settings_class)
    for argument in argv:
        key = re.fullmatch(r"--?config\.(\w+)(=.*)?", argument, re.DOTALL)
        if key and dataclasses.is_dataclass(kinds.get(key[1])):
            raise ConfigFileError(
                f"config.{key[1]} is a section; set its keys one by one, as "
                f"--config.{key[1]}.KEY=VALUE"
            )


def load_config_file(path: str) -> ConfigDict:
    """What get_config() of a file returns; of FILE:TEXT, what get_config(TEXT) returns.

    Raises
    ------
    ConfigFileError
        Where there is no such file, it does not run, or it returns something else.
    """
    file, colon, text = path.partition(":")
    if not os.path.isfile(file):
        raise ConfigFileError(f"there is no config file {file}; see configs/ for those that exist")
    loader = SourceFileLoader("config_file", file)
    spec = spec_from_loader("config_file", loader)
    assert spec is not None
    module = module_from_spec(spec)
    try:
        loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config(*[text] if colon else []) if callable(get_config) else None
    except (Exception, SystemExit) as error:
        raise ConfigFileError(_describe(file, error)) from error
    if not callable(get_config):
        raise ConfigFileError(f"{file} must define get_config(); see configs/quickstart.py")
    if not isinstance(config, ConfigDict):
        raise ConfigFileError(
            f"get_config() of {file} must return a ConfigDict, got a {type(config).__name__}; "
            "begin with default_config() and return it, as configs/quickstart.py does"
        )
    return config


def _describe(file: str, error: BaseException) -> str:
    """Which line of a config file raised, and what."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    if isinstance(error, SyntaxError) and error.filename == file:
        lines = [error.lineno]
    place = f"{file}, line {lines[-1]}" if lines else file
    if isinstance(error, SystemExit):
        return f"{place}: the file ends the process; a config file returns a config alone"
    message = " ".join(str(error).split())
    return f"{place}: {type(error).__name__}: {message}; correct the file"
