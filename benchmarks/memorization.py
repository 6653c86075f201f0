"""The measures of copying against many training images: time for 1,000 samples, and memory.

  python -m benchmarks.memorization [--references 50000] [--dimension 3072]

The memory is that above the images themselves. There is no peer: prdc and its like hold every
distance at once (1,000 x 50,000 and 50,000 x 50,000 in float64 are 20 GB).
"""

import time

import numpy as np
from absl import app, flags

from benchmarks.machine import describe_machine
from benchmarks.turns import peak
from jaxdiff.measures.distributions import kid, prdc
from jaxdiff.measures.memorization import copy_spurious_generalized, memorization_metrics
from jaxdiff.measures.nearer import nearer_to_training

flags.DEFINE_integer("references", 50_000, "Training images.")
flags.DEFINE_integer("queries", 1_000, "Samples, and as many held-out images.")
flags.DEFINE_integer("dimension", 3_072, "Numbers an image.")
FLAGS = flags.FLAGS


def main(_) -> None:
    print(describe_machine())
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (FLAGS.references, FLAGS.dimension), np.uint8)
    sets = rng.integers(0, 256, (3, FLAGS.queries, FLAGS.dimension), np.uint8)
    samples, second_samples, held_out = sets
    memory = peak()
    print(
        f"{FLAGS.references:,} uint8 rows of {FLAGS.dimension:,}, {FLAGS.queries:,} samples; "
        "MB above the images' own"
    )

    def report(name, compute, *arguments):
        start = time.perf_counter()
        compute(*arguments)
        print(f"{name:10} {time.perf_counter() - start:6.1f} s, {peak() - memory:5.0f} MB")

    report("memorized", memorization_metrics, {"samples": samples, "held_out": held_out}, train)
    report("nearer", nearer_to_training, samples, train[0::2], train[1::2])
    references = train[: len(second_samples)]  # as many of both
    report("copies", copy_spurious_generalized, samples, second_samples, references, held_out)
    held_out_features = held_out.astype(np.float32)
    features = samples.astype(np.float32)
    report("prdc", prdc, held_out_features, features)
    report("kid", kid, held_out_features, features)


if __name__ == "__main__":
    app.run(main)
