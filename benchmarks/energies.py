"""The free energy of many points: time, and memory above the points themselves.

  python -m benchmarks.energies [--points 50000] [--dimension 3072]

There is no peer: what would hold every distance or every outer product at once does not fit. Prints seconds for the energy and its
gradient at 64 places, a product with the Hessian, its ends by 30 of them, and 64 samples of the smoothed sampler in 50 steps.
"""

import time

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.turns import peak
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape import curvature, energies, retrieval

flags.DEFINE_integer("points", 50_000, "Points.")
flags.DEFINE_integer("dimension", 3072, "Numbers a point.")
FLAGS = flags.FLAGS


def main(_) -> None:
    rng = np.random.default_rng(0)  # JAX's own would leave a peak of its own
    points = jnp.asarray(rng.random((FLAGS.points, FLAGS.dimension), np.float32) * 2.0 - 1.0)
    x = jax.random.normal(jax.random.key(1), (64, FLAGS.dimension))
    jax.block_until_ready((points, x))
    print(
        f"{FLAGS.points:,} points of {FLAGS.dimension:,}: {points.nbytes / 2**20:,.0f} MB, and {peak():,.0f} MB resident"
    )
    tau = jnp.float32(2.0 * FLAGS.dimension)

    def each(one):
        return jax.jit(lambda x, points: jax.lax.map(lambda x: one(x, points, tau), x))

    def product(x, points, tau):
        return energies.hessian_product(x, x, points, tau)

    matrix = each(energies.contraction)
    work = {
        "energy at 64 places": lambda: each(energies.free_energy)(x, points),
        "gradient at 64 places": lambda: each(energies.gradient)(x, points),
        "Hessian product at 64 places": lambda: each(product)(x, points),
        "M whole at 1 place": lambda: matrix(x[:1], points),
        "ends of the Hessian at 2 places, 30 products": lambda: curvature.curvature(
            curvature.Energy(energies.free_energy), x[:2], jax.random.key(2), points, tau, probes=0
        ),
        "64 smoothed samples, 50 steps": lambda: retrieval.smoothed_sampler(points, Schedule.linear(), 2.0, jax.random.key(3), 64),
    }  # fmt: skip
    for name, do in work.items():
        before, then = peak(), time.perf_counter()
        found = jax.block_until_ready(do())
        print(
            f"{name}: {time.perf_counter() - then:.1f} s, {peak() - before:,.0f} MB more",
            flush=True,
        )
        del found


if __name__ == "__main__":
    app.run(main)
