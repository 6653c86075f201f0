"""Diffusion models of configurable depth, and what depth does to their bias and memory.

In a notebook: ``import jaxdiff as jd``. The names below are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdiff.diffusion import Schedule
    from jaxdiff.models import Model, load, save
    from jaxdiff.notebook import build_unet, curvature, dataset, fit, lpips, memorization, sample
    from jaxdiff.unet import TABLE_A, UNet

# Importing the package imports no JAX: commands set its environment first, and reports do
# without it.
_MODULES = {
    "Model": "jaxdiff.models",
    "Schedule": "jaxdiff.diffusion",
    "TABLE_A": "jaxdiff.unet",
    "UNet": "jaxdiff.unet",
    "build_unet": "jaxdiff.notebook",
    "curvature": "jaxdiff.notebook",
    "dataset": "jaxdiff.notebook",
    "fit": "jaxdiff.notebook",
    "load": "jaxdiff.models",
    "lpips": "jaxdiff.notebook",
    "memorization": "jaxdiff.notebook",
    "sample": "jaxdiff.notebook",
    "save": "jaxdiff.models",
}

__all__ = [
    "TABLE_A",
    "Model",
    "Schedule",
    "UNet",
    "build_unet",
    "curvature",
    "dataset",
    "fit",
    "load",
    "lpips",
    "memorization",
    "sample",
    "save",
]


if not TYPE_CHECKING:  # type checkers see the imports above instead

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(_MODULES[name]), name)
        raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
