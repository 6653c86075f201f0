"""Lanczos on the Jacobian of a trained model's denoiser, beside the same by torch.func, in turns.

  python -m benchmarks.curvature [--model 4] [--size 64] [--points 16] [--steps 10]
                                 [--peer_python PATH]

Both take the same model (a row of Table A with random weights, as a diffusers folder), points and
steps. Each product is of the symmetric part of the Jacobian of x - sigma eps_hat at t = 300 (one
jvp and one vjp, ours of a model that is linearized once), at all points, with full
reorthogonalization on both sides. Prints points x products a second of both, their ratio by turns,
the largest eigenvalues of both, and each process's peak of resident memory.
"""

import dataclasses
import sys
import tempfile

from absl import app, flags
from flax import nnx

from benchmarks.curvature_task import CurvatureTask
from benchmarks.machine import describe_pair
from benchmarks.turns import measure, ratio, spread
from jaxdiff import diffusers_io
from jaxdiff.unet import TABLE_A, UNet

flags.DEFINE_enum("model", "4", list(TABLE_A), "A row of Table A.")
flags.DEFINE_integer("size", 64, "Pixels on a side.")
flags.DEFINE_integer("points", 16, "Images.")
flags.DEFINE_integer("steps", 10, "Products of a Lanczos run.")
flags.DEFINE_string("peer_python", sys.executable, "The interpreter that runs the peer.")
flags.DEFINE_integer("rounds", 3, "Rounds; in each both take a turn.")
FLAGS = flags.FLAGS

SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000}


def main(_) -> None:
    config = TABLE_A[FLAGS.model]
    unet = UNet(config, rngs=nnx.Rngs(0))
    unet.config = type(config)(**vars(config) | {"sample_size": FLAGS.size})
    sides = {
        "ours": (sys.executable, "benchmarks.curvature_jax"),
        "peer": (FLAGS.peer_python, "benchmarks.curvature_torch"),
    }
    with tempfile.TemporaryDirectory() as folder:
        diffusers_io.save_pipeline(unet, SCHEDULER, folder)
        task = CurvatureTask(folder, FLAGS.size, FLAGS.points, FLAGS.steps)
        reports, rates = measure(sides, dataclasses.asdict(task), FLAGS.rounds)
    print(describe_pair(FLAGS.peer_python, "torch", "diffusers"))
    print(
        f"model {FLAGS.model}, {FLAGS.size} px, {FLAGS.points} points, {FLAGS.steps} steps; "
        "points x products a second"
    )
    for name in sides:
        report = reports[name]
        print(
            f"{name}: {spread(rates[name])}, peak {report['peak_mb']:,.0f} MB, "
            f"first calls {report['compiled']:.0f} s, largest eigenvalues {report['largest']}"
        )
    print(f"ratio {ratio(rates)} (above 1: jaxdiff is faster)")


if __name__ == "__main__":
    app.run(main)
