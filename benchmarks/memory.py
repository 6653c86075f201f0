"""The memory that `experiments.plan` foretells for the devices here, beside what the process takes in a first train step.

  python -m benchmarks.memory --config configs/quickstart.py

Each model in a process of its own. Taken is the growth of the peak of the resident set, from before the state is made to after the
first step. What the compiler took is given back before, as far as the C library does that.
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

from jaxdiff import training_step
from jaxdiff.cells import cell as cells
from jaxdiff.cells import train_step as train
from jaxdiff.planning import chips as hardware
from jaxdiff.planning import compiled as programs

config_flags.DEFINE_config_file("config", None, "The study whose models are taken.")
flags.DEFINE_string("model", None, "Of this one, as JSON, in this process.")
FLAGS = flags.FLAGS


def resident() -> int:
    """Bytes of the resident set now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int:
    """Bytes of its peak since it was reset."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def measure(cell: cells.Cell) -> dict[str, float]:
    there = hardware.topology("local")
    devices = programs.Devices(there, hardware.chip())
    cell = programs.changed(cell, batch=devices.divided(cell.settings["train"]["batch"]))
    foretold = (
        programs.train_step(cell, devices).memory - programs.state_bytes(cell, devices)["images"]
    )
    rule, mesh = train.build_optimizer(cell), devices.mesh
    shapes = programs.state(cell, devices)
    step = train.lower_train_steps(cell, mesh, shapes, 1).compile()
    images = jax.jit(
        lambda: jax.numpy.zeros(step.in_avals[0][1].shape, jax.numpy.uint8),
        out_shardings=step.input_shardings[0][1],
    )()
    initial = train.init_params(cell)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is that of now
    before = resident()
    state = training_step.init_state(initial, rule, mesh, cell.settings["train"]["shard_params"])
    jax.block_until_ready(step(state, images))
    return {"foretold": foretold * len(there), "taken": peak() - before}


def main() -> None:
    if FLAGS.config is None:
        raise ValueError(
            "--config is missing; say whose models to take, as --config configs/quickstart.py"
        )
    chosen = {cell.model: cell for cell in cells.expand(FLAGS.config)}
    if FLAGS.model:
        print(json.dumps(measure(chosen[FLAGS.model])))
        return
    print("model     foretold, MB   taken, MB   ratio")
    for model in chosen:
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], f"--model={model}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["taken"] / found["foretold"]
        print(
            f"{model:<9} {found['foretold'] / 1e6:12,.0f} {found['taken'] / 1e6:11,.0f} {ratio:7.2f}",
            flush=True,
        )


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
