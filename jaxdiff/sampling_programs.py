"""The functions of sampling, compiled over a mesh of devices that share the samples of a batch."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxdiff import diffusion, models, parallel, samplers
from jaxdiff.denoiser import Params, as_function
from jaxdiff.samplers import Inversion, SamplingMethod


def compile_step(
    network: nnx.Module, schedule: diffusion.Schedule, method: SamplingMethod, mesh: Mesh
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
        The batch is split over its devices.

    Returns
    -------
    function
        (params, carry, steps, keys, labels) -> carry, where `steps` are rows of the chain.
    """
    apply = as_function(network)

    def run_steps(
        params: Params, carry: PyTree, steps: Any, keys: Array, labels: Array | None
    ) -> PyTree:
        def predict(xt: Array, t: Array) -> Array:
            return apply(params, xt, t, labels)

        def run_step(carry: PyTree, step: Any) -> tuple[PyTree, None]:
            return method.step(predict, schedule, carry, step, keys), None

        # A scan of one step would compile the loop around it too.
        if len(steps.t) == 1:
            return run_step(carry, jax.tree.map(lambda column: column[0], steps))[0]
        return jax.lax.scan(run_step, carry, steps)[0]

    specs = (parallel.REPLICATED, parallel.DATA, parallel.REPLICATED, parallel.DATA, parallel.DATA)
    return _compile(run_steps, mesh, specs)


def compile_prediction(model: models.Model, mesh: Mesh) -> jax.stages.Wrapped:
    """(params, xt, t, labels) -> the predicted x0 and eps, compiled for a mesh."""
    apply = as_function(model.unet)

    def predict(params: Params, xt: Array, t: Array, labels: Array | None) -> tuple[Array, Array]:
        output = apply(params, xt, t, labels)
        return diffusion.to_x0_and_eps(model.schedule, model.prediction, output, xt, t)

    specs = (parallel.REPLICATED, parallel.DATA, parallel.DATA, parallel.DATA)
    return _compile(predict, mesh, specs)


def compile_inversion(
    model: models.Model, steps: int, iterations: int, mesh: Mesh
) -> jax.stages.Wrapped:
    """(params, x0, labels) -> `samplers.round_trip` of the images, compiled for a mesh."""
    apply = as_function(model.unet)

    def invert(params: Params, x0: Array, labels: Array | None) -> Inversion:
        def predict(xt: Array, t: Array) -> Array:
            return apply(params, xt, t, labels)

        return samplers.round_trip(
            predict,
            model.schedule,
            x0,
            prediction=model.prediction,
            steps=steps,
            iterations=iterations,
        )

    return _compile(invert, mesh, (parallel.REPLICATED, parallel.DATA, parallel.DATA))


def _compile(function: Callable[..., Any], mesh: Mesh, in_specs: tuple) -> jax.stages.Wrapped:
    """The function over a mesh; all that it returns is split by samples."""
    # Each device runs its own samples: nothing is communicated.
    sharded = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=parallel.DATA, check_vma=False
    )
    return jax.jit(sharded)
