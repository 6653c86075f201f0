"""One process of a training that several may share; tests/test_parallel.py starts it.

It prints one line of JSON: python -m tests.training_worker DEVICES PROCESSES PROCESS_ID PORT
"""

import json
import os
import sys

num_devices, num_processes, process_id, port = map(int, sys.argv[1:])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={num_devices} "
    "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=0 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600 "
    "--xla_cpu_collective_timeout_seconds=600"
)

import jax
import numpy as np
import optax
from flax import nnx

from jaxdiff import optimizers, parallel, training, training_step
from jaxdiff.datasets import batches as pipeline
from jaxdiff.denoiser import abstract_network, as_function, get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.gradients import data_parallel_grads, fsdp_grads
from jaxdiff.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    (64,), norm_num_groups=8, layers_per_block=1, mid_block=False, in_channels=1, out_channels=1
)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
TRAIN_STEPS = 20
BATCH = 16
SCHEDULE = Schedule.linear(100)


def apply(params, xt, t, keys):
    return as_function(abstract_network(CONFIG))(params, xt, t)


def build_optimizer(shard: bool) -> optax.GradientTransformation:
    optimizer = optimizers.build_optimizer("adamw", TRAIN_STEPS, learning_rate=1e-3)
    return optimizer if shard else optax.flatten(optimizer)


def run(shard: bool, stream: bool) -> dict:
    """The losses, and the share of the parameters that this process's first device holds."""
    mesh = parallel.global_mesh(BATCH)
    optimizer = build_optimizer(shard)
    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
    initial = get_params(UNet(CONFIG, rngs=nnx.Rngs(0)))
    params = {name: np.asarray(value, dtype) for name, value in initial.items()}
    loss_fn = training_step.build_loss(apply, SCHEDULE, "v")
    average_grads = fsdp_grads if shard else data_parallel_grads
    grad_fn = average_grads(jax.value_and_grad(loss_fn), mesh)
    train_step = training_step.TrainStep(grad_fn, optimizer, SCHEDULE, ema=0.999)
    train_steps = training_step.jit_train_steps(train_step, mesh, shard)
    build_batches = pipeline.streamed if stream else pipeline.resident
    calls = build_batches(IMAGES, mesh, seed=0, steps=TRAIN_STEPS, batch=BATCH, k=1)
    state = training_step.init_state(params, optimizer, mesh, shard)
    sizes = [param.size for param in state.params.values()]
    local_sizes = [param.addressable_shards[0].data.size for param in state.params.values()]
    metrics = []
    key_data = training_step.place_key(0, mesh)
    for output in training.fit(train_steps, state, calls, key_data):
        metrics += output.metrics
    metrics += output.flush_metrics()
    losses = [record["loss"] for record in metrics]
    return {"losses": losses, "local_share": sum(local_sizes) / sum(sizes)}


def main() -> None:
    if num_processes > 1:
        parallel.start(f"localhost:{port}", num_processes, process_id)
    shardings = ["replicated", "sharded"] if num_devices * num_processes > 1 else ["replicated"]
    results = {}
    for precision in ("float32", "float64"):
        with jax.enable_x64(precision == "float64"):
            for sharding in shardings:
                result = run(sharding == "sharded", stream=num_processes > 1)
                results[f"{precision} {sharding}"] = result
    if parallel.is_leader():
        print(json.dumps(results))


if __name__ == "__main__":
    main()
