"""One device, eight devices and two processes of four devices compute the same training."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdiff import parallel


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def train(num_devices, num_processes=1):
    """What the leader of `tests.training_worker` prints."""
    port = free_port()
    processes = []
    for process_id in range(num_processes):
        arguments = map(str, (num_devices, num_processes, process_id, port))
        command = [sys.executable, "-m", "tests.training_worker", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, **pipes))
    outputs = [process.communicate(timeout=600) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    stdout, _ = outputs[0]
    return json.loads(stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def one_device():
    return train(1)


@pytest.mark.slow
@pytest.mark.parametrize(("num_devices", "num_processes"), [(8, 1), (4, 2)])
def test_devices_and_processes_compute_the_same(num_devices, num_processes, one_device):
    for kind, result in train(num_devices, num_processes).items():
        precision, sharding = kind.split()
        expected = np.array(one_device[f"{precision} replicated"]["losses"])
        error = np.abs(np.array(result["losses"]) / expected - 1.0)
        print(f"{num_processes} x {num_devices} {kind}: relative error {error.max():.1e}")
        if precision == "float64":
            assert error.max() <= 1e-9
        else:
            assert error[0] <= 1e-6
            assert error[-1] <= 1e-3
        if sharding == "replicated":
            assert result["local_share"] == 1.0
        else:
            assert result["local_share"] < 0.15


def test_large_parameters_are_sharded_along_their_largest_axis():
    mesh = parallel.data_mesh(8)
    assert parallel.fsdp_sharding((3, 3, 64, 128), mesh).spec == PartitionSpec(
        None, None, None, "data"
    )
    assert parallel.fsdp_sharding((512, 9), mesh).spec == PartitionSpec("data")
    assert parallel.fsdp_sharding((8, 8), mesh).spec == PartitionSpec(), "too small"
    assert parallel.fsdp_sharding((9999, 9), mesh).spec == PartitionSpec(), "no axis divides"


def test_the_mesh_has_as_many_devices_as_divide_the_batch():
    assert jax.local_device_count() == 8
    assert [parallel.data_mesh(batch).size for batch in (16, 12, 7)] == [8, 4, 1]
