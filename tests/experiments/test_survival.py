"""Runs that are killed, sent SIGTERM, starved of disk or diverge, and the same command again."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxdiff import checkpoints, files, results
from tests.experiments.commands import CELL, SHORT, SMALL, environment

KILLS = int(os.environ.get("JAXDIFF_KILLS", "2"))  # that hit a run, of each kind
RESUME_SENTENCE = "run the same command again to resume"
SIGTERM_ERROR = f"error: received SIGTERM; {RESUME_SENTENCE}"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
pytestmark = pytest.mark.slow


def start(workdir, *arguments):
    """Start the tiny study with all four checkpoints, and without its longer measures."""
    command = [sys.executable, "-W", "ignore", "-m", "experiments.sweep", *SMALL, *SHORT]
    command += ["--config.train.steps=40", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(command, env=environment(), **PIPES)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "report:" in out, out + err


def copy_classifiers(unbroken, workdir):
    """So that they are not trained again."""
    shared = unbroken.workdir / "shared"
    shutil.copytree(shared, workdir / "shared", ignore=shutil.ignore_patterns("*.lock"))


def checkpoint_folder(workdir, cell=CELL):
    return workdir / "cells" / cell / "checkpoints"


class Unbroken(NamedTuple):
    """A run without interruption, and how long it took."""

    workdir: os.PathLike
    seconds: float


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    finish(start(folder / "compiles"))  # those that follow read its programs
    start_time = time.time()
    finish(start(folder / "study"))
    return Unbroken(folder / "study", time.time() - start_time)


def assert_equal_studies(workdir, expected_workdir, cell=CELL):
    """The weights and their average bit for bit, the samples and the result byte for byte."""
    folder = checkpoint_folder(workdir, cell)
    expected_folder = checkpoint_folder(expected_workdir, cell)
    step = checkpoints.latest_valid_step(expected_folder)
    assert checkpoints.latest_valid_step(folder) == step
    for part in ("params", "ema"):
        expected = checkpoints.restore_part(expected_folder, step, part)
        for name, value in checkpoints.restore_part(folder, step, part).items():
            np.testing.assert_array_equal(value, expected[name])
    for name in ("samples.npz", "classes.npz", "result.json"):
        path = workdir / "cells" / cell / name
        expected_path = expected_workdir / "cells" / cell / name
        assert path.read_bytes() == expected_path.read_bytes(), name


def assert_sigterm_was_handled(process, err):
    # A process that ended by itself before the signal has 0, one whose Python had not started
    # yet the signal.
    assert process.returncode in (0, 143, -signal.SIGTERM), err
    if process.returncode == 143:
        assert RESUME_SENTENCE in err


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_interrupted_at_random_moments_and_run_again(kind, unbroken, tmp_path):
    workdir = tmp_path / "study"
    moments = random.Random(int(kind))
    hits = 0
    while hits < KILLS:
        process = start(workdir)
        moment = moments.uniform(0.1, 0.95) * unbroken.seconds
        try:
            out, err = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
            out, err = process.communicate(timeout=120)
            hits += 1
            last_line = (out.splitlines() or ["-"])[-1]
            print(f"{kind.name} after {moment:.1f} s of {unbroken.seconds:.1f}: {last_line}")
            if kind == signal.SIGTERM:
                assert_sigterm_was_handled(process, err)
        else:  # it finished before: another one is started
            assert "report:" in out, out + err
            assert_equal_studies(workdir, unbroken.workdir)
            shutil.rmtree(workdir)
    finish(start(workdir))
    assert_equal_studies(workdir, unbroken.workdir)


def test_cells_at_once_are_killed_and_go_on(tmp_path):
    options = (
        "--config.seeds=(0,2)",
        "--config.train.steps=80",
        "--config.train.checkpoint_every=20",
    )
    finish(start(tmp_path / "unbroken", *options))
    workdir = tmp_path / "study"
    process = start(workdir, *options)
    cells = (CELL, CELL.replace("s0", "s2"))
    while not all(checkpoints.list_steps(checkpoint_folder(workdir, cell)) for cell in cells):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    steps = [checkpoints.list_steps(checkpoint_folder(workdir, cell))[-1] for cell in cells]
    assert max(steps) < 80, "it was killed in training"
    finish(start(workdir, *options))
    for cell in cells:
        assert_equal_studies(workdir, tmp_path / "unbroken", cell)


def test_sigterm_in_training_saves_the_step(unbroken, tmp_path):
    workdir = tmp_path / "study"
    copy_classifiers(unbroken, workdir)
    process = start(
        workdir, "--config.train.steps=200000", "--config.train.checkpoint_every=100000"
    )
    metrics = workdir / "cells" / CELL / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.splitlines() == [SIGTERM_ERROR]
    (step,) = checkpoints.list_steps(checkpoint_folder(workdir))
    assert 0 < step < 100000
    assert f"training is saved at step {step} of 200000" in out


READ_FOREVER = """
from experiments import _cli
from jaxdiff import models
def main():
    print("reading", flush=True)
    while True:
        models.load({path!r})
