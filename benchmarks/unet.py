"""jaxdiff's U-Net beside diffusers' with PyTorch: same weights, same batch, processes in turns.

benchmarks/train.py and benchmarks/sample.py run it. --peer_python is an interpreter with torch and
diffusers (extra: parity); by default it is this one. A row has the images a second of both, median
and range of the rounds; their ratio; and the share of this machine's rate for a matrix product in
the same type (of 2,048 on a CPU, of 8,192 elsewhere), measured in the same run, that our model's
arithmetic reaches. Sampling counts images times steps. On a CPU the ratio depends on the processor,
which is named first. Training on a CPU has a second table: two networks that train at once, each in
a process with a core and a device of its own, beside one that trains on both cores.
"""

import dataclasses
import statistics
import sys
import tempfile

from absl import flags
from flax import nnx

from benchmarks.machine import describe_pair
from benchmarks.turns import measure, ratio, spread
from benchmarks.two_at_once import COLUMNS, can_pin, measure_two_at_once
from benchmarks.unet_task import UNetTask
from jaxdiff import diffusers_io
from jaxdiff.unet import TABLE_A, UNet

flags.DEFINE_enum("what", "train", ["train", "sample"], "What is timed.")
flags.DEFINE_list("models", list(TABLE_A), "Rows of Table A.")
flags.DEFINE_float("width", 1.0, "Multiplies channels and groups.")
flags.DEFINE_integer("batch", 32, "Images a step.")
flags.DEFINE_integer("size", 32, "Pixels on a side.")
flags.DEFINE_string("peer_python", sys.executable, "The interpreter that runs the peer.")
flags.DEFINE_bool("peer_compile", False, "torch.compile in place of eager.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations, on both sides.")
flags.DEFINE_integer("steps_per_call", 1, "K, our train steps in one compiled call.")
flags.DEFINE_bool("two_at_once", True, "Train two networks at once too, on a CPU.")
flags.DEFINE_integer("rounds", 5, "Rounds; in each both take a turn.")
flags.DEFINE_float("seconds", 3.0, "Length of a turn.")
FLAGS = flags.FLAGS
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}


def build_unet(name: str) -> UNet:
    """A row of Table A as the flags ask for it."""
    config = TABLE_A[name]
    if FLAGS.width != 1.0:
        config = config.widened(FLAGS.width)
    config = dataclasses.replace(config, sample_size=FLAGS.size)
    return UNet(config, rngs=nnx.Rngs(0))


def time_model(name: str) -> tuple[str, str]:
    """Time a model on both sides; its row of the table, and that of two at once or ""."""
    sides = {
        "ours": (sys.executable, "benchmarks.unet_jax"),
        "peer": (FLAGS.peer_python, "benchmarks.unet_torch"),
    }
    with tempfile.TemporaryDirectory() as folder:
        diffusers_io.save_pipeline(build_unet(name), SCHEDULER, folder)
        task = UNetTask(
            what=FLAGS.what,
            folder=folder,
            batch=FLAGS.batch,
            dtype=FLAGS.dtype,
            steps_per_call=FLAGS.steps_per_call,
            compile=FLAGS.peer_compile,
            seconds=FLAGS.seconds,
            product=True,
        )
        warm, rates = measure(sides, dataclasses.asdict(task), FLAGS.rounds)
        ours = warm["ours"]
        at_once = ""
        if is_two_at_once() and ours["device"] == "cpu":
            task = dataclasses.replace(task, product=False)
            at_once = measure_two_at_once(dataclasses.asdict(task), FLAGS.rounds)
    product_gflops = max(side["product_gflops"] for side in warm.values())
    share = statistics.median(rates["ours"]) * ours["flops"] / 1e9 / product_gflops
    columns = (
        f"{name:8}",
        f"{spread(rates['ours']):28}",
        f"{spread(rates['peer']):28}",
        f"{ratio(rates)} ",
        f"{share:5.0%} of {product_gflops:,.0f} GFLOP/s ",
        f"{ours['compiled']:.0f} s",
    )
    return " ".join(columns), at_once and f"{name:8} {at_once}"


def is_two_at_once() -> bool:
    """Whether two networks are trained at once, where the device is a CPU."""
    return FLAGS.two_at_once and FLAGS.what == "train" and can_pin()


def main(_) -> None:
    print(describe_pair(FLAGS.peer_python, "torch", "diffusers"))
    print(
        f"{FLAGS.what}, width {FLAGS.width:g}, batch {FLAGS.batch}, {FLAGS.size} px, "
        f"{FLAGS.dtype}; images/s, median [range] of {FLAGS.rounds}"
    )
    print(
        f"{'model':8} {'jaxdiff':28} {'diffusers':28} ratio               "
        "share of the product's rate   first calls"
    )
    at_once_rows = []
    for name in FLAGS.models:
        row, at_once_row = time_model(name)
        print(row, flush=True)
        at_once_rows.append(at_once_row)
    if any(at_once_rows):
        print("\n".join(["two networks at once: images/s in all", COLUMNS, *at_once_rows]))
