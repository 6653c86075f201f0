"""The functions of sampling, compiled over a mesh of devices that share the samples of a batch.

Weights, seeds and images are arguments: models of one network and schedule share a program.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree

from jaxdiff import cell_axis, diffusion, models, parallel, samplers
from jaxdiff.denoiser import NetworkFunction, Params, as_function
from jaxdiff.noise_bank import bank_keys
from jaxdiff.programs import share_programs
from jaxdiff.samplers import Inversion, SamplingMethod

STEPS_PER_CALL = 10


def compile_step(
    network: nnx.Module,
    schedule: diffusion.Schedule,
    method: SamplingMethod,
    mesh: Mesh,
    dtype: str = "float32",
) -> jax.stages.Wrapped:
    """One or more steps of a sampler, compiled for a mesh.

    Parameters
    ----------
    network
        It may be abstract.
    schedule
        Noise levels of the model.
    method
        The sampler with its options.
    mesh
        The batch is split over its devices; on the axis `cell` (`cell_axis`) each has a network
        and a batch of its own, and all arguments but `steps` are stacked.
    dtype
        Type of the images that enter the network, which computes in it; the carry keeps its own.

    Returns
    -------
    function
        (params, carry, steps, keys, labels) -> carry, where `steps` are rows of the chain.
    """
    return _step_program(as_function(network), schedule, method, mesh, dtype)


@share_programs
def _step_program(
    apply: NetworkFunction,
    schedule: diffusion.Schedule,
    method: SamplingMethod,
    mesh: Mesh,
    dtype: str,
) -> jax.stages.Wrapped:
    def run_steps(
        params: Params, carry: PyTree, steps: Any, keys: Array, labels: Array | None
    ) -> PyTree:
        def predict(xt: Array, t: Array) -> Array:
            if dtype == "float32":
                return apply(params, xt, t, labels)
            return apply(params, xt.astype(dtype), t, labels).astype(xt.dtype)

        def run_step(carry: PyTree, step: Any) -> tuple[PyTree, None]:
            return method.step(predict, schedule, carry, step, keys), None

        # A scan of one step would compile the loop around it too.
        if len(steps.t) == 1:
            return run_step(carry, jax.tree.map(lambda column: column[0], steps))[0]
        return jax.lax.scan(run_step, carry, steps)[0]

    if cell_axis.has_cells(mesh):
        stacked = cell_axis.CELLS
        specs = (stacked, stacked, parallel.REPLICATED, stacked, stacked)
        return jax.jit(cell_axis.map_over_cells(run_steps, mesh, specs))
    specs = (parallel.REPLICATED, parallel.DATA, parallel.REPLICATED, parallel.DATA, parallel.DATA)
    return _compile(run_steps, mesh, specs)


def compile_prediction(model: models.Model, mesh: Mesh) -> jax.stages.Wrapped:
    """(params, xt, t, labels) -> the predicted x0 and eps, compiled for a mesh."""
    return _prediction_program(as_function(model.unet), model.schedule, model.prediction, mesh)


@share_programs
def _prediction_program(
    apply: NetworkFunction,
    schedule: diffusion.Schedule,
    prediction: diffusion.Prediction,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    def predict(params: Params, xt: Array, t: Array, labels: Array | None) -> tuple[Array, Array]:
        output = apply(params, xt, t, labels)
        return diffusion.to_x0_and_eps(schedule, prediction, output, xt, t)

    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA, parallel.DATA)
    return _compile(predict, mesh, specs)


def compile_inversion(
    model: models.Model, steps: int, iterations: int, mesh: Mesh
) -> jax.stages.Wrapped:
    """(params, x0, labels) -> `samplers.round_trip` of the images, compiled for a mesh."""
    return _inversion_program(
        as_function(model.unet), model.schedule, model.prediction, steps, iterations, mesh
    )


@share_programs
def _inversion_program(
    apply: NetworkFunction,
    schedule: diffusion.Schedule,
    prediction: diffusion.Prediction,
    steps: int,
    iterations: int,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    def invert(params: Params, x0: Array, labels: Array | None) -> Inversion:
        def predict(xt: Array, t: Array) -> Array:
            return apply(params, xt, t, labels)

        return samplers.round_trip(
            predict,
            schedule,
            x0,
            prediction=prediction,
            steps=steps,
            iterations=iterations,
        )

    return _compile(invert, mesh, (parallel.REPLICATED, parallel.DATA, parallel.DATA))


def _compile(function: Callable[..., Any], mesh: Mesh, in_specs: tuple) -> jax.stages.Wrapped:
    """The function over a mesh; all that it returns is split by samples."""
    # Each device runs its own samples: nothing is communicated.
    return jax.jit(parallel.shard_map(function, mesh, in_specs))


@share_programs
def compile_begin(
    method: SamplingMethod, image_shape: tuple[int, int, int], sharding: NamedSharding
) -> jax.stages.Wrapped:
    """(data of a bank, indices) -> the first carry and the keys of these entries of the bank.

    Over the axis `cell` all of them are stacked, one bank per cell.
    """

    def begin(bank: Array, index: Array) -> tuple[PyTree, Array]:
        keys = bank_keys(bank, index)
        return method.init(samplers.initial_noise(keys, image_shape)), keys

    mesh: Any = sharding.mesh
    if cell_axis.has_cells(mesh):
        return jax.jit(cell_axis.map_over_cells(begin, mesh))
    return jax.jit(begin, out_shardings=sharding)


@share_programs
def compile_begin_from(method: SamplingMethod, sharding: NamedSharding) -> jax.stages.Wrapped:
    """(data of a bank, indices, x_T) -> the carry that begins at x_T, and keys."""

    def begin(bank: Array, index: Array, x_T: Array) -> tuple[PyTree, Array]:
        return method.init(x_T), bank_keys(bank, index)

    return jax.jit(begin, out_shardings=sharding)


@share_programs
def compile_begin_noised(
    method: SamplingMethod,
    schedule: diffusion.Schedule,
    image_shape: tuple[int, int, int],
    sharding: NamedSharding,
) -> jax.stages.Wrapped:
    """(data of a bank, indices, x0, t) -> the carry that begins at images noised to t, and keys."""

    def begin(bank: Array, index: Array, x0: Array, t: Array) -> tuple[PyTree, Array]:
        keys = bank_keys(bank, index)
        noise = samplers.initial_noise(keys, image_shape)
        xt = diffusion.add_noise(schedule, x0, noise, jnp.full(len(index), t))
        return method.init(xt), keys

    return jax.jit(begin, out_shardings=sharding)


@share_programs
def compile_result(method: SamplingMethod, mesh: Mesh | None = None) -> jax.stages.Wrapped:
    """carry -> images; stacked over a mesh of cells."""
    if mesh is None:
        return jax.jit(method.result)
    return jax.jit(cell_axis.map_over_cells(method.result, mesh))


def steps_per_call() -> int:
    """Steps of a chain that one call of the compiled step takes."""
    # Chains of all lengths share a program of one step on a CPU, which is 7 % slower than ten.
    return 1 if jax.default_backend() == "cpu" else STEPS_PER_CALL


def walk(
    step: jax.stages.Wrapped,
    chain: Any,
    k: int,
    params: PyTree,
    carry: PyTree,
    keys: Array,
    labels: Array | None,
) -> Iterator[tuple[int, PyTree]]:
    """Go through a chain in calls of k steps.

    Yields
    ------
    tuple
        The number of finished steps and the carry: before each call, and at the end.
    """
    for i in range(0, len(chain.t), k):
        steps = type(chain)(*(column[i : i + k] for column in chain))
        next_carry = step(params, carry, steps, keys, labels)
        # A call returns before the devices are done. Waiting for the carry after the next call is
        # queued counts finished steps alone, and leaves no device idle.
        yield i, jax.block_until_ready(carry)
        carry = next_carry
    yield len(chain.t), jax.block_until_ready(carry)