_cli.run(main, "")
"""


def test_sigterm_while_a_checkpoint_is_read(unbroken):
    """Wherever the signal lands.

    What is raised in Orbax's event loop or in a callback of the garbage collector is swallowed.
    """
    program = READ_FOREVER.format(path=str(unbroken.workdir / "cells" / CELL))
    command = [sys.executable, "-W", "ignore", "-c", program]
    for i in range(6):
        process = subprocess.Popen(command, **PIPES)
        assert process.stdout.readline() == "reading\n"
        time.sleep(0.5 + 0.13 * i)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        assert err.splitlines() == [SIGTERM_ERROR]


def test_a_step_that_is_not_finite_stops_the_run(unbroken, tmp_path):
    workdir = tmp_path / "study"
    copy_classifiers(unbroken, workdir)
    process = start(workdir, "--config.train.learning_rate=1e6", "--config.train.clip=1e30")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 3, out
    assert len(err.splitlines()) == 1
    for words in (f"error: {CELL}: the ", " at step ", "train.learning_rate"):
        assert words in err
    folder = checkpoint_folder(workdir)
    diverged = files.read_json(folder.parent / results.DIVERGED)
    assert diverged["cell"]["seed"] == 0
    assert "train.learning_rate" in diverged["reason"]
    for step in checkpoints.list_steps(folder):
        assert checkpoints.find_corruption(folder, step) is None


def tmpfs_size(folder):
    """Bytes that the files of a folder take on a tmpfs, which stores pages."""
    sizes = [path.stat().st_size for path in folder.rglob("*")]
    return sum(-(-size // 4096) * 4096 for size in sizes)


@pytest.fixture
def small_disk():
    """A file system of 100 MB, outside pytest's folders: a killed test leaves it mounted."""
    folder = Path(tempfile.mkdtemp(prefix="jaxdiff-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)]
    try:
        if shutil.which("mount") is None:
            pytest.skip("there is no mount")
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no tmpfs can be mounted")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    finally:
        folder.rmdir()


def fill_before_training(process, disk, leave):
    """Wait until training begins, then fill the disk but for some bytes."""
    while not (disk / "study/shared/stages/classifiers.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - leave))


def test_a_full_disk_keeps_the_last_step_and_the_run_resumes(unbroken, small_disk):
    one_checkpoint = tmpfs_size(checkpoint_folder(unbroken.workdir) / "40")
    workdir = small_disk / "study"
    process = start(workdir)
    try:
        fill_before_training(process, small_disk, leave=one_checkpoint * 7 // 4)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1, out + err
    assert len(err.splitlines()) == 1, err
    assert "No space left on device" in err
    folder = checkpoint_folder(workdir)
    steps = checkpoints.list_steps(folder)
    assert steps
    assert all(checkpoints.find_corruption(folder, step) is None for step in steps)
    assert f"step {steps[-1]} is valid" in err
    (small_disk / "ballast").unlink()
    finish(start(workdir))
    assert_equal_studies(workdir, unbroken.workdir)
