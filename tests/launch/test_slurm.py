"""launch/slurm.sh on a real SLURM of this machine."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from jaxdiff import parallel
from tests.launch.cluster import PROGRAMS, finished, slurm

SMALL = ("--config.train.steps=30", "--config.train.checkpoint_every=10", "--config.sample.num=16", "--config.sample.common=0",
         "--config.sample.steps=4", "--config.classifier.steps=30", "--config.measures.lpips=none", "--config.measures.queries=0",
         "--config.measures.checkpoints=0", "--config.measures.probe=0", "--config.measures.spaces=('pixels',)")  # fmt: skip


def test_one_process_a_node_has_all_its_gpus():
    step = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    assert parallel.slurm_local_device_ids(step) == list(range(8))
    assert parallel.slurm_local_device_ids(step | {"SLURM_NTASKS": "16"}) is None, (
        "one a GPU, as JAX has it"
    )
    assert parallel.slurm_local_device_ids(step | {"SLURM_GPUS_ON_NODE": ""}) is None
    assert parallel.slurm_local_device_ids({}) is None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(
            f"needs root and SLURM's {', '.join(missing or PROGRAMS)} (Debian: slurmctld slurmd slurm-client munge)"
        )
    flags = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment | {"JAXDIFF_VENV": sys.prefix, "XLA_FLAGS": flags}


def submit(environment, folder, options, *arguments):
    sbatch = ["sbatch", "--parsable", "--gpus-per-node=0", "--cpus-per-task=1", f"--output={folder}/%a.log", *options,
              "launch/slurm.sh", *arguments]  # fmt: skip
    done = subprocess.run(sbatch, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    states = finished(done.stdout.strip(), environment, 500)
    return states, "\n".join(path.read_text() for path in folder.glob("*.log"))


@pytest.mark.slow
def test_an_array_of_two_tasks_makes_every_cell(cluster, tmp_path):
    workdir = tmp_path / "study"
    states, log = submit(
        cluster,
        tmp_path,
        ("--array=1-2",),
        "configs/quickstart.py",
        *SMALL,
        "--cells=[23]-*",
        f"--workdir={workdir}",
    )
    assert states == "COMPLETED COMPLETED", log
    page = (workdir / "report.html").read_text()
    for model in "23":
        name = f"{model}-80_20-n300-s0"
        assert (workdir / "cells" / name / "result.json").exists()
        assert name in page
        assert log.count(f"{name} train: 30/30") == 1, "by one of the tasks"
    for task, first in ((1, "3"), (2, "2")):
        assert f"{first}-80_20-n300-s0 train: 30/30" in (tmp_path / f"{task}.log").read_text(), (
            "where each begins"
        )


@pytest.mark.slow
def test_a_job_of_two_processes_trains_together(cluster, tmp_path):
    workdir = tmp_path / "study"
    options = ("--array=1", "--ntasks-per-node=2")
    arguments = ("tests/experiments/tiny_study.py", *SMALL, f"--workdir={workdir}")
    states, log = submit(cluster, tmp_path, options, *arguments)
    assert states == "COMPLETED", log
    run = json.loads((workdir / "cells/1-80_20-n50-s0/run.json").read_text())
    assert run["processes"] == 2
    assert log.count("report: ") == 1, "the leader speaks for both"


@pytest.mark.slow
def test_a_config_that_is_not_there_is_one_sentence(cluster, tmp_path):
    states, log = submit(cluster, tmp_path, ("--array=1",), "configs/nothing.py")
    assert states == "FAILED"
    assert (
        log
        == "error: there is no config configs/nothing.py; give one, as: sbatch launch/slurm.sh configs/paper_mnist.py\n"
    )
