"""Our side of benchmarks.curvature: a worker (see benchmarks/turns.py)."""

import json
import sys

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.curvature_task import CurvatureTask
from benchmarks.jax_device import describe_device
from benchmarks.turns import Answer, peak, serve
from jaxdiff import models
from jaxdiff.denoiser import get_params
from jaxdiff.landscape import curvature
from jaxdiff.landscape.level_functions import level_functions
from jaxdiff.precision import MEASURED

TASK = CurvatureTask(**json.loads(sys.argv[1]))
LARGEST: list[float] = []


def main() -> None:
    if not TASK.tf32:
        jax.config.update("jax_default_matmul_precision", MEASURED)
    model = models.load(TASK.folder)
    n = TASK.points
    x = np.random.default_rng(0).standard_normal((n, *model.shape)).astype(np.float32)
    params = {name: jnp.asarray(np.asarray(p)) for name, p in get_params(model.unet).items()}
    alpha_bar = jnp.asarray(model.schedule.alpha_bar)
    t = jnp.asarray(300, jnp.int32)
    functions = level_functions(model.unet.config, model.prediction, model.shape)
    field = curvature.Field(functions.denoiser)

    def run(count: int) -> None:
        for _ in range(count):
            measured = curvature.curvature(
                field,
                jnp.asarray(x),
                jax.random.key(0),
                params,
                alpha_bar,
                t,
                steps=TASK.steps,
                probes=0,
                dense=0,
            )
            LARGEST[:] = [round(float(v), 5) for v in measured["largest"].values[:3]]

    def prepare() -> Answer:
        run(1)
        return {}

    def describe() -> Answer:
        return {"peak_mb": peak(), "largest": LARGEST, **describe_device()}

    serve(run, n * TASK.steps, TASK.seconds, describe, prepare)


if __name__ == "__main__":
    main()
