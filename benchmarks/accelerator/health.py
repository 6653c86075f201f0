"""Whether this JAX computes rightly on this device, and what the device gives: a worker.

Operations are checked that JAX or its libraries have computed wrongly on some GPU (jax-ml/jax
40633: without jit; 39103: sums of mapped products; 37922: bfloat16 convolutions).
"""

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from experiments import _cli

_cli.prepare_environment()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.sizes import Task
from benchmarks.jax_device import describe_device
from benchmarks.turns import Answer, answer_requests

TASK = Task(**json.loads(sys.argv[1]))
SIZES = TASK.sizes
PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda13-plugin",
    "jax-cuda12-plugin",
    "flax",
    "optax",
    "numpy",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-cu12",
)
LARGEST_ERROR = 0.03  # of a bfloat16 convolution and its gradients, in norm
REPEATS = 10
# Channels in and out, pixels and stride: those of Table A.
CONVOLUTIONS = (
    (3, 32, 32, 1),
    (32, 32, 32, 1),
    (64, 64, 16, 1),
    (64, 64, 16, 2),
    (512, 512, 4, 1),
    (512, 512, 1, 1),
    (32, 3, 32, 1),
)


def find_versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_eager(seed: int) -> list[str]:
    """Names of the operations that are wrong without jit."""
    key = jax.random.key(seed)
    normal = np.asarray(jax.random.normal(key, (1000,)))
    uniform = np.asarray(jax.random.uniform(key, (1000,)))
    integers = np.asarray(jax.random.randint(key, (1000,), 0, 1000))
    is_right = {
        "sqrt": np.isclose(float(jnp.sqrt(jnp.float32(512))), 22.627417),
        "ones + 1": np.array_equal(np.asarray(jnp.ones(4) + 1), np.full(4, 2)),
        "normal": np.isfinite(normal).all(),
        "uniform": ((uniform >= 0) & (uniform < 1)).all(),
        "randint": ((integers >= 0) & (integers < 1000)).all(),
    }
    return [name for name, right in is_right.items() if not right]


def check_random_numbers() -> bool:
    """Whether random numbers are those of the CPU."""
    key = jax.random.key(7)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        expected = np.asarray(jax.random.normal(key, (64,)))
    return bool(np.allclose(np.asarray(jax.random.normal(key, (64,))), expected, atol=1e-6))


def check_sums() -> bool:
    """Whether sums of mapped products of ones are what they must be."""
    rows = jnp.ones((33 if TASK.tiny else 32_769, 1024))
    matrix = jnp.ones((1024, 1024))
    sums = jax.jit(jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2)))(rows)
    return bool((sums == 2.0**30).all())


def convolution_gradients(x: jax.Array, kernel: jax.Array, stride: int, dtype: str) -> list:
    """A convolution's sum of squares and its gradients."""

    def energy(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x.astype(dtype),
            kernel.astype(dtype),
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jnp.sum(y.astype(jnp.float32) ** 2)

    return jax.tree.leaves(jax.jit(jax.value_and_grad(energy, (0, 1)))(x, kernel))


def check_convolution(shape: tuple[int, int, int, int]) -> str:
    """What is wrong with a convolution in bfloat16, nothing where it is right."""
    channels, out, size, stride = shape
    key_x, key_kernel = jax.random.split(jax.random.key(channels * out))
    x = jax.random.normal(key_x, (8, size, size, channels))
    kernel = jax.random.normal(key_kernel, (3, 3, channels, out)) * (9 * channels) ** -0.5
    try:
        expected = convolution_gradients(x, kernel, stride, "float32")
        values = convolution_gradients(x, kernel, stride, "bfloat16")
    except jax.errors.JaxRuntimeError as error:
        return str(error).splitlines()[0][:200]
    errors = [
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(values, expected, strict=True)
    ]
    return f"relative error {max(errors):.3f}" if max(errors) > LARGEST_ERROR else ""


def check() -> Answer:
    """Everything that is right or wrong."""
    # Twice, since what was wrong was left over from the operation before.
    wrong = [check_eager(seed) for seed in (0, 1)]
    shapes = CONVOLUTIONS[::3] if TASK.tiny else CONVOLUTIONS
    with ThreadPoolExecutor() as pool:  # they compile side by side
        faults = dict(zip(shapes, pool.map(check_convolution, shapes), strict=True))
    names = {shape: "{} to {} channels, {} px, stride {}".format(*shape) for shape in CONVOLUTIONS}
    return {
        "versions": find_versions(),
        "wrong_without_jit": sorted({*wrong[0], *wrong[1]}),
        "random_numbers_as_on_cpu": check_random_numbers(),
        "sums_right": check_sums(),
        "bfloat16_convolutions_wrong": {names[s]: fault for s, fault in faults.items() if fault},
    }


def time_call(function: Callable[..., jax.Array], *inputs: jax.Array) -> float:
    """Seconds of a call, the mean of several."""
    jax.block_until_ready(function(*inputs))
    start = time.perf_counter()
    for _ in range(REPEATS):
        output = function(*inputs)
    jax.block_until_ready(output)
    return (time.perf_counter() - start) / REPEATS


def measure_rates() -> Answer:
    """FLOP/s of large products of random numbers, and bytes a second of a large copy."""
    shape = (SIZES.product, SIZES.product)
    a, b = (jax.random.normal(jax.random.key(i), shape) for i in (0, 1))
    flops = 2 * SIZES.product**3
    forms = {
        "bfloat16": (jnp.bfloat16, None),
        "tf32": (jnp.float32, None),
        "float32": (jnp.float32, "highest"),
    }
    rates = {}
    for name, (dtype, precision) in forms.items():
        x = a.astype(dtype)
        y = b.astype(dtype)

        def multiply(x: jax.Array, y: jax.Array, precision: str | None = precision) -> jax.Array:
            return jnp.matmul(x, y, precision=precision)

        rates[name] = flops / time_call(jax.jit(multiply), x, y) / 1e12
    numbers = jnp.zeros(SIZES.copy)
    seconds = time_call(jax.jit(lambda x: x + 1.0), numbers)
    return {
        "product_tflops": rates,
        "copy_terabytes_per_second": 2 * numbers.nbytes / seconds / 1e12,
        **describe_device(),
    }


if __name__ == "__main__":
    answer_requests({"compile": check, "round": measure_rates})
