"""The measures of copying against many training images: time for 1,000 samples, and memory above the images themselves.

python -m benchmarks.memorization [--references 50000] [--dimension 3072]

There is no peer: prdc and its like hold every distance at once (1,000 x 50,000 and 50,000 x 50,000 in float64 are 20 GB).
"""

import time

import numpy as np
from absl import app, flags

from benchmarks.turns import peak
from jaxdiff.measures import distributions, memorization

flags.DEFINE_integer("references", 50_000, "Training images.")
flags.DEFINE_integer("queries", 1_000, "Samples, and as many held-out images.")
flags.DEFINE_integer("dimension", 3_072, "Numbers an image.")
FLAGS = flags.FLAGS


def main(_) -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (FLAGS.references, FLAGS.dimension), np.uint8)
    samples, others, held_out = rng.integers(0, 256, (3, FLAGS.queries, FLAGS.dimension), np.uint8)
    base = peak()
    print(
        f"{FLAGS.references:,} uint8 rows of {FLAGS.dimension:,}, {FLAGS.queries:,} samples; MB above the images' own"
    )
    for name, measure in {
        "copying": lambda: memorization.copying({"samples": samples, "held_out": held_out}, train),
        "kinds": lambda: memorization.kinds(samples, others, train, held_out),
        "prdc": lambda: distributions.prdc(held_out.astype(np.float32), samples.astype(np.float32)),
        "kid": lambda: distributions.kid(held_out.astype(np.float32), samples.astype(np.float32)),
    }.items():
        then = time.perf_counter()
        measure()
        print(f"{name:8} {time.perf_counter() - then:6.1f} s, {peak() - base:5.0f} MB")


if __name__ == "__main__":
    app.run(main)
