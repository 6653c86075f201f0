"""Model "2" on this device beside the same on the CPU: outputs and gradients; a worker.

Errors are |a - b| / |b| over whole arrays. The CPU computes in float32; the device in float32 at
full precision, in float32 as its libraries round it by default, and in bfloat16.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.accelerator.sizes import Task, build_config
from benchmarks.turns import Answer, answer_requests
from jaxdiff.cells.train_step import build_apply
from jaxdiff.denoiser import Params, get_params
from jaxdiff.unet import UNet

TASK = Task(**json.loads(sys.argv[1]))
SIZES = TASK.sizes
CONFIG = build_config("2", TASK.tiny)
CPU = jax.local_devices(backend="cpu")[0]
DEVICE = jax.local_devices()[0]
# Gradients below this share of the largest one are 0 but for rounding.
SMALLEST_GRADIENT = 1e-5


class Form(NamedTuple):
    """Where and how something is computed."""

    device: jax.Device
    dtype: str
    precision: str


REFERENCE = Form(CPU, "float32", "highest")
FORMS = {
    "float32": Form(DEVICE, "float32", "highest"),
    "default": Form(DEVICE, "float32", "default"),
    "bfloat16": Form(DEVICE, "bfloat16", "default"),
}


class Inputs(NamedTuple):
    """Of the loss of predicted noise."""

    params: dict[str, np.ndarray]
    xt: np.ndarray
    t: np.ndarray
    eps: np.ndarray


class Evaluated(NamedTuple):
    """The output of a network, and the gradient of its loss by parameter."""

    output: np.ndarray
    gradient: dict[str, np.ndarray]


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    a = np.asarray(a, np.float64)
    b = np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)


def make_inputs() -> Inputs:
    """Inputs of the loss; norms' scales and shifts are moved from where they begin."""
    with jax.default_device(CPU):
        params = get_params(UNet(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    moved = {}
    for name, value in params.items():
        array = np.asarray(value)
        noise = 0.1 * rng.standard_normal(array.shape, np.float32)
        moved[name] = array + noise if "norm" in name else array
    shape = (SIZES.checked, SIZES.checked_pixels, SIZES.checked_pixels, CONFIG.in_channels)
    xt, eps = rng.standard_normal((2, *shape)).astype(np.float32)
    t = np.linspace(7, 903, SIZES.checked).astype(np.int32)
    return Inputs(moved, xt, t, eps)


def evaluate(form: Form, inputs: Inputs) -> Evaluated:
    """Output and gradient of the loss of the predicted noise."""
    apply = build_apply(CONFIG, form.dtype)

    def loss(params: Params, xt: jax.Array, t: jax.Array, eps: jax.Array) -> tuple:
        output = apply(params, xt, t, None).astype(jnp.float32)
        return jnp.mean((output - eps) ** 2), output

    with jax.default_device(form.device), jax.default_matmul_precision(form.precision):
        gradient_fn = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, output), gradient = gradient_fn(*jax.device_put(inputs, form.device))
    return Evaluated(np.asarray(output), {name: np.asarray(g) for name, g in gradient.items()})


def compare(evaluated: Evaluated, reference: Evaluated) -> Answer:
    """Errors of the output and of the gradients."""
    norms = {name: np.linalg.norm(g) for name, g in reference.gradient.items()}
    smallest = SMALLEST_GRADIENT * max(norms.values())
    errors = {
        name: relative_error(evaluated.gradient[name], g)
        for name, g in reference.gradient.items()
        if norms[name] > smallest
    }
    biases = [error for name, error in errors.items() if name.endswith("bias")]
    weights = [error for name, error in errors.items() if not name.endswith("bias")]
    worst = max(errors, key=lambda name: errors[name])
    return {
        "output": relative_error(evaluated.output, reference.output),
        "median_of_weights": float(np.median(weights)),
        "median_of_biases": float(np.median(biases)),
        "worst": errors[worst],
        "worst_at": worst,
    }


def compare_forms() -> Answer:
    """The errors of every form."""
    inputs = make_inputs()
    with ThreadPoolExecutor() as pool:  # they compile side by side
        reference = pool.submit(evaluate, REFERENCE, inputs)
        futures = {name: pool.submit(evaluate, form, inputs) for name, form in FORMS.items()}
    return {name: compare(future.result(), reference.result()) for name, future in futures.items()}


if __name__ == "__main__":
    answer_requests({"compile": compare_forms})
