"""A SLURM cluster of this machine alone, with Debian's munged, slurmctld and slurmd.

Its daemons listen on the loopback interface, and all their files lie in one folder.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol")
ACTIVE_STATES = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}

CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def run_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables with which sbatch and the like reach a new cluster.

    Raises
    ------
    RuntimeError
        Where the node does not become idle within a minute.
    """
    host = socket.gethostname().partition(".")[0]
    environment = os.environ | {"SLURM_CONF": str(write_config(folder, host))}
    commands = (
        munged_command(folder),
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    )
    daemons: list[subprocess.Popen] = []
    try:
        for command in commands:
            daemon = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            daemons.append(daemon)
            time.sleep(1.0)
        wait_for_node(environment, folder)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=30)


def write_config(folder: Path, host: str) -> Path:
    """Write slurm.conf and make the folders that it names."""
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    config = CONFIG.format(
        host=host, folder=folder, controller_port=free_port(), node_port=free_port()
    )
    path = folder / "slurm.conf"
    path.write_text(config)
    return path


def munged_command(folder: Path) -> list[str]:
    """Write a key, and return the command of an authentication daemon that uses it."""
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    return [
        "munged",
        "--foreground",
        "--force",
        f"--key-file={key}",
        f"--socket={folder}/munge.socket",
        f"--log-file={folder}/munge.log",
        f"--pid-file={folder}/munge.pid",
        f"--seed-file={folder}/munge.seed",
    ]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_command(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command prints; its exit status is ignored."""
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    return process.stdout


def wait_for_node(environment: Mapping[str, str], folder: Path) -> None:
    state = ""
    deadline = time.time() + 60
    while "idle" not in state:
        if time.time() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise RuntimeError(f"the node is {state!r} after a minute\n{logs}")
        time.sleep(0.5)
        state = run_command(["sinfo", "-h", "-o", "%T"], environment).strip()


def wait_for_job(job: str, environment: Mapping[str, str], timeout: float) -> str:
    """The final states of a job's array tasks, separated by spaces.

    Raises
    ------
    TimeoutError
        Where a task is still active after ``timeout`` seconds.
    """
    deadline = time.time() + timeout
    while True:
        fields = run_command(["scontrol", "show", "job", job], environment).split()
        states = [field.partition("=")[2] for field in fields if field.startswith("JobState=")]
        if states and not set(states) & ACTIVE_STATES:
            return " ".join(states)
        if time.time() > deadline:
            raise TimeoutError(f"job {job} is {states} after {timeout:.0f} s")
        time.sleep(1.0)
