"""Predicted memory of a train step, beside what the process takes in its first one.

  python -m benchmarks.memory --config configs/quickstart.py

The prediction is that of `experiments.plan` for the devices here. Each model runs in a process of
its own. What it takes is the growth of the peak of the resident set, from before the state is made
to after the first step. What the compiler took is given back before, as far as the C library does
that.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys

from experiments import _cli

_cli.prepare_environment()

import jax
from absl import flags
from ml_collections import config_flags

from jaxdiff.cells import train_step as cell_steps
from jaxdiff.cells.cell import Cell
from jaxdiff.planning.chips import local_chip, open_topology
from jaxdiff.planning.compiled import (
    Devices,
    abstract_state,
    change_training,
    compile_train_step,
    count_state_bytes,
)
from jaxdiff.study import grid
from jaxdiff.training_step import init_state, place_key

config_flags.DEFINE_config_file("config", None, "The study whose models are measured.")
flags.DEFINE_string("model", None, "Measure this one model, in this process; prints JSON.")
FLAGS = flags.FLAGS


def resident_bytes() -> int:
    """Bytes of the resident set now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Bytes of its peak since it was reset."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def measure_memory(cell: Cell) -> dict[str, float]:
    """Bytes predicted for a train step and its state, and bytes taken."""
    topology = open_topology("local")
    devices = Devices(topology, local_chip())
    cell = change_training(cell, batch=devices.nearest_batch(cell.train.batch))
    state_bytes = count_state_bytes(cell, devices)
    predicted = compile_train_step(cell, devices).memory - state_bytes.images
    optimizer = cell_steps.build_optimizer(cell.train)
    shapes = abstract_state(cell, devices)
    settings = cell_steps.StepSettings.of(cell)
    step = cell_steps.lower_train_steps(settings, devices.mesh, shapes, 1).compile()
    zeros = jax.jit(
        lambda: jax.numpy.zeros(step.in_avals[0][1].shape, jax.numpy.uint8),
        out_shardings=step.input_shardings[0][1],
    )
    images = zeros()
    params = cell_steps.init_params(cell)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is reset to the present size
    before = resident_bytes()
    state = init_state(params, optimizer, devices.mesh, cell.train.shard_params)
    jax.block_until_ready(step(state, images, place_key(0, devices.mesh)))
    return {"predicted": predicted * len(topology), "taken": peak_bytes() - before}


def main() -> None:
    _cli.check_required("config")
    cells = {cell.model: cell for cell in grid.expand(FLAGS.config)}
    if FLAGS.model:
        print(json.dumps(measure_memory(cells[FLAGS.model])))
        return
    print("model     predicted, MB   taken, MB   ratio")
    for model in cells:
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], f"--model={model}"]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(process.stdout.splitlines()[-1])
        ratio = measured["taken"] / measured["predicted"]
        print(
            f"{model:<9} {measured['predicted'] / 1e6:13,.0f} {measured['taken'] / 1e6:11,.0f} "
            f"{ratio:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
