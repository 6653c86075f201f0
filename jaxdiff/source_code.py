"""A fingerprint of the code behind a function: when it changes, the result is made again."""

import ast
import functools
import hashlib
import importlib
import importlib.util
import io
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = "jaxdiff"
ENDS_OF_STATEMENT = (tokenize.NEWLINE, tokenize.COMMENT)
# These modules, and what only they import, do not count as code behind a result: an edit of one
# makes nothing again. Every other module that a function imports counts.
EXCLUDED_MODULES = frozenset(
    f"{PACKAGE}.{name}"
    for name in (
        # The networks of trained cells, and how they are read. A cell is not trained again because
        # code changed, and what a network with edited code computes is not what was trained.
        "denoiser",
        "models",
        # Datasets. Results are bound to the labels, the pools and the training images; to pixels
        # by a source's identity and the versions in it.
        "cells.data",
        "datasets.dataset",
        "datasets.image_io",
        "datasets.registry",
        # Settings. Results are bound to their values.
        "bypass.config",
        "cells.cell",
        "diffusers_config",
        "field_rules",
        "setting_fields",
        "settings",
        # Files, and how work is declared, run and split over devices.
        "cells.context",
        "cells.measuring",
        "diffusers_io",
        "files",
        "measures.artifacts",
        "measures.registry",
        "npz",
        "parallel",
        "programs",
        "progress",
        "results",
        "source_code",
        "stage",
        "timing",
    )
)


def code_digest(*functions: Callable[..., Any]) -> str:
    """SHA-256 of the code behind functions: their modules and what these import.

    Left out are comments, docstrings, the modules of EXCLUDED_MODULES and installed packages.
    """
    paths: dict[str, Path] = {}
    for function in functions:
        paths |= find_modules(function.__module__)
    digest = hashlib.sha256()
    for name in sorted(paths):
        digest.update(_read_code(paths[name]))
    return digest.hexdigest()


@functools.cache
def find_modules(name: str) -> dict[str, Path]:
    """The files of a module's code: its own, and those of what it imports, directly or not.

    Of a user's code they are those in the folder that Python found the module in; where it is
    installed, those of its package.
    """
    root = Path(str(sys.modules[name].__file__))
    folder = root.parents[name.count(".") + _is_package(root)]
    paths = {name: root}
    waiting = [name]
    while waiting:
        importing = waiting.pop()
        for imported in _read_imports(paths[importing], importing) - paths.keys():
            path = _find_module(imported, name, folder)
            if path is not None:
                paths[imported] = path
                waiting.append(imported)
    return paths


def _find_module(name: str, root: str, folder: Path) -> Path | None:
    """The file of a module that is part of the code of the root, which lies in this folder."""
    package = name.partition(".")[0]
    if package == PACKAGE:
        if name == PACKAGE or name in EXCLUDED_MODULES:
            return None
        folder = Path(__file__).parents[1]
    elif "site-packages" in folder.parts and package != root.partition(".")[0]:
        return None
    path = folder.joinpath(*name.split("."))
    files = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _is_package(path: Path) -> bool:
    return path.name == "__init__.py"


@functools.cache
def _read_imports(path: Path, name: str) -> set[str]:
    """Every dotted name that a file imports, in functions too; some name no module."""
    package = name if _is_package(path) else name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names |= _with_parents(alias.name)
                if alias.name == PACKAGE:  # any of its lazy names may be used
                    names |= set(importlib.import_module(PACKAGE)._MODULES.values())
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(relative, package)
            for alias in node.names:
                names |= _with_parents(f"{source}.{alias.name}")
                if source == PACKAGE:
                    names.add(importlib.import_module(PACKAGE)._MODULES.get(alias.name, PACKAGE))
    return names


def _with_parents(name: str) -> set[str]:
    """A dotted name and the packages that it is in, which an import runs too."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


@functools.cache
def _read_code(path: Path) -> bytes:
    return strip_comments(path.read_text(encoding="utf-8")).encode()


def strip_comments(source: str) -> str:
    """Python code without comments and docstrings, so that editing these makes nothing again."""
    removed = []
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    begins_statement = True
    for token, next_type in zip(tokens, [*(token.type for token in tokens[1:]), None], strict=True):
        if token.type == tokenize.COMMENT:
            removed.append(token)
        elif begins_statement and token.type == tokenize.STRING and next_type in ENDS_OF_STATEMENT:
            removed.append(token)  # a string that is a whole statement
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            begins_statement = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = source.split("\n")
    for token in reversed(removed):
        (first, start), (last, end) = token.start, token.end
        rest = (lines[first - 1][:start] + lines[last - 1][end:]).rstrip()
        lines[first - 1 : last] = [rest] if rest else []
    return "\n".join(lines)
