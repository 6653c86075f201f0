"""A trained U-Net as maps of one image, as landscape's measures take them: its energy's gradient, its levels, its decoder.

The energy E = -tau log p_t, tau = 2 sigma^2, has no value in a trained model but a gradient, 2 sigma eps_hat. Maps are
functions of (a point without batch axis, *parameters), parameters = (weights, alpha_bar [T], t, level), all traced: what is
compiled for a configuration serves every checkpoint, schedule, noise level and level, since compiling derivatives of U-Nets takes
far longer than running them here. So an activation z is flat and padded with zeros to the largest level's size.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import cpu, parallel
from jaxdiff.diffusion import Prediction, Schedule, to_x0_and_eps
from jaxdiff.landscape import energies
from jaxdiff.landscape.abstraction import Decoder
from jaxdiff.unet import Hidden, Params, UNet, UNetConfig, abstract, bind, parameters

Function = Callable[..., Array]
FORWARD = 32  # images through all levels at once


class Maps(NamedTuple):
    """field: grad E; denoiser: s x0_hat = x - sigma eps_hat, whose Jacobian is M = I - H / 2; levels: (FORWARD images, weights, t)
    -> the z of all levels, compiled; level: x -> z; step: z of the level before -> z; decoder: that of the level, whose image is
    noised again with the noise that made x, since E is of x_t and not of x0_hat. sizes: of every level, [h, w, c]."""

    field: Function
    denoiser: Function
    levels: Callable[..., tuple[Array, ...]]
    level: Function
    step: Function
    decoder: Decoder
    sizes: tuple[tuple[int, ...], ...]


@functools.lru_cache(maxsize=32)
def maps(config: UNetConfig, prediction: Prediction, shape: tuple[int, int, int]) -> Maps:
    """The same functions for the same U-Net and images, so that what is compiled for them is found again.

    Of a U-Net with classes, class 0. Raises ValueError where it takes class embeddings, or returns other channels than it takes.
    """
    if config.class_embed_type is not None:
        raise ValueError("this U-Net takes class embeddings that no label gives; probe it from Python")
    if config.out_channels != config.in_channels:
        raise ValueError(f"this U-Net returns {config.out_channels} channels of {config.in_channels}; eps is neither")
    unet = abstract(config)

    def enter(x: Array, params: Params, t: Array) -> tuple[UNet, Hidden]:
        """Images [n, h, w, c] at level 0."""
        bound, n = bind(unet, params), len(x)
        labels = jnp.zeros(n, jnp.int32) if config.has_classes else None
        return bound, bound.encode(x, jnp.full(n, t), 0, labels)

    def walk(bound: UNet, hidden: Hidden) -> Iterator[Hidden]:
        """Level after level, from 0."""
        yield hidden
        for _ in range(config.depth + 1):
            yield (hidden := bound.advance(hidden))

    def levels(x: Array, params: Params, t: Array) -> tuple[Array, ...]:
        return tuple(hidden.z for hidden in walk(*enter(x, params, t)))

    images, weights = jax.ShapeDtypeStruct((1, *shape), jnp.float32), parameters(unet)
    found = jax.eval_shape(levels, images, weights, jax.ShapeDtypeStruct((), jnp.int32))
    sizes = tuple(z.shape[1:] for z in found)
    largest = max(map(math.prod, sizes))

    def chosen(index: Array, zs: Sequence[Array]) -> Array:
        """That of these activations, padded."""
        padded = [jnp.where(index == b, jnp.pad(z.ravel(), (0, largest - z.size)), 0.0) for b, z in enumerate(zs)]
        return jnp.stack(padded).sum(axis=0)

    def eps_hat(x: Array, params: Params, alpha_bar: Array, t: Array, *_: Any) -> Array:
        with _traced():
            bound, hidden = enter(x[None], params, t)
            output = bound.decode(hidden)
        return to_x0_and_eps(Schedule(alpha_bar), prediction, output, x[None], t[None])[1][0]

    def field(x: Array, params: Params, alpha_bar: Array, t: Array, *_: Any) -> Array:
        return energies.of_model(eps_hat)(x, jnp.sqrt(1.0 - alpha_bar[t]), params, alpha_bar, t)

    def denoiser(x: Array, *given: Any) -> Array:
        return x - 0.5 * field(x, *given)

    def level(x: Array, params: Params, _: Array, t: Array, a: Array) -> Array:
        with _traced():
            return chosen(a, levels(x[None], params, t))

    def step(z: Array, params: Params, _: Array, t: Array, a: Array) -> Array:
        with _traced():
            bound, hidden = enter(jnp.zeros((1, *shape), z.dtype), params, t)
            after = []
            for b, size in enumerate(sizes[:-1]):
                here = z[: math.prod(size)].reshape(1, *size)
                after.append(bound.advance(dataclasses.replace(hidden, z=here, level=b, skips=())).z)
        return chosen(a - 1, after)

    def start(x: Array, eps: Array, *_: Any) -> tuple[Array, Any]:
        """Nothing is added to the level's z."""
        return jnp.zeros(largest, x.dtype), (x, eps)

    def real(params: Params, alpha_bar: Array, t: Array, a: Array) -> Array:
        return jnp.arange(largest) < jnp.array([math.prod(size) for size in sizes])[a]

    def more(hidden: Hidden, added: Array, a: Array) -> Hidden:
        size = sizes[hidden.level]
        here = jnp.where(a == hidden.level, added[: math.prod(size)], 0.0)
        return dataclasses.replace(hidden, z=hidden.z + here.reshape(1, *size))

    def decode(added: Array, held: Any, params: Params, alpha_bar: Array, t: Array, a: Array) -> Array:
        """The image where this is added to the level's z, behind what the skips hold of it."""
        x, eps = held
        with _traced():
            bound, hidden = enter(x[None], params, t)
            hidden = seen = more(hidden, added, a)
            for _ in sizes[1:]:
                hidden = more(bound.advance(hidden), added, a)
            output = bound.decode(hidden)
        x0_hat, _ = to_x0_and_eps(Schedule(alpha_bar), prediction, output, seen.z, t[None])
        return jnp.sqrt(alpha_bar[t]) * x0_hat[0] + jnp.sqrt(1.0 - alpha_bar[t]) * eps

    mesh, whole = parallel.data_mesh(FORWARD), parallel.REPLICATED
    specs = (parallel.DATA, whole, whole)
    run = jax.jit(jax.shard_map(levels, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False))
    return Maps(field, denoiser, run, level, step, Decoder(start, decode, field, real), sizes)


def _traced() -> Any:
    return cpu.traced_for(jax.default_backend())
