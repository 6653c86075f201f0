"""Modules of users that register measures, models, samplers or datasets when imported."""

import importlib
from collections.abc import Sequence


def import_plugins(names: Sequence[str]) -> None:
    """Import modules by their dotted names.

    Raises
    ------
    ValueError
        Where a module cannot be found, or raises while it is imported.
    """
    if not isinstance(names, list | tuple):
        raise ValueError(
            f"plugins must be names of modules, as ('examples.new_measure',), got {names!r}"
        )
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(
                f"plugin {name!r} cannot be imported ({reason}); give a module's dotted name, "
                "such as examples.new_measure, that Python finds from here"
            ) from error
