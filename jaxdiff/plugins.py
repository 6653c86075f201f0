"""Modules of users that register measures, models, samplers or datasets when imported."""

import importlib
from collections.abc import Iterable


def import_plugins(names: Iterable[str]) -> None:
    """Import modules by their dotted names.

    Raises
    ------
    ValueError
        Where a module cannot be found.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"plugin {name!r} cannot be imported ({error}); give a module's dotted name, "
                "such as examples.new_measure, that Python finds from here"
            ) from None
