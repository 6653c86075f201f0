"""Floating-point operations of a network, by XLA's cost analysis."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.ops.dispatch import tracing_for
from jaxdiff.training_step import Apply


def image_flops(apply: Apply, params: Mapping[str, Any], shape: tuple[int, ...]) -> float:
    """Floating-point operations of the gradient for one image, by XLA's cost analysis.

    Parameters
    ----------
    apply
        The network.
    params
        Its parameters, or their shapes.
    shape
        Height, width and channels of the image.
    """
    return _count_flops(jax.value_and_grad, apply, params, shape)


def forward_flops(apply: Apply, params: Mapping[str, Any], shape: tuple[int, ...]) -> float:
    """Floating-point operations of the network for one image; the parameters of `image_flops`."""
    return _count_flops(lambda function: function, apply, params, shape)


def _count_flops(
    transform: Callable[..., Callable[..., Any]],
    apply: Apply,
    params: Mapping[str, Any],
    shape: tuple[int, ...],
) -> float:
    """Those of a transformation of the network's sum over its output."""
    shapes = {name: jax.ShapeDtypeStruct(p.shape, p.dtype) for name, p in params.items()}
    # The clients of GPUs and TPUs have no cost analysis of what is not compiled; a CPU's has.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        xt = jnp.zeros((1, *shape))
        t = jnp.zeros((1,), jnp.int32)
        keys = jax.random.split(jax.random.key(0), 1)
        counted = jax.jit(transform(lambda params: apply(params, xt, t, keys).sum()))
        # Of the definitions: the forms of platforms contain loops, which the analysis counts
        # once, and what they compute again is no part of the model.
        with tracing_for("tpu"):
            lowered = counted.lower(shapes)
        costs: Any = lowered.cost_analysis()
    return float(costs["flops"])
