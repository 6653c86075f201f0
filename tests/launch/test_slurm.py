"""launch/slurm.sh on a SLURM cluster of this machine."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from jaxdiff import parallel
from tests.launch.cluster import PROGRAMS, run_slurm, wait_for_job

TINY = "tests/experiments/tiny_study.py"
SMALL = (
    "--config.train.steps=10",
    "--config.train.checkpoint_every=10",
    "--config.sample.num=16",
    "--config.sample.common=0",
    "--config.sample.steps=4",
    "--config.measures.lpips=none",
    "--config.measures.queries=0",
    "--config.measures.checkpoints=0",
    "--config.measures.probe=0",
    "--config.measures.spaces=('pixels',)",
)
# Compilation takes most of the time of a small study.
XLA_FLAGS = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0"
# The variables of a job step with two nodes of eight GPUs.
STEP = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}


@pytest.mark.parametrize(
    ("variables", "device_ids"),
    [
        pytest.param(STEP, list(range(8)), id="process per node"),
        pytest.param(STEP | {"SLURM_NTASKS": "16"}, None, id="process per GPU, JAX's default"),
        pytest.param(STEP | {"SLURM_GPUS_ON_NODE": ""}, None, id="no GPUs"),
        pytest.param({}, None, id="no SLURM"),
    ],
)
def test_a_single_process_on_a_node_has_all_its_gpus(variables, device_ids):
    assert parallel.slurm_local_device_ids(variables) == device_ids


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        programs = ", ".join(missing or PROGRAMS)
        pytest.skip(
            f"needs root and SLURM's {programs} (Debian: slurmctld slurmd slurm-client munge)"
        )
    with run_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment | {"JAXDIFF_VENV": sys.prefix, "XLA_FLAGS": XLA_FLAGS}


def submit(environment, folder, options, *arguments):
    """Run a job to its end; returns the states of its tasks and all their logs."""
    command = [
        "sbatch",
        "--parsable",
        "--gpus-per-node=0",
        "--cpus-per-task=1",
        f"--output={folder}/%a.log",
        *options,
        "launch/slurm.sh",
        *arguments,
    ]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    states = wait_for_job(process.stdout.strip(), environment, timeout=500)
    log = "\n".join(path.read_text() for path in folder.glob("*.log"))
    return states, log


@pytest.mark.slow
def test_an_array_of_two_tasks_makes_every_cell(cluster, tmp_path):
    workdir = tmp_path / "study"
    arguments = (TINY, *SMALL, "--config.seeds=(0,2)", f"--workdir={workdir}")
    states, log = submit(cluster, tmp_path, ("--array=1-2",), *arguments)
    assert states == "COMPLETED COMPLETED", log
    page = (workdir / "report.html").read_text()
    for seed in (0, 2):
        cell = f"1-80_20-n50-s{seed}"
        assert (workdir / "cells" / cell / "result.json").exists()
        assert cell in page
        assert log.count(f"{cell} train: 10/10") == 1, "only one task trains a cell"
    for task, seed in ((1, 0), (2, 2)):
        task_log = (tmp_path / f"{task}.log").read_text()
        assert f"1-80_20-n50-s{seed} train: 10/10" in task_log, "tasks start at different cells"


@pytest.mark.slow
def test_a_job_of_two_processes_trains_together(cluster, tmp_path):
    workdir = tmp_path / "study"
    options = ("--array=1", "--ntasks-per-node=2")
    arguments = (TINY, *SMALL, f"--workdir={workdir}")
    states, log = submit(cluster, tmp_path, options, *arguments)
    assert states == "COMPLETED", log
    run = json.loads((workdir / "cells/1-80_20-n50-s0/run.json").read_text())
    assert run["processes"] == 2
    assert log.count("report: ") == 1, "only the leader prints"


@pytest.mark.slow
def test_a_missing_config_is_one_sentence(cluster, tmp_path):
    states, log = submit(cluster, tmp_path, ("--array=1",), "configs/nothing.py")
    assert states == "FAILED"
    assert log == (
        "error: there is no config configs/nothing.py; give one, as: sbatch launch/slurm.sh "
        "configs/paper_mnist.py\n"
    )
