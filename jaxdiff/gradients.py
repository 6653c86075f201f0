"""Gradients of a batch: accumulated over micro-batches, and averaged over devices.

Each function takes a function (params, batch) -> (loss, gradient) and returns another one, so
that they compose: ``data_parallel_grads(accumulate_grads(jax.value_and_grad(loss_fn), ...), ...)``.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, PyTree

from jaxdiff import parallel
from jaxdiff.denoiser import Params
from jaxdiff.parallel import DATA, REPLICATED
from jaxdiff.params_layout import ParamsLayout

GradFn = Callable[[Params, PyTree], tuple[Array, Params]]


def accumulate_grads(grad_fn: GradFn, parts: int, *, unroll: bool) -> GradFn:
    """The mean gradient over micro-batches that are computed one after the other.

    Parameters
    ----------
    grad_fn
        Gradient of one micro-batch.
    parts
        Number of micro-batches, each of every parts-th sample of the batch.
    unroll
        Compile without a loop, as a CPU needs it: a weight gradient inside a loop is a hundred
        times slower there.
    """
    if parts == 1:
        return grad_fn

    def accumulated(params: Params, batch: PyTree) -> tuple[Array, Params]:
        def split(x: Array) -> Array:
            return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

        def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, grad_fn(params, part)), None

        micro_batches = jax.tree.map(split, batch)
        # The scan starts from zeros of the gradient's shapes, which tracing alone gives.
        first = jax.tree.map(lambda x: x[0], micro_batches)
        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(grad_fn, params, first))
        total, _ = jax.lax.scan(add, zeros, micro_batches, unroll=unroll)
        return jax.tree.map(lambda x: x / parts, total)

    return accumulated


def flat_grads(grad_fn: GradFn, layout: ParamsLayout) -> GradFn:
    """The gradient with respect to the parameters as one vector.

    Parameters
    ----------
    grad_fn
        Gradient with respect to the parameters by name.
    layout
        Where each parameter lies in the vector.
    """

    def flat(params: Any, batch: PyTree) -> tuple[Array, Any]:
        loss, grads = grad_fn(layout.unravel(params), batch)
        return loss, layout.ravel(grads)

    return flat


def data_parallel_grads(grad_fn: GradFn, mesh: Mesh) -> GradFn:
    """The mean gradient over the devices, each with a full copy of the parameters.

    The loss and all gradients are raveled into one vector, so that a step is one all-reduce.

    Parameters
    ----------
    grad_fn
        Gradient of one device's share of the batch.
    mesh
        Mesh whose axis `data` splits the batch.
    """

    def averaged(params: Params, batch: PyTree) -> tuple[Array, Params]:
        # One long vector is one collective, where a pmean of the tree is one for each array.
        flat, unravel = ravel_pytree(grad_fn(params, batch))
        return unravel(jax.lax.pmean(flat, "data"))

    return parallel.shard_map(averaged, mesh, (REPLICATED, DATA), (REPLICATED, REPLICATED))


def fsdp_grads(grad_fn: GradFn, mesh: Mesh) -> GradFn:
    """The mean gradient over the devices, with parameters and gradients sharded over them.

    Each sharded parameter is one all-gather, and its gradient one reduce-scatter. (The
    partitioner alone would sum the full gradient on every device; so does libtpu, of square
    slices.)

    Parameters
    ----------
    grad_fn
        Gradient of one device's share of the batch, with full parameters.
    mesh
        Mesh whose axis `data` splits the batch and, as `parallel.fsdp_sharding` says, the
        parameters.
    """

    def averaged(params: Params, batch: PyTree) -> tuple[Array, Params]:
        specs = {name: parallel.fsdp_sharding(p.shape, mesh).spec for name, p in params.items()}
        # A parameter and its gradient have the same specs, so that the optimizer stays local.
        local = functools.partial(_local_fsdp_grads, grad_fn, mesh.size, _sharded_axes(specs))
        sharded = parallel.shard_map(local, mesh, (specs, DATA), (REPLICATED, specs))
        return sharded(params, batch)

    return averaged


def _sharded_axes(specs: Mapping[str, PartitionSpec]) -> dict[str, int]:
    """The axis that is split of each parameter; replicated ones are left out."""
    return {name: tuple(spec).index("data") for name, spec in specs.items() if "data" in spec}


def _local_fsdp_grads(
    grad_fn: GradFn, num_devices: int, axes: Mapping[str, int], params: Params, batch: PyTree
) -> tuple[Array, Params]:
    """One device's part of `fsdp_grads`: its shards of the parameters and of the gradient."""
    gathered = {
        name: jax.lax.all_gather(params[name], "data", axis=axis, tiled=True)
        for name, axis in axes.items()
    }
    # The gather is outside of what is differentiated: these are gradients of full parameters.
    loss, grads = grad_fn(params | gathered, batch)
    # The loss and what is replicated are few numbers: one all-reduce of one vector.
    replicated = {name: grad for name, grad in grads.items() if name not in axes}
    flat, unravel = ravel_pytree((loss, replicated))
    loss, replicated = unravel(jax.lax.pmean(flat, "data"))
    scattered = {}
    for name, axis in axes.items():
        total = jax.lax.psum_scatter(
            grads[name], axis_name="data", tiled=True, scatter_dimension=axis
        )
        # There is no scattered mean among JAX's collectives.
        scattered[name] = total / num_devices
    return loss, replicated | scattered
