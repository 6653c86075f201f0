"""What a result was made on: what may differ between equal runs."""

import functools
import importlib.metadata
import os
import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jaxdiff", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe_environment() -> dict[str, Any]:
    """The time, the host, the devices and the versions, for run.json."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": find_commit(Path(__file__).parent),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def find_commit(folder: Path) -> str:
    """The git commit that a folder's code is of, with "-dirty" where a tracked file was changed.

    The environment's JAXDIFF_COMMIT comes first, for images that are built without .git. "unknown"
    where neither is there, as for an installed wheel.
    """
    commit = os.environ.get("JAXDIFF_COMMIT")
    if commit:
        return commit
    # A wheel may be installed below someone else's repository, which does not track its files.
    if not _ask_git(folder, "ls-files", "."):
        return "unknown"
    return _ask_git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _ask_git(folder: Path, *command: str) -> str:
    """What git prints; "" where it fails or is not installed."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
