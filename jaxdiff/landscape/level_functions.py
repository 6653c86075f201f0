"""A trained U-Net as functions of one image: its energy's gradient, its levels, its decoder.

The energy E = -tau log p_t, tau = 2 sigma^2, has no value in a trained model but a gradient,
2 sigma eps_hat. The functions take a point without batch axis, and (params, alpha_bar [T], t,
level), all traced: what is compiled for a configuration serves every checkpoint, schedule, noise
level and level, since compiling derivatives of U-Nets takes far longer than running them here.
So an activation z is flat and padded with zeros to the largest level's size.
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
from jaxdiff.ops import dispatch
from jaxdiff.unet import Hidden, UNet, UNetConfig

FORWARD = 32  # images that go through all levels together


class LevelFunctions:
    """The functions of a U-Net's levels; of a U-Net with classes, class 0.

    Parameters
    ----------
    config
        The network's configuration.
    prediction
        What the network's output is.
    shape
        An image's [h, w, c].

    Attributes
    ----------
    sizes
        [h, w, c] of every level, 0 (the pixels) to n + 1 (the mid-block's output).
    largest
        Dimension of the largest level, to which activations are padded.
    decoder
        E composed with the decoder of the level that is asked for.

    Raises
    ------
    ValueError
        Where the U-Net takes class embeddings, or returns other channels than it takes.
    """

    def __init__(self, config: UNetConfig, prediction: Prediction, shape: tuple[int, int, int]):
        if config.class_embed_type == "identity":
            raise ValueError(
                "the U-Net must take labels or nothing, but this one takes class embeddings, "
                "which no label gives; probe it from Python"
            )
        if config.out_channels != config.in_channels:
            raise ValueError(
                "the U-Net must return eps alone, but this one "
                f"returns {config.out_channels} channels of {config.in_channels}"
            )
        self.config = config
        self.prediction = prediction
        self.shape = shape
        self.unet = abstract_network(config)
        self.sizes = self._infer_sizes()
        self.largest = max(math.prod(size) for size in self.sizes)
        self.decoder = Decoder(
            self._decoder_start, self._decode, self.energy_grad, self._valid_mask
        )

    def _infer_sizes(self) -> tuple[tuple[int, ...], ...]:
        images = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        t = jax.ShapeDtypeStruct((), jnp.int32)
        activations = jax.eval_shape(self._encode_all, images, get_params(self.unet), t)
        return tuple(z.shape[1:] for z in activations)

    def energy_grad(self, x: Array, params: Params, alpha_bar: Array, t: Array, *_: Any) -> Array:
        """grad E = 2 sigma eps_hat."""
        # The level that may follow t has no meaning here: the readings of a level give its
        # functions and this one the same arguments.
        gradient = energies.model_gradient(self._eps_hat)
        return gradient(x, jnp.sqrt(1.0 - alpha_bar[t]), params, alpha_bar, t)

    def denoiser(self, x: Array, *parameters: Any) -> Array:
        """s x0_hat = x - sigma eps_hat, whose Jacobian is M = I - H / 2."""
        return x - 0.5 * self.energy_grad(x, *parameters)

    def encode(self, x: Array, params: Params, _: Array, t: Array, level: Array) -> Array:
        """x -> z of the level."""
        with _traced():
            return self._select(level, self._encode_all(x[None], params, t))

    def advance(self, z: Array, params: Params, _: Array, t: Array, level: Array) -> Array:
        """z of the level before -> z of the level, 1 to n + 1."""
        with _traced():
            # The image does not matter: only the embedding of t and of the class is used.
            unet, hidden = self._enter(jnp.zeros((1, *self.shape), z.dtype), params, t)
            outputs = []
            for i, size in enumerate(self.sizes[:-1]):
                activation = z[: math.prod(size)].reshape(1, *size)
                # Down blocks and the mid-block read no skips.
                state = dataclasses.replace(hidden, z=activation, level=i, skips=())
                outputs.append(unet.advance(state).z)
        return self._select(level - 1, outputs)

    @functools.cached_property
    def all_levels(self) -> Callable[..., tuple[Array, ...]]:
        """(FORWARD images, params, t) -> z of all levels, compiled."""
        mesh = parallel.data_mesh(FORWARD)
        specs = (parallel.DATA, parallel.REPLICATED, parallel.REPLICATED)
        return jax.jit(parallel.shard_map(self._encode_all, mesh, specs))

    def _enter(self, x: Array, params: Params, t: Array) -> tuple[UNet, Hidden]:
        """The network with these parameters, and images [n, h, w, c] at level 0."""
        unet = bind_params(self.unet, params)
        n = len(x)
        labels = jnp.zeros(n, jnp.int32) if self.config.has_classes else None
        return unet, unet.encode(x, jnp.full(n, t), 0, labels)

    def _encode_all(self, x: Array, params: Params, t: Array) -> tuple[Array, ...]:
        unet, hidden = self._enter(x, params, t)
        activations = [hidden.z]
        for _ in range(self.config.depth + 1):
            hidden = unet.advance(hidden)
            activations.append(hidden.z)
        return tuple(activations)

    def _select(self, index: Array, activations: Sequence[Array]) -> Array:
        """One of these activations by a traced index, padded."""
        # The level is traced, so that one compiled program serves all levels: all but one of the
        # activations are masked, and they are summed.
        masked = []
        for i, z in enumerate(activations):
            padded = jnp.pad(z.ravel(), (0, self.largest - z.size))
            masked.append(jnp.where(index == i, padded, 0.0))
        return jnp.stack(masked).sum(axis=0)

    def _eps_hat(self, x: Array, params: Params, alpha_bar: Array, t: Array, *rest: Any) -> Array:
        with _traced():
            unet, hidden = self._enter(x[None], params, t)
            output = unet.decode(hidden)
        schedule = Schedule(alpha_bar)
        _, eps_hat = to_x0_and_eps(schedule, self.prediction, output, x[None], t[None])
        return eps_hat[0]

    def _decoder_start(self, x: Array, eps: Array, *_: Any) -> tuple[Array, Any]:
        """What is added to the level's z, which is nothing; and x with the noise that made it."""
        return jnp.zeros(self.largest, x.dtype), (x, eps)

    def _valid_mask(self, params: Params, alpha_bar: Array, t: Array, level: Array) -> Array:
        """Which entries of a padded z the level has."""
        dimensions = jnp.array([math.prod(size) for size in self.sizes])
        return jnp.arange(self.largest) < dimensions[level]

    def _decode(
        self,
        delta: Array,
        context: tuple[Array, Array],
        params: Params,
        alpha_bar: Array,
        t: Array,
        level: Array,
    ) -> Array:
        """The image where delta is added to the level's z, behind what the skips hold of it."""
        x, eps = context
        with _traced():
            unet, hidden = self._enter(x[None], params, t)
            hidden = self._add_at_level(hidden, delta, level)
            # At level 0 the pixels themselves change, from which x0_hat is computed.
            pixels = hidden.z
            for _ in self.sizes[1:]:
                hidden = self._add_at_level(unet.advance(hidden), delta, level)
            output = unet.decode(hidden)
        schedule = Schedule(alpha_bar)
        x0_hat, _ = to_x0_and_eps(schedule, self.prediction, output, pixels, t[None])
        # Noised again with the noise that made x, since E is of x_t and not of x0_hat.
        return jnp.sqrt(alpha_bar[t]) * x0_hat[0] + jnp.sqrt(1.0 - alpha_bar[t]) * eps

    def _add_at_level(self, hidden: Hidden, delta: Array, level: Array) -> Hidden:
        size = self.sizes[hidden.level]
        added = jnp.where(level == hidden.level, delta[: math.prod(size)], 0.0)
        return dataclasses.replace(hidden, z=hidden.z + added.reshape(1, *size))


@functools.lru_cache(maxsize=32)
def level_functions(
    config: UNetConfig, prediction: Prediction, shape: tuple[int, int, int]
) -> LevelFunctions:
    """The same object for the same arguments, so that JAX reuses what it compiled."""
    return LevelFunctions(config, prediction, shape)


def _traced() -> Any:
    return dispatch.tracing_for(jax.default_backend())
