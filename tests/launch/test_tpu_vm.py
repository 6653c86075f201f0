"""launch/tpu_vm.sh with a fake gcloud, whose TPU hosts are folders of this machine.

The script has not been run against the real service.
"""

import os
import shutil
import subprocess
import time

import pytest

COMMAND = ("launch/tpu_vm.sh", "depth", "configs/paper_mnist.py", "gs://bucket/run")

GCLOUD = r"""#!/usr/bin/env bash
# queued-resources create | describe | delete, and tpu-vm scp | ssh.
# The slice's state is a file, and ssh runs its command in the folder of every host.
cd "$FAKE_CLOUD"
echo "$*" | tr '\n' ' ' >> calls
echo >> calls
case "$3 $4" in
  "queued-resources describe")
    if [[ -e offline ]]; then rm offline; echo "network is unreachable" >&2; exit 1; fi
    [[ -e state ]] || { echo "NOT_FOUND: Requested entity was not found" >&2; exit 1; }
    cat state ;;
  "queued-resources create")
    for host in host0 host1; do rm -rf $host; cp -r template $host; done
    echo WAITING_FOR_RESOURCES > state
    (sleep 0.3; echo ACTIVE > state) & ;;
  "queued-resources delete") rm state ;;
  "tpu-vm scp") for host in host0 host1; do cp "$5" "$6" $host; done ;;
  "tpu-vm ssh")
    command="${*: -1}"
    hosts="host0 host1"
    [[ $* != *--worker=0* ]] || hosts=host0
    for host in $hosts; do
      (cd $host && HOME=$PWD exec bash -c "${command#--command=}") &
      # A connection to a slice that is no longer active breaks.
      while kill -0 $! 2>/dev/null; do
        [[ $(cat state) == ACTIVE ]] || { kill $!; exit 255; }
        sleep 0.1
      done
      wait $! || exit $?
    done ;;
esac
"""

# Runs instead of the sweep, and prints its arguments. The first run preempts its slice, unless the
# file `preempted` exists; the file `exit_status` says how a run ends.
PYTHON = r"""#!/usr/bin/env bash
echo "sweep $*"
if [[ -e ~/../preempted ]]; then
  sleep 0.5
else
  touch ~/../preempted
  echo SUSPENDED > ~/../state
  sleep 5
fi
exit "$(cat ~/../exit_status 2>/dev/null || echo 0)"
"""

# Makes the environment that the template has, instead of uv.
SYSTEM_PYTHON = r"""#!/usr/bin/env bash
echo "python3 $*" >> ~/made
[[ $* != *"uv venv"* ]] || cp -r ~/../template/jaxdiff/.venv .venv
"""

# Runs instead of the sweep, and counts its runs.
COUNTING_PYTHON = "#!/bin/sh\necho started >> ~/starts; sleep 3\n"


