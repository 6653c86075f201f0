"""The report, drawn from results alone: figures (SVG), tables (CSV) and one self-contained page."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdiff.report.page import draw, write

__all__ = ["draw", "write"]


if not TYPE_CHECKING:  # type checkers see the imports above instead

    def __getattr__(name: str) -> Any:
        # matplotlib is imported where something is drawn: a third of a second of every command.
        if name in __all__:
            return getattr(importlib.import_module("jaxdiff.report.page"), name)
        raise AttributeError(f"module 'jaxdiff.report' has no attribute {name!r}")
