"""A real SLURM of one machine: Debian's munged, slurmctld and slurmd on loopback, with all that they write in one folder."""

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "scontrol")

CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
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
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch and its like reach it. Raises RuntimeError where the node does not come up."""
    host, started = socket.gethostname().partition(".")[0], []
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, controller=port(), node=port()))
    environment = os.environ | {"SLURM_CONF": str(config)}
    places = [
        f"--{what}={folder}/munge.{what.partition('-')[0]}"
        for what in ("socket", "log-file", "pid-file", "seed-file")
    ]
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={key}", *places],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    )
    try:
        for command in commands:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen(command, env=environment, **quiet))
            time.sleep(1.0)
        wait_for_node(environment, folder)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=30)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_node(environment: dict[str, str], folder: Path) -> None:
    state, deadline = "", time.time() + 60
    while "idle" not in state:
        if time.time() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise RuntimeError(f"the node is {state!r} after a minute\n{logs}")
        time.sleep(0.5)
        state = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True
        ).stdout.strip()


def finished(job: str, environment: dict[str, str], seconds: float) -> str:
    """The states of a job's tasks when none of them runs any more."""
    deadline = time.time() + seconds
    while True:
        show = subprocess.run(
            ["scontrol", "show", "job", job], env=environment, capture_output=True, text=True
        ).stdout
        states = [word.partition("=")[2] for word in show.split() if word.startswith("JobState=")]
        if states and not set(states) & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}:
            return " ".join(states)
        if time.time() > deadline:
            raise TimeoutError(f"job {job} is {states} after {seconds:.0f} s")
        time.sleep(1.0)
