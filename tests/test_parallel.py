"""One device, eight devices and two processes of four devices compute the same training."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest


def losses(devices, processes=1):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    commands = [
        [sys.executable, "-m", "tests.training_worker", *map(str, (devices, processes, i, port))]
        for i in range(processes)
    ]
    running = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    out = [process.communicate(timeout=600) for process in running]
    assert all(process.returncode == 0 for process in running), out
    return json.loads(out[0][0].splitlines()[-1])


@pytest.fixture(scope="module")
def alone():
    return losses(1)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "processes"), [(8, 1), (4, 2)])
def test_as_many_devices_and_processes_as_one_device(devices, processes, alone):
    many = losses(devices, processes)
    for kind, found in many.items():
        wanted = np.array(alone[f"{kind.split()[0]} replicated"]["losses"])
        error = np.abs(np.array(found["losses"]) / wanted - 1.0)
        print(f"{processes} x {devices} {kind}: relative difference {error[0]:.1e} at step 1, {error.max():.1e} at most; "
              f"a device holds {found['held']:.3f} of the parameters")  # fmt: skip
        if "float64" in kind:
            assert error.max() <= 1e-9
        else:
            assert error[0] <= 1e-6
            assert error[-1] <= 1e-3
        assert found["held"] == 1.0 if "replicated" in kind else found["held"] < 0.15
