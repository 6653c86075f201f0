"""Our side of benchmarks.train and benchmarks.sample: a worker (see benchmarks/turns.py)."""

import json
import sys
import time

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.turns import serve
from jaxdiff import models, optimizers, parallel, samplers, training
from jaxdiff.datasets import batches as pipeline
from jaxdiff.sampling import Sampler
from jaxdiff.study.train import training_apply
from jaxdiff.unet import parameters

TASK = json.loads(sys.argv[1])
MODEL = models.load(TASK["folder"])


def product_rate() -> float:
    """GFLOP/s of a float32 matrix product of 2,048 on every device, the best of ten."""
    mesh = parallel.data_mesh(8)
    a = jnp.ones((mesh.size, 2048, 2048))
    matmul = jax.jit(
        jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=parallel.DATA, out_specs=parallel.DATA)
    )
    times = []
    for _ in range(11):
        then = time.perf_counter()
        jax.block_until_ready(matmul(a))
        times.append(time.perf_counter() - then)
    return mesh.size * 2 * 2048**3 / min(times[1:]) / 1e9


def trainer():
    """A function of a number of steps that trains so many, and the FLOP of one."""
    batch, k = TASK["batch"], TASK["steps_per_call"]
    mesh, rule = (
        parallel.data_mesh(batch),
        optax.flatten(optimizers.make("adamw", 100_000, learning_rate=1e-4)),
    )
    state = training.init_state(parameters(MODEL.unet), rule, mesh)
    apply = training_apply(MODEL.unet.config, TASK["dtype"])
    options = {"prediction": "eps", "ema": 0.999, "seed": 0}
    step = training.make_train_step(apply, rule, MODEL.schedule, mesh, **options)
    images = np.random.default_rng(0).integers(0, 256, (1024, *MODEL.shape)).astype(np.uint8)
    calls = pipeline.resident(images, mesh, seed=0, steps=100_000 // k * k, batch=batch, k=k)
    compiled = step.lower(state, next(calls(0))).compile()
    run = training.fit(compiled, state, calls, steps=100_000 // k * k)

    def steps(count: int) -> None:
        for _ in range(-(-count // k)):
            call = next(run)
        jax.block_until_ready(call.state.step)

    return steps, batch * training.image_flops(
        training_apply(MODEL.unet.config), parameters(MODEL.unet), MODEL.shape
    )


def sampler():
    """A function of a number of DDIM steps that takes so many on one batch, and the FLOP of one."""
    model = MODEL
    spec = samplers.SamplerSpec("ddim", 1000)
    drawer = Sampler(model, spec, batch=TASK["batch"])
    keys = jax.random.split(jax.random.key(0), TASK["batch"])
    xt = parallel.place(
        np.asarray(samplers.initial_noise(keys, drawer.image_shape)), drawer.sharding
    )
    chain = spec.build("eps").chain(model.schedule, 1000)
    k = 1 if jax.default_backend() == "cpu" else 10
    first = samplers.Step(*(column[:k] for column in chain))
    keys = jax.device_put(keys, drawer.sharding)
    flops = (
        TASK["batch"]
        * training.image_flops(training_apply(model.unet.config), drawer.params, drawer.image_shape)
        / 3
    )

    def steps(count: int) -> None:
        for _ in range(-(-count // k)):
            x = drawer.step(drawer.params, xt, first, keys, None)
        jax.block_until_ready(x)

    return steps, flops


def main() -> None:
    steps, flops = (trainer if TASK["what"] == "train" else sampler)()
    serve(
        steps, TASK["batch"], TASK["seconds"], lambda: {"flops": flops, "product": product_rate()}
    )


if __name__ == "__main__":
    main()
