"""The train step or sampling step compiled for an H100 that need not be here: what it moves.

  python -m benchmarks.compiled [--models 2,6] [--batch 256] [--size 32] [--dtype bfloat16]
      [--what train] [--out compiled.json]

Prints for each model the bytes that its kernels read and write, how many kernels there are and how
many of them move less than 1 MB, the memory of temporaries, the roofline's time, which is the
longer of FLOP at the chip's peak and bytes at its bandwidth, and the groups of kernels that move
most. --out has all groups, in bytes and seconds. Needs pip install 'jaxdiff[compiled]' (seen to
work with Python 3.12 and jax 0.12.0.1 and 0.11.2). Compiling "2" takes a minute of CPU, "6" five.

XLA chooses among algorithms by trying them on the card, so a program that is compiled there may
differ in its convolutions' and products' kernels and in their workspace.
"""

from typing import Any

from experiments import _cli

_cli.prepare_environment()

import jax
from absl import flags

from jaxdiff import files
from jaxdiff.cells.cell import Cell
from jaxdiff.planning import cuda
from jaxdiff.planning.chips import CHIPS, open_topology
from jaxdiff.planning.compiled import (
    Devices,
    Program,
    compile_sampling_step,
    compile_train_step,
)
from jaxdiff.planning.kernels import Kernel
from jaxdiff.study import grid
from jaxdiff.study.config import default_config
from jaxdiff.unet import TABLE_A

flags.DEFINE_list("models", ["2", "6"], "Rows of Table A.")
flags.DEFINE_integer("batch", 256, "Images a step, over all GPUs.", lower_bound=1)
flags.DEFINE_integer("size", 32, "Pixels on a side.", lower_bound=1)
flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Of the activations.")
flags.DEFINE_enum("what", "train", ["train", "sample"], "A train step, or a step of DDIM.")
flags.DEFINE_string("topology", "h100:1", "The machine: h100:1, h200:8.")
flags.DEFINE_string("out", None, "Also write a JSON file.")
FLAGS = flags.FLAGS

SMALL = 1e6  # bytes; an H100 moves them in a third of a microsecond, less than a launch takes
NUM_GROUPS = 10


def build_cells() -> list[Cell]:
    """One cell per model, of color images."""
    for name in FLAGS.models:
        if name not in TABLE_A:
            raise ValueError(
                f"--models must name rows of Table A, got {name!r}; choose from "
                f"{', '.join(TABLE_A)}"
            )
    config = default_config()
    config.models = {name: name for name in FLAGS.models}
    config.data.size = FLAGS.size
    config.data.channels = 3
    config.train.batch = FLAGS.batch
    config.train.dtype = FLAGS.dtype
    config.sample.batch = FLAGS.batch
    config.sample.dtype = FLAGS.dtype
    cells = {cell.model: cell for cell in grid.expand(config)}
    return [cells[name] for name in FLAGS.models]


def open_devices() -> Devices:
    """The GPUs that are compiled for."""
    if FLAGS.topology.partition(":")[0] not in cuda.KINDS:
        raise ValueError(
            f"--topology must be of a machine with GPUs, got {FLAGS.topology!r}; choose as "
            f"{', '.join(f'{kind}:1' for kind in cuda.KINDS)}"
        )
    jax.config.update("jax_platforms", "cpu")  # the accelerators here are not needed
    topology = open_topology(FLAGS.topology)
    if FLAGS.batch % len(topology):
        raise ValueError(
            f"--batch is {FLAGS.batch}, which {len(topology)} GPUs must divide; choose a multiple"
        )
    return Devices(topology, CHIPS[topology[0].device_kind])


def group_kernels(kernels: list[Kernel]) -> list[dict[str, Any]]:
    """Kernels of one kind together, those that move most first."""
    groups: dict[str, dict[str, Any]] = {}
    for kernel in kernels:
        group = groups.setdefault(kernel.group, {"name": kernel.group, "kernels": 0, "bytes": 0})
        group["kernels"] += kernel.runs
        group["bytes"] += kernel.runs * kernel.bytes
    return sorted(groups.values(), key=lambda group: -group["bytes"])


def to_row(model: str, program: Program, devices: Devices) -> dict[str, Any]:
    """All figures of a model, in bytes and seconds of one GPU."""
    time = devices.time(program)
    assert time is not None
    return {
        "model": model,
        "bytes": program.bytes_accessed,
        "flops": program.flops,
        "kernels": sum(kernel.runs for kernel in program.kernels),
        "small_kernels": sum(k.runs for k in program.kernels if k.bytes < SMALL),
        "temporaries": program.temporaries,
        "memory": program.memory,
        "arithmetic_s": time.compute,
        "memory_s": time.memory,
        "communication_s": time.communication,
        "roofline_s": time.step,
        "groups": group_kernels(list(program.kernels)),
    }


def print_row(row: dict[str, Any]) -> None:
    """A model's figures and its largest groups."""
    print(
        f"{row['model']}: {row['bytes'] / 1e9:.2f} GB moved; {row['kernels']:,} kernels, "
        f"{row['small_kernels']:,} under 1 MB; temporaries {row['temporaries'] / 1e6:,.0f} MB; "
        f"roofline {1e3 * row['roofline_s']:.2f} ms (arithmetic {1e3 * row['arithmetic_s']:.2f}, "
        f"memory {1e3 * row['memory_s']:.2f})"
    )
    for group in row["groups"][:NUM_GROUPS]:
        print(f"    {group['bytes'] / 1e9:7.3f} GB {group['kernels']:6,} x {group['name']}")


def main() -> None:
    out = _cli.output_file("out", ".json") if FLAGS.out else None
    cells = build_cells()
    devices = open_devices()
    kind = devices.all[0].device_kind
    compile_step = compile_train_step if FLAGS.what == "train" else compile_sampling_step
    print(
        f"{FLAGS.what} step, batch {FLAGS.batch}, {FLAGS.size} px, {FLAGS.dtype}, compiled by jax "
        f"{jax.__version__} for {len(devices.all)} x {kind}"
    )
    rows = []
    for cell in cells:
        row = to_row(cell.model, compile_step(cell, devices), devices)
        print_row(row)
        rows.append(row)
    if out:
        about = {
            "what": FLAGS.what,
            "batch": FLAGS.batch,
            "size": FLAGS.size,
            "dtype": FLAGS.dtype,
            "topology": FLAGS.topology,
            "device": kind,
            "jax": jax.__version__,
        }
        files.write_json(out, about | {"models": rows})


if __name__ == "__main__":
    _cli.run(main, __doc__ or "")
