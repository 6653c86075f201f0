"""jaxdiff's U-Net beside diffusers' with PyTorch: the same weights, the same batch, two processes in turns.

benchmarks/train.py and benchmarks/sample.py run it. --peer_python is an interpreter with torch and diffusers (extra:
parity), this one where it has them. A row says images a second of both, median and range of the rounds; their ratio; and
what share of this machine's own rate for a float32 matrix product of 2,048, measured in the same run, our model's
arithmetic reaches. Sampling counts images times steps.
"""

import statistics
import sys
import tempfile

from absl import flags
from flax import nnx

from benchmarks.turns import measure, ratio, spread
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
flags.DEFINE_integer("rounds", 5, "Rounds; in each both take a turn.")
flags.DEFINE_float("seconds", 3.0, "Length of a turn.")
FLAGS = flags.FLAGS
SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}


def row(name: str) -> str:
    """One model timed."""
    config = TABLE_A[name] if FLAGS.width == 1.0 else TABLE_A[name].widened(FLAGS.width)
    unet = UNet(config, rngs=nnx.Rngs(0))
    unet.config = type(config)(**vars(config) | {"sample_size": FLAGS.size})
    with tempfile.TemporaryDirectory() as folder:
        diffusers_io.save_pipeline(unet, SCHEDULER, folder)
        task = {"what": FLAGS.what, "folder": folder, "batch": FLAGS.batch, "dtype": FLAGS.dtype,
                "steps_per_call": FLAGS.steps_per_call, "compile": FLAGS.peer_compile, "seconds": FLAGS.seconds}  # fmt: skip
        sides = {
            "ours": (sys.executable, "benchmarks.unet_jax"),
            "peer": (FLAGS.peer_python, "benchmarks.unet_torch"),
        }
        warm, rates = measure(sides, task, FLAGS.rounds)
    product = max(side["product"] for side in warm.values())
    share = statistics.median(rates["ours"]) / FLAGS.batch * warm["ours"]["flops"] / 1e9 / product
    return (f"{name:8} {spread(rates['ours']):28} {spread(rates['peer']):28} {ratio(rates)}  "
            f"{share:5.0%} of {product:,.0f} GFLOP/s  {warm['ours']['compiled']:.0f} s")  # fmt: skip


def main(_) -> None:
    print(f"{FLAGS.what}, width {FLAGS.width:g}, batch {FLAGS.batch}, {FLAGS.size} px, {FLAGS.dtype}; images/s, median "
          f"[range] of {FLAGS.rounds}")  # fmt: skip
    print(
        f"{'model':8} {'jaxdiff':28} {'diffusers':28} ratio               share of the product's rate   first calls"
    )
    for name in FLAGS.models:
        print(row(name), flush=True)
