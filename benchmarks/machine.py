"""The machine and the libraries that a benchmark's figures belong to.

  python -m benchmarks.machine [PACKAGE ...]

Prints them, for the packages that it is told to import. Peers in another interpreter are described
by running this there.
"""

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks.turns import ROOT

VECTORS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve")
# Modules whose versions say what was measured, and the packages that they come from.
PACKAGES = {
    "jax": "jax",
    "numpy": "numpy",
    "torch": "torch",
    "diffusers": "diffusers",
    "faiss": "faiss-cpu",
    "lpips": "lpips",
    "PIL": "pillow",
}


def read_cpuinfo() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        first_core = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first_core.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def describe_processor() -> str:
    """The processor's name, this process's cores, and the vector instructions that matter."""
    info = read_cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in info:  # clouds shorten the name
        name += f" (family {info['cpu family']}, model {info['model']})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    supported = info.get("flags", info.get("Features", "")).split()
    vectors = [vector for vector in VECTORS if vector in supported]
    return f"{name}, {cores} cores, {' '.join(vectors) or 'vector instructions not known'}"


def describe_blas() -> str:
    """The BLAS libraries that this process has loaded: version, kernel and threads of each."""
    try:
        import threadpoolctl
    except ImportError:  # a peer's interpreter need not have it
        return "BLAS not known (threadpoolctl is not installed)"
    libraries = []
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] != "blas":
            continue
        parts = Path(library["filepath"]).parts
        owner = parts[parts.index("site-packages") + 1] if "site-packages" in parts else "system"
        libraries.append(
            f"{owner.removesuffix('.libs')}: {library['internal_api']} {library['version']}, "
            f"kernel {library.get('architecture', 'not known')}, {library['num_threads']} threads"
        )
    return f"BLAS of {'; '.join(libraries)}" if libraries else "no BLAS loaded"


def describe_libraries() -> str:
    """Versions of what is imported, and the BLAS in use."""
    versions = {
        package: importlib.metadata.version(package)
        for module, package in PACKAGES.items()
        if module in sys.modules
    }
    if "torch" in versions:  # its BLAS and oneDNN are within it
        versions["torch"] += f" (kernels: {sys.modules['torch'].backends.cpu.get_cpu_capability()})"
    names = [f"{package} {version}" for package, version in versions.items()]
    return f"{', '.join([f'Python {platform.python_version()}', *names])}; {describe_blas()}"


def describe_machine() -> str:
    """The processor, and this process's libraries."""
    return f"{describe_processor()}\n{describe_libraries()}"


def describe_pair(peer_python: str, *packages: str) -> str:
    """The processor, our libraries, and those of a peer in another interpreter."""
    command = [peer_python, "-m", "benchmarks.machine", *packages]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    peer = process.stdout.splitlines()[-1]
    return f"{describe_processor()}\nours: {describe_libraries()}\npeer: {peer}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    print(describe_machine())
