"""The commands as users call them, in processes of their own or in forks of one."""

import os
import subprocess
import sys

from tests.experiments import command_server

SMALL = ("--config", "tests/experiments/tiny_study.py")
MID_BLOCK = ("--config", "tests/experiments/mid_block_study.py")
# Leaves out the measures that take most of the time, and most of the training.
SHORT = (
    "--config.train.steps=10",
    "--config.measures.lpips=none",
    "--config.measures.queries=0",
    "--config.measures.checkpoints=0",
    "--config.measures.probe=0",
)
CELL = "1-80_20-n50-s0"
# All of them have the same devices, and read what one of them has compiled.
XLA_FLAGS = (
    "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0 "
    "--xla_force_host_platform_device_count=2 --xla_cpu_multi_thread_eigen=false"
)


def start_command(name: str, *arguments, **options) -> subprocess.Popen:
    """Start experiments.NAME."""
    return start_module(f"experiments.{name}", *arguments, **options)


def start_module(module: str, *arguments, **options) -> subprocess.Popen:
    """Start a module."""
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command,
        env=environment(),
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
    """Run experiments.NAME to its end in a fork; what it prints."""
    return run_module(f"experiments.{name}", *arguments)


def run_module(module: str, *arguments) -> str:
    """Run a module to its end in a fork; what it prints."""
    finished = _run_in_fork(module, *arguments)
    assert finished.status == 0, finished.out + finished.err
    return finished.out


def fail_command(name: str, *arguments) -> str:
    """Run experiments.NAME in a fork; it has to end in one sentence, which is returned."""
    status, out, err = _run_in_fork(f"experiments.{name}", *arguments)
    assert status in (1, 2), out + err
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1, err
    return err.strip()


def _run_in_fork(module: str, *arguments) -> command_server.Finished:
    return command_server.run(module, *map(str, arguments), environment=environment(), timeout=300)


def environment() -> dict[str, str]:
    """Of a command that compiles fast; GLIBC_TUNABLES keeps it from beginning again."""
    return os.environ | {"XLA_FLAGS": XLA_FLAGS, "GLIBC_TUNABLES": ""}
