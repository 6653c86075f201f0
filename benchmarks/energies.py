"""The free energy of many points: time, and memory above the points themselves.

  python -m benchmarks.energies [--points 50000] [--dimension 3072]

There is no peer: what would hold every distance or every outer product together does not fit.
Prints seconds for the energy and its gradient at 64 queries, a product with the Hessian, its ends
by 30 of them, and 64 samples of the smoothed sampler in 50 steps.
"""

import time

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.machine import describe_machine
from benchmarks.turns import peak
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape import curvature, energies, retrieval

flags.DEFINE_integer("points", 50_000, "Points.")
flags.DEFINE_integer("dimension", 3072, "Numbers a point.")
FLAGS = flags.FLAGS

NUM_QUERIES = 64


def at_queries(function, tau):
    """Compile a function of (query, points, tau) for many queries."""

    def map_queries(queries, points):
        return jax.lax.map(lambda x: function(x, points, tau), queries)

    return jax.jit(map_queries)


def hessian_product(x, points, tau):
    """H x by automatic differentiation."""
    _, product = jax.jvp(lambda x: energies.gradient(x, points, tau), (x,), (x,))
    return product


def build_tasks(points, queries):
    """What is timed, by name."""
    tau = jnp.float32(2.0 * FLAGS.dimension)
    labels = np.arange(len(points)) % 2
    hessian = curvature.Energy(energies.free_energy)

    def hessian_ends():
        key = jax.random.key(2)
        return curvature.curvature(hessian, queries[:2], key, points, tau, probes=0)

    def smoothed_samples():
        return retrieval.sample_smoothed(
            points, labels, Schedule.linear(), 2.0, jax.random.key(3), count=NUM_QUERIES
        )

    return {
        "energy at 64 queries": lambda: at_queries(energies.free_energy, tau)(queries, points),
        "gradient at 64 queries": lambda: at_queries(energies.gradient, tau)(queries, points),
        "Hessian product at 64 queries": lambda: at_queries(hessian_product, tau)(queries, points),
        "M at 1 query": lambda: at_queries(energies.denoiser_jacobian, tau)(queries[:1], points),
        "ends of the Hessian at 2 queries, 30 products": hessian_ends,
        "64 smoothed samples, 50 steps": smoothed_samples,
    }


def main(_) -> None:
    print(describe_machine())
    # JAX's own random numbers would leave a peak of their own.
    rng = np.random.default_rng(0)
    shape = (FLAGS.points, FLAGS.dimension)
    points = jnp.asarray(rng.random(shape, np.float32) * 2.0 - 1.0)
    queries = jax.random.normal(jax.random.key(1), (NUM_QUERIES, FLAGS.dimension))
    jax.block_until_ready((points, queries))
    size = points.nbytes / 2**20
    print(f"{shape[0]:,} points of {shape[1]:,}: {size:,.0f} MB, and {peak():,.0f} MB resident")
    for name, task in build_tasks(points, queries).items():
        peak_before = peak()
        start = time.perf_counter()
        result = jax.block_until_ready(task())
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.1f} s, {peak() - peak_before:,.0f} MB more", flush=True)
        del result


if __name__ == "__main__":
    app.run(main)
