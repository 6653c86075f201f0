"""One process of a training that several may share, as tests/test_parallel.py starts it; prints one line of JSON.

python -m tests.training_worker DEVICES PROCESSES PROCESS_ID PORT
"""

import json
import os
import sys

devices, processes, process_id, port = map(int, sys.argv[1:])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={devices} --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600 --xla_cpu_collective_timeout_seconds=600"
)

import jax
import numpy as np
import optax
from flax import nnx

from jaxdiff import optimizers, parallel, training
from jaxdiff.datasets import batches as pipeline
from jaxdiff.denoiser import abstract_network, as_function, get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.unet import UNet, UNetConfig

SMALL = UNetConfig(
    (64,), norm_num_groups=8, layers_per_block=1, mid_block=False, in_channels=1, out_channels=1
)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
STEPS, BATCH = 50, 16


def run(shard: bool, stream: bool) -> dict:
    """50 steps; the losses, and the share of the parameters that this process's first device holds."""
    mesh = parallel.global_mesh(BATCH)
    rule = optimizers.make("adamw", STEPS, learning_rate=1e-3)
    rule = rule if shard else optax.flatten(rule)
    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
    params = {n: np.asarray(p, dtype) for n, p in get_params(UNet(SMALL, rngs=nnx.Rngs(0))).items()}
    state = training.init_state(params, rule, mesh, shard)

    def apply(p, xt, t, keys):
        return as_function(abstract_network(SMALL))(p, xt, t)

    options = {"prediction": "v", "ema": 0.999, "seed": 0, "shard_params": shard}
    step = training.make_train_step(apply, rule, Schedule.linear(100), mesh, **options)
    make = pipeline.streamed if stream else pipeline.resident
    calls = make(IMAGES, mesh, seed=0, steps=STEPS, batch=BATCH, k=1)
    losses = [
        m["loss"] for call in training.fit(step, state, calls, steps=STEPS) for m in call.metrics
    ]
    state = training.init_state(params, rule, mesh, shard)
    held = sum(p.addressable_shards[0].data.size for p in state.params.values())
    return {"losses": losses, "held": held / sum(p.size for p in state.params.values())}


def main() -> None:
    if processes > 1:
        parallel.start(f"localhost:{port}", processes, process_id)
    found = {}
    for precision in ("float32", "float64"):
        with jax.enable_x64(precision == "float64"):
            for shard in (False, True)[: 1 + (devices * processes > 1)]:
                found[f"{precision} {'sharded' if shard else 'replicated'}"] = run(
                    shard, stream=processes > 1
                )
    if parallel.is_leader():
        print(json.dumps(found))


if __name__ == "__main__":
    main()
