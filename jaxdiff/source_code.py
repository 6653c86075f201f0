"""The code behind a function as a fingerprint: what other code made is made again."""

import functools
import hashlib
import inspect
import io
import sys
import tokenize
from collections.abc import Callable
from types import ModuleType
from typing import Any

# A function's code is its module and those that it imports from these packages. A network's code
# is left out: trained weights are kept, whatever becomes of it.
CODE_PACKAGES = (
    "jaxdiff.datasets.images",
    "jaxdiff.datasets.mixtures",
    "jaxdiff.diffusion",
    "jaxdiff.estimates",
    "jaxdiff.features",
    "jaxdiff.landscape",
    "jaxdiff.measures",
    "jaxdiff.noise_bank",
    "jaxdiff.probe",
    "jaxdiff.reading",
    "jaxdiff.rng",
    "jaxdiff.samplers",
    "jaxdiff.sampling_method",
    "jaxdiff.sampling_programs",
    "jaxdiff.unet_bypass",
)
# Every measure imports these: an edit of how measures are declared would make all again.
NOT_CODE = ("jaxdiff.measures.registry", "jaxdiff.measures.artifacts")


def code_digest(*functions: Callable[..., Any]) -> str:
    """SHA-256 of the code behind functions: their modules and the measuring code they import."""
    names = set().union(*(list_code_modules(function.__module__) for function in functions))
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(_read_source(name))
    return digest.hexdigest()


def list_code_modules(name: str) -> set[str]:
    """The module and every module of CODE_PACKAGES that it imports, directly or not."""
    names = {name}
    waiting = [name]
    while waiting:
        module = sys.modules[waiting.pop()]
        for imported in _imported_modules(module) - names:
            if imported.startswith(CODE_PACKAGES) and imported not in NOT_CODE:
                names.add(imported)
                waiting.append(imported)
    return names


def _imported_modules(module: ModuleType) -> set[str]:
    """Names of the modules behind a module's attributes."""
    names = set()
    # An import leaves the module, or a class or function that names its own. A module of which
    # constants alone are imported is not seen.
    for value in vars(module).values():
        is_module = isinstance(value, ModuleType)
        owner = value.__name__ if is_module else getattr(value, "__module__", "")
        if isinstance(owner, str) and owner in sys.modules:
            names.add(owner)
    return names


@functools.cache
def _read_source(name: str) -> bytes:
    return strip_comments(inspect.getsource(sys.modules[name])).encode()


def strip_comments(source: str) -> str:
    """Python code without its comments: an edit of these alone makes nothing again."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    columns = dict(token.start for token in tokens if token.type == tokenize.COMMENT)
    code = []
    for row, line in enumerate(source.split("\n"), start=1):
        if row not in columns:
            code.append(line)
        elif before := line[: columns[row]].rstrip():
            code.append(before)
    return "\n".join(code)