def write_program(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def cloud(tmp_path):
    """The folder of a fake cloud, whose first slice is going to be preempted."""
    if shutil.which("flock") is None:
        pytest.skip("needs flock")
    (tmp_path / "bin").mkdir()
    write_program(tmp_path / "bin" / "gcloud", GCLOUD)
    binaries = tmp_path / "template" / "jaxdiff" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    write_program(binaries / "python", PYTHON)
    write_program(binaries / "pip", "#!/bin/sh\n")
    for host in ("host0", "host1"):
        shutil.copytree(tmp_path / "template", tmp_path / host)
    return tmp_path


@pytest.fixture
def stable_cloud(cloud):
    """The folder of a fake cloud that preempts no slice."""
    (cloud / "preempted").touch()
    return cloud


def build_environment(cloud, **variables):
    return {
        **os.environ,
        "PATH": f"{cloud / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "FAKE_CLOUD": str(cloud),
        "ZONE": "zone",
        "TYPE": "v5litepod-16",
        "EVERY": "0.2",
        **variables,
    }


def launch(cloud, *arguments, **variables):
    """Run the script to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=build_environment(cloud, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


def read_calls(cloud):
    """The calls of gcloud without the polls, such as "queued-resources create"."""
    calls = []
    for line in (cloud / "calls").read_text().splitlines():
        group, verb = line.split()[2:4]
        if verb != "describe":
            calls.append(f"{group} {verb}")
    return calls


# Copy the code, build the environment, start the study, follow the log.
ATTEMPT = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]


def test_a_study_from_nothing_to_its_report(stable_cloud):
    process = launch(stable_cloud, "--config.measures.spaces=('pixels',)")
    assert process.returncode == 0, process.stderr
    expected = ["queued-resources create", *ATTEMPT, "queued-resources delete"]
    assert read_calls(stable_cloud) == expected
    calls = (stable_cloud / "calls").read_text()
    assert "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite" in calls
    assert "--spot" not in calls
    arguments = (
        "--distributed --config configs/paper_mnist.py --workdir gs://bucket/run "
        "--config.measures.spaces=('pixels',)"
    )
    assert f"sweep -m experiments.sweep {arguments}" in process.stdout
    assert process.stdout.splitlines()[-1] == "the report is in gs://bucket/run"
    assert (stable_cloud / "host1/jaxdiff/experiments/sweep.py").exists()


def test_a_preempted_spot_slice_is_requested_again(cloud):
    process = launch(cloud, SPOT="1", KEEP="1")
    assert process.returncode == 0, process.stderr
    calls = read_calls(cloud)
    preemption = calls.index("queued-resources delete")
    assert calls[:2] == ["queued-resources create", "tpu-vm scp"]
    assert calls[preemption + 1 :] == ["queued-resources create", *ATTEMPT]
    assert "depth was taken away; it is asked for again" in process.stderr
    assert (cloud / "calls").read_text().count("--spot") == 2


@pytest.mark.slow
def test_a_second_run_creates_and_starts_nothing_twice(stable_cloud):
    (stable_cloud / "state").write_text("ACTIVE\n")
    write_program(stable_cloud / "host0/jaxdiff/.venv/bin/python", COUNTING_PYTHON)
    first_run = subprocess.Popen(
        COMMAND,
        env=build_environment(stable_cloud, KEEP="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    starts = stable_cloud / "host0/starts"
    while not starts.exists():
        time.sleep(0.05)
    first_run.kill()
    first_run.wait()
    second_run = launch(stable_cloud, KEEP="1")
    assert second_run.returncode == 0, second_run.stderr
    assert "queued-resources create" not in read_calls(stable_cloud)
    assert starts.read_text() == "started\n"


@pytest.mark.slow
def test_a_study_with_other_arguments_is_not_begun_beside_one_that_runs(stable_cloud):
    (stable_cloud / "state").write_text("ACTIVE\n")
    write_program(stable_cloud / "host0/jaxdiff/.venv/bin/python", COUNTING_PYTHON)
    environment = build_environment(stable_cloud, KEEP="1")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first_run = subprocess.Popen(COMMAND, env=environment, **quiet)
    starts = stable_cloud / "host0/starts"
    while not starts.exists():
        time.sleep(0.05)
    script = (stable_cloud / "host0/jaxdiff.sh").read_text()
    other = launch(stable_cloud, "--config.train.batch=512", KEEP="1")
    assert other.returncode == 1
    assert "a study of another commit or with other arguments is running here" in other.stderr
    assert "the installation ended with status 1" in other.stderr
    assert (stable_cloud / "host0/jaxdiff.sh").read_text() == script
    assert first_run.wait(timeout=60) == 0
    assert starts.read_text() == "started\n"


def test_an_environment_with_a_newer_python_is_made_where_there_is_none(stable_cloud):
    (stable_cloud / "state").write_text("ACTIVE\n")
    for host in ("host0", "host1"):
        shutil.rmtree(stable_cloud / host)
        (stable_cloud / host).mkdir()
    write_program(stable_cloud / "bin" / "python3", SYSTEM_PYTHON)
    process = launch(stable_cloud, KEEP="1")
    assert process.returncode == 0, process.stderr
    made = (stable_cloud / "host1/made").read_text()
    assert "-m uv venv --quiet --seed --python 3.12 .venv" in made


def test_data_are_copied_to_every_host(stable_cloud):
    process = launch(stable_cloud, "--config.data.dir=data", DATA="gs://bucket/CelebA", KEEP="1")
    assert process.returncode == 0, process.stderr
    calls = (stable_cloud / "calls").read_text()
    copies = "\nstorage rsync --recursive --quiet gs://bucket/CelebA data "
    assert calls.count(copies) == 2
    assert (stable_cloud / "host1/jaxdiff/data").is_dir()


def test_a_connection_that_breaks_is_no_slice_that_is_gone(stable_cloud):
    (stable_cloud / "state").write_text("ACTIVE\n")
    (stable_cloud / "offline").touch()
    process = launch(stable_cloud, KEEP="1")
    assert process.returncode == 0, process.stderr
    assert "depth is UNKNOWN\nnetwork is unreachable" in process.stderr
    assert "queued-resources create" not in read_calls(stable_cloud)


@pytest.mark.slow
def test_a_failed_study_keeps_the_slice_and_says_so(stable_cloud):
    (stable_cloud / "exit_status").write_text("1")
    process = launch(stable_cloud)
    assert process.returncode == 1
    message = "error: the study ended with status 1; the log above says why. depth is kept"
    assert message in process.stderr
    assert "queued-resources delete" not in read_calls(stable_cloud)


@pytest.mark.slow
def test_a_study_that_is_done_with_a_diverged_cell_keeps_no_slice(stable_cloud):
    (stable_cloud / "exit_status").write_text("3")
    process = launch(stable_cloud)
    assert process.returncode == 3, process.stderr
    assert "the loss of a cell was not finite" in process.stderr
    assert "queued-resources delete" in read_calls(stable_cloud)


def test_a_missing_config_prints_the_usage():
    command = ["launch/tpu_vm.sh", "depth", "configs/nothing.py", "gs://b"]
    environment = os.environ | {"ZONE": "zone", "TYPE": "v5litepod-16"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 1
    assert "A study on a Cloud TPU VM" in process.stderr
