"""Train steps in one call, in several, and twice: a worker.

A small "2" (a quarter of the width, 16 px) is trained for eight steps. Where the process was
started with deterministic operations, only whether equal runs are equal bit for bit is answered.
"""

import json
import sys

from experiments import _cli

_cli.prepare_environment()

import jax
import numpy as np
import optax
from flax import nnx

from benchmarks.accelerator.parity import relative_error
from benchmarks.accelerator.sizes import Task, build_config
from benchmarks.turns import Answer, answer_requests
from jaxdiff import optimizers, parallel, training
from jaxdiff.cells.train_step import build_apply
from jaxdiff.datasets import batches as pipeline
from jaxdiff.denoiser import get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.gradients import data_parallel_grads
from jaxdiff.training_step import (
    TrainStep,
    build_loss,
    init_state,
    jit_train_steps,
    place_key,
)
from jaxdiff.unet import UNet

TASK = Task(**json.loads(sys.argv[1]))
STEPS = 2 if TASK.tiny else 8
BATCH = 16
SIZE = 16
NUM_IMAGES = 64
Weights = dict[str, np.ndarray]


class Trainer:
    """Trains the same model on the same images again and again.

    Parameters
    ----------
    k
        Steps of a call.
    dtype
        Of the activations.
    """

    def __init__(self, k: int, dtype: str = "float32"):
        config = build_config("2", TASK.tiny)
        config = config if TASK.tiny else config.widened(0.25)
        self.k = k
        self.mesh = parallel.data_mesh(1)
        self.optimizer = optax.flatten(
            optimizers.build_optimizer("adamw", STEPS, learning_rate=1e-3)
        )
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            params = get_params(UNet(config, rngs=nnx.Rngs(0)))
        self.params = {name: np.asarray(value) for name, value in params.items()}
        schedule = Schedule.linear()
        loss_fn = build_loss(build_apply(config, dtype), schedule, "eps")
        grad_fn = data_parallel_grads(jax.value_and_grad(loss_fn), self.mesh)
        train_step = TrainStep(grad_fn, self.optimizer, schedule, ema=0.999)
        self.train_steps = jit_train_steps(train_step, self.mesh)

    def train(self) -> Weights:
        """The weights after all steps."""
        shape = (NUM_IMAGES, SIZE, SIZE, 3)
        images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        batches = pipeline.resident(images, self.mesh, seed=0, steps=STEPS, batch=BATCH, k=self.k)
        state = init_state(self.params, self.optimizer, self.mesh)
        for output in training.fit(self.train_steps, state, batches, place_key(0, self.mesh)):
            last = output
        params = last.state.by_name().params
        return {name: np.asarray(value) for name, value in params.items()}


def largest_error(weights: Weights, reference: Weights) -> float:
    """The largest relative error of a tensor."""
    return max(relative_error(weights[name], reference[name]) for name in reference)


def compare_steps() -> Answer:
    """Whether equal runs are equal, and how far other forms are from them."""
    trainer = Trainer(STEPS)
    weights = trainer.train()
    again = trainer.train()
    answer: Answer = {"equal_bit_for_bit": all(np.array_equal(weights[n], again[n]) for n in again)}
    if TASK.deterministic:
        return answer
    return answer | {
        "error_of_a_second_run": largest_error(again, weights),
        "error_of_a_step_a_call": largest_error(Trainer(1).train(), weights),
        "error_in_bfloat16": largest_error(Trainer(STEPS, "bfloat16").train(), weights),
    }


if __name__ == "__main__":
    answer_requests({"compile": compare_steps})
