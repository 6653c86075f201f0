"""Mean pairwise LPIPS in one pass, beside the pairwise way of the package lpips in the same run.

  python -m benchmarks.lpips [--sizes 1000,3000,10000] [--net vgg]

For each number of 32x32 images: time and growth of the peak memory; then the package's time for
1,000 pairs, extrapolated to all N(N-1)/2. Needs torch and lpips (extra: parity).
"""

import time

from experiments import _cli

_cli.prepare_environment()

import lpips as package
import numpy as np
import torch
from absl import app, flags

from benchmarks.machine import describe_machine
from benchmarks.torch_device import DEVICE, synchronize
from benchmarks.turns import peak
from jaxdiff.measures.lpips import LPIPS

flags.DEFINE_list("sizes", ["1000", "3000", "10000"], "Numbers of images.")
flags.DEFINE_enum("net", "vgg", ["vgg", "alex"], "The net.")
FLAGS = flags.FLAGS

NUM_PAIRS = 1000
BATCH = 100


def time_package(net: str) -> float:
    """Seconds that the package lpips takes for a pair."""
    model = package.LPIPS(net=net, pnet_rand=True, verbose=False).to(DEVICE).eval()
    first, second = torch.rand(2, NUM_PAIRS, 3, 32, 32, device=DEVICE) * 2 - 1
    with torch.no_grad():
        model(first[:BATCH], second[:BATCH])  # the first call loads the device's libraries
        synchronize()
        start = time.perf_counter()
        for i in range(0, NUM_PAIRS, BATCH):
            model(first[i : i + BATCH], second[i : i + BATCH])
        synchronize()
    return (time.perf_counter() - start) / NUM_PAIRS


def main(_) -> None:
    print(describe_machine())
    rng = np.random.default_rng(0)
    lpips = LPIPS.load(FLAGS.net)
    pair_seconds = time_package(FLAGS.net)
    print(f"the package lpips: {1000 * pair_seconds:.2f} ms a pair (1,000 pairs, batches of 100)")
    # The first call compiles.
    lpips.mean_pairwise(rng.integers(0, 256, (128, 32, 32, 3)).astype(np.uint8))
    for size in FLAGS.sizes:
        n = int(size)
        images = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)
        memory = peak()
        start = time.perf_counter()
        estimate = lpips.mean_pairwise(images)
        seconds = time.perf_counter() - start
        growth = peak() - memory
        package_seconds = pair_seconds * n * (n - 1) / 2
        print(
            f"{n:,} images: {seconds:.1f} s, memory + {growth:.0f} MB, "
            f"LPIPS {estimate.value:.4f} +- {estimate.standard_error:.5f}; all pairs by the "
            f"package would take {package_seconds / 3600:,.1f} h, "
            f"{package_seconds / seconds:,.0f} times as long"
        )


if __name__ == "__main__":
    app.run(main)
