"""Our side of benchmarks.train and benchmarks.sample: a worker (see benchmarks/turns.py)."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.jax_device import describe_device
from benchmarks.turns import Answer, serve
from benchmarks.unet_task import UNetTask
from jaxdiff import models, optimizers, parallel, samplers, training
from jaxdiff.cells.train_step import build_apply, compiler_options
from jaxdiff.datasets import batches as pipeline
from jaxdiff.denoiser import get_params
from jaxdiff.flops import image_flops
from jaxdiff.gradients import data_parallel_grads
from jaxdiff.sampling import Sampler
from jaxdiff.sampling_programs import STEPS_PER_CALL
from jaxdiff.training_step import (
    TrainStep,
    build_loss,
    init_state,
    jit_train_steps,
    place_key,
)

TASK = UNetTask(**json.loads(sys.argv[1]))
MODEL = models.load(TASK.folder)
IS_CPU = jax.default_backend() == "cpu"
PRODUCT_SIZE = 2048 if IS_CPU else 8192  # which fills the device
TRAIN_STEPS = 1_000_000  # more than are run


class Timed(NamedTuple):
    """What is timed: a function that runs so many calls, its images and its FLOP.

    Images and FLOP are those of a call; a call of K steps has K times its batch.
    """

    run_calls: Callable[[int], None]
    images: int
    flops: float
    program: jax.stages.Compiled


def measure_product() -> float:
    """GFLOP/s of matrix products on every device, the best of ten."""
    mesh = parallel.data_mesh(8)
    a = jnp.ones((mesh.size, PRODUCT_SIZE, PRODUCT_SIZE), TASK.dtype)
    product = jax.shard_map(
        lambda x: x @ x, mesh=mesh, in_specs=parallel.DATA, out_specs=parallel.DATA
    )
    matmul = jax.jit(product)
    times = []
    for _ in range(11):
        start = time.perf_counter()
        jax.block_until_ready(matmul(a))
        times.append(time.perf_counter() - start)
    fastest = min(times[1:])  # the first one compiles
    return mesh.size * 2 * PRODUCT_SIZE**3 / fastest / 1e9


def gradient_flops() -> float:
    """FLOP of the loss's gradient of a batch."""
    apply = build_apply(MODEL.unet.config)
    return TASK.batch * image_flops(apply, get_params(MODEL.unet), MODEL.shape)


def build_trainer() -> Timed:
    """Train steps, K a call."""
    k = TASK.steps_per_call
    mesh = parallel.data_mesh(TASK.batch)
    optimizer = optax.flatten(optimizers.build_optimizer("adamw", TRAIN_STEPS, learning_rate=1e-4))
    state = init_state(get_params(MODEL.unet), optimizer, mesh)
    loss_fn = build_loss(build_apply(MODEL.unet.config, TASK.dtype), MODEL.schedule, "eps")
    train_step = TrainStep(
        grad_fn=data_parallel_grads(jax.value_and_grad(loss_fn), mesh),
        optimizer=optimizer,
        schedule=MODEL.schedule,
        ema=0.999,
    )
    images = np.random.default_rng(0).integers(0, 256, (1024, *MODEL.shape)).astype(np.uint8)
    total = TRAIN_STEPS // k * k
    batches = pipeline.resident(images, mesh, seed=0, steps=total, batch=TASK.batch, k=k)
    key_data = place_key(0, mesh)
    lowered = jit_train_steps(train_step, mesh).lower(state, next(batches(0)), key_data)
    program = lowered.compile(compiler_options=compiler_options(mesh))
    run = training.fit(program, state, batches, key_data)

    def run_calls(count: int) -> None:
        for _ in range(count):
            output = next(run)
        jax.block_until_ready(output.state.step)

    return Timed(run_calls, k * TASK.batch, k * gradient_flops(), program)


def build_sampler() -> Timed:
    """DDIM steps on one batch, as many a call as `Sampler` takes."""
    spec = samplers.SamplerSpec("ddim", 1000)
    sampler = Sampler(MODEL, spec, batch=TASK.batch, dtype=TASK.dtype)
    keys = jax.random.split(jax.random.key(0), TASK.batch)
    noise = np.asarray(samplers.initial_noise(keys, sampler.image_shape))
    xt = parallel.to_global_array(noise, sampler.sharding)
    keys = jax.device_put(keys, sampler.sharding)
    k = 1 if IS_CPU else STEPS_PER_CALL
    chain = spec.build("eps").chain(MODEL.schedule, spec.steps)
    first_steps = samplers.Step(*(column[:k] for column in chain))

    compiled = sampler.step.lower(sampler.params, xt, first_steps, keys, None).compile()

    def run_calls(count: int) -> None:
        for _ in range(count):
            x = compiled(sampler.params, xt, first_steps, keys, None)
        jax.block_until_ready(x)

    # A forward pass is a third of its gradient.
    return Timed(run_calls, k * TASK.batch, k * gradient_flops() / 3, compiled)


def save_profile(timed: Timed) -> None:
    """Save a profile of three calls and the compiled text, which names its kernels."""
    with jax.profiler.trace(TASK.profile):
        timed.run_calls(3)
    Path(TASK.profile, "program.txt").write_text(timed.program.as_text() or "")


def main() -> None:
    timed = build_trainer() if TASK.what == "train" else build_sampler()

    def describe() -> Answer:
        answer: Answer = {"flops": timed.flops / timed.images, **describe_device()}
        if TASK.product:
            answer["product_gflops"] = measure_product()
        if TASK.profile:
            save_profile(timed)
        return answer

    serve(timed.run_calls, timed.images, TASK.seconds, describe)


if __name__ == "__main__":
    main()
