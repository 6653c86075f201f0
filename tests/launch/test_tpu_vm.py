"""launch/tpu_vm.sh against a stand-in for gcloud, whose hosts are folders of this machine; it never met the real service."""

import os
import shutil
import subprocess
import time

import pytest

GCLOUD = r"""#!/usr/bin/env bash
# queued-resources create | describe | delete, tpu-vm scp | ssh; its state is a file, ssh runs the command in every host's folder.
cd "$STANDIN"
echo "$*" | tr '\n' ' ' >> calls
echo >> calls
case "$3 $4" in
  "queued-resources describe") cat state ;;
  "queued-resources create")
    for host in host0 host1; do rm -rf $host; cp -r template $host; done
    echo WAITING_FOR_RESOURCES > state; (sleep 0.3; echo ACTIVE > state) & ;;
  "queued-resources delete") rm state ;;
  "tpu-vm scp") for host in host0 host1; do cp "$5" "$6" $host; done ;;
  "tpu-vm ssh")
    command="${*: -1}"
    hosts="host0 host1"
    [[ $* != *--worker=0* ]] || hosts=host0
    for host in $hosts; do
      (cd $host && HOME=$PWD exec bash -c "${command#--command=}") &
      while kill -0 $! 2>/dev/null; do [[ $(cat state) == ACTIVE ]] || { kill $!; exit 255; }; sleep 0.1; done
      wait $! || exit $?
    done ;;
esac
"""

PYTHON = r"""#!/usr/bin/env bash
# In the sweep's place: it says what it was called with; unless ~/../taken is there the slice is taken away while it works.
echo "sweep $*"
if [[ -e ~/../taken ]]; then
  sleep 0.5
else
  touch ~/../taken
  echo SUSPENDED > ~/../state
  sleep 5
fi
exit "$(cat ~/../fails 2>/dev/null || echo 0)"
"""


@pytest.fixture
def standin(tmp_path):
    if shutil.which("flock") is None:
        pytest.skip("needs flock")
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "gcloud", GCLOUD)
    binaries = tmp_path / "template" / "jaxdiff" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    program(binaries / "python", PYTHON)
    program(binaries / "pip", "#!/bin/sh\n")
    for host in ("host0", "host1"):
        shutil.copytree(tmp_path / "template", tmp_path / host)
    return tmp_path


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def launch(standin, *arguments, **more):
    environment = os.environ | {"PATH": f"{standin / 'bin'}{os.pathsep}{os.environ['PATH']}", "STANDIN": str(standin), "ZONE": "zone",
                                "TYPE": "v5litepod-16", "EVERY": "0.2"} | more  # fmt: skip
    run = ["launch/tpu_vm.sh", "depth", "configs/paper_mnist.py", "gs://bucket/run", *arguments]
    return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60)


def calls(standin):
    """What was asked of the service, without the polls."""
    words = [line.split() for line in (standin / "calls").read_text().splitlines()]
    return [f"{w[2]} {w[3]}" for w in words if w[3] != "describe"]


ROUND = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm ssh"]  # code, environment, start, log


def test_a_study_from_nothing_to_its_report(standin):
    (standin / "taken").touch()
    done = launch(standin, "--config.measures.spaces=('pixels',)")
    assert done.returncode == 0, done.stderr
    assert calls(standin) == ["queued-resources create", *ROUND, "queued-resources delete"]
    assert (
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"
        in (standin / "calls").read_text()
    )
    assert "--spot" not in (standin / "calls").read_text()
    given = "--distributed --config configs/paper_mnist.py --workdir gs://bucket/run --config.measures.spaces=('pixels',)"
    assert f"sweep -m experiments.sweep {given}" in done.stdout
    assert done.stdout.splitlines()[-1] == "the report is in gs://bucket/run"
    assert (standin / "host1/jaxdiff/experiments/sweep.py").exists()


def test_a_spot_slice_that_is_taken_away_is_asked_for_again(standin):
    done = launch(standin, SPOT="1", KEEP="1")
    assert done.returncode == 0, done.stderr
    asked = calls(standin)
    taken = asked.index("queued-resources delete")
    assert asked[:2] == ["queued-resources create", "tpu-vm scp"]
    assert asked[taken + 1 :] == ["queued-resources create", *ROUND]
    assert "depth was taken away; it is asked for again" in done.stderr
    assert (standin / "calls").read_text().count("--spot") == 2


def test_a_second_run_creates_and_starts_nothing_twice(standin):
    (standin / "taken").touch()
    (standin / "state").write_text("ACTIVE\n")
    program(
        standin / "host0/jaxdiff/.venv/bin/python", "#!/bin/sh\necho began >> ~/began; sleep 3\n"
    )
    first = subprocess.Popen(["launch/tpu_vm.sh", "depth", "configs/paper_mnist.py", "gs://bucket/run"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=os.environ | {"PATH": f"{standin / 'bin'}{os.pathsep}{os.environ['PATH']}", "STANDIN": str(standin), "ZONE": "z", "TYPE": "t", "KEEP": "1"})  # fmt: skip
    while not (standin / "host0/began").exists():
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = launch(standin, KEEP="1")
    assert done.returncode == 0, done.stderr
    assert "queued-resources create" not in calls(standin)
    assert (standin / "host0/began").read_text() == "began\n"


def test_a_study_that_fails_keeps_the_slice_and_says_so(standin):
    (standin / "taken").touch()
    (standin / "fails").write_text("1")
    done = launch(standin)
    assert done.returncode == 1
    assert (
        "error: the study ended with status 1; the log above says why. depth is kept" in done.stderr
    )
    assert "queued-resources delete" not in calls(standin)


def test_what_is_missing_is_said():
    done = subprocess.run(
        ["launch/tpu_vm.sh", "depth", "configs/nothing.py", "gs://b"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "A study on a Cloud TPU VM" in done.stderr
