"""A trained U-Net as maps of one image, as landscape's measures take them: its energy's gradient, its levels, its decoder.

The energy E = -tau log p_t, tau = 2 sigma^2, has no value in a trained model but a gradient, 2 sigma eps_hat. Maps are
functions of (a point without batch axis, *parameters), parameters = (weights, alpha_bar [T], t, level), all traced: what is
compiled for a configuration serves every checkpoint, schedule, noise level and level, since compiling derivatives of U-Nets takes
far longer than running them here. So an activation z is flat and padded with zeros to the largest level's size.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdiff import parallel
from jaxdiff.denoiser import Params, abstract_network, bind_params, get_params
from jaxdiff.diffusion import Prediction, Schedule, to_x0_and_eps
from jaxdiff.landscape import energies
from jaxdiff.landscape.abstraction import Decoder
from jaxdiff.ops.dispatch import tracing_for
from jaxdiff.unet import Hidden, UNet, UNetConfig

FORWARD = 32  # images through all levels at once


class Maps:
    """sizes: [h, w, c] of every level; decoder: of the level that is asked for.

    Of a U-Net with classes, class 0. Raises ValueError where it takes class embeddings, or returns other channels than it takes.
    """

    def __init__(self, config: UNetConfig, prediction: Prediction, shape: tuple[int, int, int]):
        if config.class_embed_type == "identity":
            raise ValueError(
                "this U-Net takes class embeddings that no label gives; probe it from Python"
            )
        if config.out_channels != config.in_channels:
            raise ValueError(
                f"this U-Net returns {config.out_channels} channels of {config.in_channels}; eps is neither"
            )
        self.config, self.prediction, self.shape, self.unet = (
            config,
            prediction,
            shape,
            abstract_network(config),
        )
        images, weights = jax.ShapeDtypeStruct((1, *shape), jnp.float32), get_params(self.unet)
        found = jax.eval_shape(self._levels, images, weights, jax.ShapeDtypeStruct((), jnp.int32))
        self.sizes = tuple(z.shape[1:] for z in found)
        self.largest = max(map(math.prod, self.sizes))
        self.decoder = Decoder(self._start, self._decode, self.field, self._real)

    def field(self, x: Array, params: Params, alpha_bar: Array, t: Array, *_: Any) -> Array:
        """grad E = 2 sigma eps_hat."""
        return energies.of_model(self._eps_hat)(
            x, jnp.sqrt(1.0 - alpha_bar[t]), params, alpha_bar, t
        )

    def denoiser(self, x: Array, *given: Any) -> Array:
        """s x0_hat = x - sigma eps_hat, whose Jacobian is M = I - H / 2."""
        return x - 0.5 * self.field(x, *given)

    def level(self, x: Array, params: Params, _: Array, t: Array, a: Array) -> Array:
        """x -> z of the level."""
        with _traced():
            return self._chosen(a, self._levels(x[None], params, t))

    def step(self, z: Array, params: Params, _: Array, t: Array, a: Array) -> Array:
        """z of the level before -> z of the level (1..n+1)."""
        with _traced():
            bound, hidden = self._enter(jnp.zeros((1, *self.shape), z.dtype), params, t)
            after = []
            for b, size in enumerate(self.sizes[:-1]):
                here = z[: math.prod(size)].reshape(1, *size)
                after.append(
                    bound.advance(dataclasses.replace(hidden, z=here, level=b, skips=())).z
                )
        return self._chosen(a - 1, after)

    @functools.cached_property
    def levels(self) -> Callable[..., tuple[Array, ...]]:
        """(FORWARD images, weights, t) -> the z of all levels, compiled."""
        mesh, whole = parallel.data_mesh(FORWARD), parallel.REPLICATED
        specs = (parallel.DATA, whole, whole)
        run = jax.shard_map(
            self._levels, mesh=mesh, in_specs=specs, out_specs=parallel.DATA, check_vma=False
        )
        return jax.jit(run)

    def _enter(self, x: Array, params: Params, t: Array) -> tuple[UNet, Hidden]:
        """Images [n, h, w, c] at level 0."""
        bound, n = bind_params(self.unet, params), len(x)
        labels = jnp.zeros(n, jnp.int32) if self.config.has_classes else None
        return bound, bound.encode(x, jnp.full(n, t), 0, labels)

    def _levels(self, x: Array, params: Params, t: Array) -> tuple[Array, ...]:
        bound, hidden = self._enter(x, params, t)
        found = [hidden.z]
        for _ in range(self.config.depth + 1):
            hidden = bound.advance(hidden)
            found.append(hidden.z)
        return tuple(found)

    def _chosen(self, index: Array, zs: Sequence[Array]) -> Array:
        """That of these activations, padded."""
        padded = [jnp.pad(z.ravel(), (0, self.largest - z.size)) for z in zs]
        return jnp.stack([jnp.where(index == b, z, 0.0) for b, z in enumerate(padded)]).sum(axis=0)

    def _eps_hat(self, x: Array, params: Params, alpha_bar: Array, t: Array, *_: Any) -> Array:
        with _traced():
            bound, hidden = self._enter(x[None], params, t)
            output = bound.decode(hidden)
        return to_x0_and_eps(Schedule(alpha_bar), self.prediction, output, x[None], t[None])[1][0]

    def _start(self, x: Array, eps: Array, *_: Any) -> tuple[Array, Any]:
        """Nothing is added to the level's z."""
        return jnp.zeros(self.largest, x.dtype), (x, eps)

    def _real(self, params: Params, alpha_bar: Array, t: Array, a: Array) -> Array:
        """Which entries of a padded z the level has."""
        return jnp.arange(self.largest) < jnp.array([math.prod(size) for size in self.sizes])[a]

    def _decode(
        self, added: Array, held: Any, params: Params, alpha_bar: Array, t: Array, a: Array
    ) -> Array:
        """The image where this is added to the level's z, behind what the skips hold of it: noised again with the noise that
        made x, since E is of x_t and not of x0_hat."""
        x, eps = held
        with _traced():
            bound, hidden = self._enter(x[None], params, t)
            hidden = seen = self._more(hidden, added, a)
            for _ in self.sizes[1:]:
                hidden = self._more(bound.advance(hidden), added, a)
            output = bound.decode(hidden)
        x0_hat, _ = to_x0_and_eps(Schedule(alpha_bar), self.prediction, output, seen.z, t[None])
        return jnp.sqrt(alpha_bar[t]) * x0_hat[0] + jnp.sqrt(1.0 - alpha_bar[t]) * eps

    def _more(self, hidden: Hidden, added: Array, a: Array) -> Hidden:
        size = self.sizes[hidden.level]
        here = jnp.where(a == hidden.level, added[: math.prod(size)], 0.0)
        return dataclasses.replace(hidden, z=hidden.z + here.reshape(1, *size))


@functools.lru_cache(maxsize=32)
def maps(config: UNetConfig, prediction: Prediction, shape: tuple[int, int, int]) -> Maps:
    """The same maps for the same U-Net and images, so that what is compiled for them is found again."""
    return Maps(config, prediction, shape)


def _traced() -> Any:
    return tracing_for(jax.default_backend())
