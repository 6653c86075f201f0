"""Compiled programs on disk: what an accelerator took minutes to compile is compiled once."""

import os
from pathlib import Path
from typing import Any

import jax


def enable(platform: str) -> Path | None:
    """Keep compiled programs on disk, where compiling is slow; before the first compilation.

    A folder that the user named (JAX_COMPILATION_CACHE_DIR) stays, and with
    JAX_ENABLE_COMPILATION_CACHE=false there is none. JAX keeps what took a second or more.

    Parameters
    ----------
    platform
        The platform that programs are compiled for: cpu, gpu or tpu.

    Returns
    -------
    folder
        Where programs are kept; None where they are not.
    """
    config: Any = jax.config  # older versions do not declare its attributes
    if not config.jax_enable_compilation_cache:
        return None
    # A CPU compiles in seconds, and its programs may not run on the next machine's CPU.
    if config.jax_compilation_cache_dir is None and platform != "cpu":
        config.update("jax_compilation_cache_dir", str(_default_folder()))
    folder = config.jax_compilation_cache_dir
    return Path(folder) if folder else None


def _default_folder() -> Path:
    # An empty or relative path counts as none, as the XDG Base Directory Specification says.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "jaxdiff"
