"""The commands as users call them, in processes of their own."""

import os
import subprocess
import sys

SMALL = ("--config", "tests/experiments/tiny_study.py")
# Leaves out the measures that take most of the time.
SHORT = (
    "--config.measures.lpips=none",
    "--config.measures.queries=0",
    "--config.measures.checkpoints=0",
    "--config.measures.probe=0",
)
CELL = "1-80_20-n50-s0"
XLA_FLAGS = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"


def start_command(name: str, *arguments, **options) -> subprocess.Popen:
    """Start experiments.NAME."""
    return start_module(f"experiments.{name}", *arguments, **options)


def start_module(module: str, *arguments, **options) -> subprocess.Popen:
    """Start a module; GLIBC_TUNABLES keeps the process from beginning again."""
    environment = os.environ | {"XLA_FLAGS": XLA_FLAGS, "GLIBC_TUNABLES": ""}
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for_output(process: subprocess.Popen, timeout: float = 300) -> str:
    """What a process prints; it has to succeed."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, out + err
    return out


def run_command(name: str, *arguments) -> str:
    """Run experiments.NAME to its end; what it prints."""
    return wait_for_output(start_command(name, *arguments))


def fail_command(name: str, *arguments) -> str:
    """Run experiments.NAME, which has to end in one sentence; the sentence."""
    process = start_command(name, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1, err
    return err.strip()
