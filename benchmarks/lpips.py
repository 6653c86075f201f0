"""Mean pairwise LPIPS in one pass, beside the pairwise way of the package lpips in the same run.

  python -m benchmarks.lpips [--sizes 1000,3000,10000] [--net vgg]

For each number of 32x32 images: time and growth of the peak memory; then the package's time for 1,000 pairs, extrapolated to
all N(N-1)/2. Needs torch and lpips (extra: parity).
"""

import resource
import time

from experiments import _cli

_cli.prepare_environment()

import lpips as package
import numpy as np
import torch
from absl import app, flags

from jaxdiff.measures.lpips import LPIPS

flags.DEFINE_list("sizes", ["1000", "3000", "10000"], "Numbers of images.")
flags.DEFINE_enum("net", "vgg", ["vgg", "alex"], "The net.")
FLAGS = flags.FLAGS


def peak() -> float:
    """The process's peak resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(_) -> None:
    rng, ours = np.random.default_rng(0), LPIPS.load(FLAGS.net)
    theirs = package.LPIPS(net=FLAGS.net, pnet_rand=True, verbose=False).eval()
    pairs = torch.rand(2, 1000, 3, 32, 32) * 2 - 1
    then = time.perf_counter()
    with torch.no_grad():
        for first in range(0, 1000, 100):
            theirs(pairs[0, first : first + 100], pairs[1, first : first + 100])
    a_pair = (time.perf_counter() - then) / 1000
    print(f"the package lpips: {1000 * a_pair:.2f} ms a pair (1,000 pairs, batches of 100)")
    ours.mean_pairwise(rng.integers(0, 256, (128, 32, 32, 3)).astype(np.uint8))  # compiled
    for n in map(int, FLAGS.sizes):
        images = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
        before, then = peak(), time.perf_counter()
        found = ours.mean_pairwise(images)
        seconds, all_pairs = time.perf_counter() - then, a_pair * n * (n - 1) / 2
        print(f"{n:,} images: {seconds:.1f} s, memory + {peak() - before:.0f} MB, LPIPS {found.value:.4f} +- "
              f"{found.standard_error:.5f}; all pairs by the package would take {all_pairs / 3600:,.1f} h, "
              f"{all_pairs / seconds:,.0f} times as long")  # fmt: skip


if __name__ == "__main__":
    app.run(main)
