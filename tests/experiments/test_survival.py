"""Runs that are killed, told to end, starved of disk or led astray, and the same command again."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxdiff import checkpoints
from tests.experiments.test_sweep import CELL, SHORT, SMALL

KILLS = int(os.environ.get("JAXDIFF_KILLS", "3"))  # that hit a run, of each kind
pytestmark = pytest.mark.slow


def start(workdir, *arguments):
    """The tiny study without its longer measures on one CPU device, where equal runs are equal bit for bit."""
    flags = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0 --xla_force_host_platform_device_count=1"
    run = [sys.executable, "-W", "ignore", "-m", "experiments.sweep", *SMALL, *SHORT, f"--workdir={workdir}",
           *arguments]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(run, env=os.environ | {"XLA_FLAGS": flags}, **pipes)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir, then = tmp_path_factory.mktemp("unbroken") / "study", time.time()
    process = start(workdir)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    return workdir, time.time() - then


def same(ours, theirs):
    """The weights and their average bit for bit, the samples and the result byte for byte."""
    ours, theirs = ours / "cells" / CELL, theirs / "cells" / CELL
    step = checkpoints.newest(theirs / "checkpoints")
    assert checkpoints.newest(ours / "checkpoints") == step
    for part in ("params", "ema"):
        wanted = checkpoints.restore_part(theirs / "checkpoints", step, part)
        for name, value in checkpoints.restore_part(ours / "checkpoints", step, part).items():
            np.testing.assert_array_equal(value, wanted[name])
    for name in ("samples.npz", "classes.npz", "result.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_ended_at_random_moments_and_run_again(kind, unbroken, tmp_path):
    (whole, seconds), study, hit = unbroken, tmp_path / "study", 0
    moments = random.Random(int(kind))
    while hit < KILLS:
        process, moment = start(study), moments.uniform(0.1, 0.95) * seconds
        try:
            out, err = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
            out, err = process.communicate(timeout=120)
            hit += 1
            print(
                f"{kind.name} after {moment:.1f} s of {seconds:.1f}: {' '.join((out.splitlines() or ['-'])[-1:])}"
            )
            if kind == signal.SIGTERM and process.returncode != 0:
                assert process.returncode in (143, -signal.SIGTERM), (
                    err
                )  # the latter while Python itself still starts
                assert process.returncode < 0 or "the same command goes on from here" in err
        else:  # it came to its end before: another one is begun
            assert "report:" in out, out + err
            same(study, whole)
            shutil.rmtree(study)
    out, err = start(study).communicate(timeout=300)
    assert "report:" in out, out + err
    same(study, whole)


def test_told_to_end_in_training_it_is_saved_where_it_was(tmp_path):
    process = start(
        tmp_path / "study", "--config.train.steps=200000", "--config.train.checkpoint_every=100000"
    )
    metrics = tmp_path / "study" / "cells" / CELL / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert err.splitlines() == ["error: told to end (SIGTERM); the same command goes on from here"]
    (step,) = checkpoints.steps(metrics.parent / "checkpoints")
    assert 0 < step < 100000
    assert f"training is saved at step {step} of 200000" in out


READING = """
from experiments import _cli
from jaxdiff import models
def main():
    print("reading", flush=True)
    while True:
        models.load({path!r})
_cli.run(main, "")
"""


def test_told_to_end_while_a_checkpoint_is_read(unbroken):
    """Wherever the signal lands: what is raised in Orbax's event loop or in a callback of the garbage collector is swallowed."""
    program = READING.format(path=str(unbroken[0] / "cells" / CELL))
    for i in range(6):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program], **pipes)
        assert process.stdout.readline() == "reading\n"
        time.sleep(0.5 + 0.13 * i)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        assert err.splitlines() == [
            "error: told to end (SIGTERM); the same command goes on from here"
        ]


def test_a_step_that_is_not_finite_stops_the_run(tmp_path):
    process = start(
        tmp_path / "study", "--config.train.learning_rate=1e6", "--config.train.clip=1e30"
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert len(err.splitlines()) == 1
    for words in ("error: the ", " at step ", "train.learning_rate"):
        assert words in err
    print(err)
    saved = tmp_path / "study" / "cells" / CELL / "checkpoints"
    for step in checkpoints.steps(saved):
        assert checkpoints.damage(saved, step) is None


def pages(folder):
    """Bytes that the files of a folder take on a tmpfs."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def test_a_full_disk_keeps_the_last_step_and_the_run_goes_on(unbroken, tmp_path):
    disk, one = tmp_path / "disk", pages(unbroken[0] / "cells" / CELL / "checkpoints" / "40")
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    try:
        process = start(disk / "study")
        while not (disk / "study/shared/stages/classifiers.json").exists():  # training comes next
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - one * 7 // 4))
        out, err = process.communicate(timeout=300)
        print(err)
        assert process.returncode == 1, out + err
        assert len(err.splitlines()) == 1, err
        assert "No space left on device" in err
        saved = disk / "study/cells" / CELL / "checkpoints"
        kept = checkpoints.steps(saved)
        assert kept
        assert all(checkpoints.damage(saved, step) is None for step in kept)
        assert f"step {kept[-1]} is whole" in err
        (disk / "ballast").unlink()
        out, err = start(disk / "study").communicate(timeout=300)
        assert "report:" in out, out + err
        same(disk / "study", unbroken[0])
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["umount", str(disk)], check=True)
