"""A network at one timestep: its level functions, the noised images and their activations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdiff.denoiser import Params, get_params, random_network
from jaxdiff.diffusion import Schedule, add_noise
from jaxdiff.landscape.level_functions import FORWARD, LevelFunctions, level_functions
from jaxdiff.models import Model
from jaxdiff.probe.data import ProbeData
from jaxdiff.probe.options import ProbeOptions, Weights

Images = Float[np.ndarray, "n h w c"]
Levels = tuple[np.ndarray, ...]  # for every level the activations [n, d] of n images

NOISE_STREAM = 0x70726F62  # "prob", folded into the seed: no other noise is the probe's
SHARED_INDEX = 2**30  # index of the noise that queries and memory share


class Activations(NamedTuple):
    """Activations of every level, for three sets of noised images.

    Parameters
    ----------
    independent
        Activations of images with noise of their own, for the total variance of a level: the
        memory's images, or the probed ones where there is no memory.
    queries, memory
        Activations of the queries and of the memory, all with the same noise; None where there is
        no memory.
    """

    independent: Levels
    queries: Levels | None = None
    memory: Levels | None = None


@dataclasses.dataclass(frozen=True)
class ProbeState:
    """A network at one timestep, as all readings take it.

    Parameters
    ----------
    functions
        The levels of the network as functions of one image.
    params, alpha_bar, t
        What every level function takes beside the image; t is an int32 scalar.
    xt, eps
        The probed images at this timestep, and their noise.
    activations
        Activations at every level.
    tau
        2 sigma^2, the temperature of the energy.
    s
        sqrt(alpha_bar), the factor of x0 in xt.
    """

    functions: LevelFunctions
    params: Params
    alpha_bar: Float[Array, " T"]
    t: Int[Array, ""]
    xt: Images
    eps: Images
    activations: Activations
    tau: float
    s: float

    @property
    def field_args(self) -> tuple[Params, Array, Array]:
        """What the functions of an image take beside it."""
        return self.params, self.alpha_bar, self.t

    def level_args(self, level: int) -> tuple[Params, Array, Array, Array]:
        """What the functions of a level take beside the image or the activation."""
        return *self.field_args, jnp.asarray(level, jnp.int32)


def build_state(
    model: Model, params: Params, t: int, data: ProbeData, options: ProbeOptions
) -> ProbeState:
    """Noise the images and compute the activations of every level.

    Parameters
    ----------
    model
        Its network, schedule and prediction type.
    params
        The weights that are probed, of `load_params`.
    t
        Timestep.
    data
        The images.
    options
        The seed of the noise, and the levels: where level 0 alone is probed, the network is not
        run for activations.
    """
    check_has_levels(model.unet)
    image_shape = data.image_shape
    functions = level_functions(model.unet.config, model.prediction, image_shape)
    eps = draw_noise(image_shape, np.arange(data.num_probe), options.seed)
    xt = _noise_images(model.schedule, data.probed, eps, t)

    # Queries and memory share one eps, so distances are s times those of the clean images.
    image_sets = [xt]
    if data.has_memory:
        memory = data.memory
        # Probed images have the indices from 0, the shared noise has SHARED_INDEX, and the memory's
        # own noise those above it: no two are the same.
        own_indices = SHARED_INDEX + 1 + np.arange(len(memory))
        independent_eps = draw_noise(image_shape, own_indices, options.seed)
        shared_eps = draw_noise(image_shape, np.array([SHARED_INDEX]), options.seed)
        image_sets = [
            _noise_images(model.schedule, memory, independent_eps, t),
            _noise_images(model.schedule, data.images, shared_eps, t),
            _noise_images(model.schedule, memory, shared_eps, t),
        ]
    activations: list[Levels]
    if options.levels == (0,):
        # The pixels are their own activation, and nothing has to be compiled.
        activations = [(images.reshape(len(images), -1),) for images in image_sets]
    else:
        activations = [compute_activations(functions, images, params, t) for images in image_sets]

    signal_variance = float(model.schedule.alpha_bar[t])
    return ProbeState(
        functions,
        params,
        jnp.asarray(model.schedule.alpha_bar),
        jnp.asarray(t, jnp.int32),
        xt,
        eps,
        # image_sets are in the order of its fields.
        Activations(*activations),
        tau=2.0 * (1.0 - signal_variance),
        s=signal_variance**0.5,
    )


def cached_states(
    model: Model, data: ProbeData, options: ProbeOptions
) -> Callable[[Weights, int], ProbeState]:
    """A function from weights and t to the state, which keeps the last state.

    The levels of one state follow each other in the grid, and two states would take twice the
    memory.
    """

    @functools.lru_cache(maxsize=1)
    def get_state(weights: Weights, t: int) -> ProbeState:
        params = load_params(model, weights, options.seed)
        return build_state(model, params, t, data, options)

    return get_state


def load_params(model: Model, weights: Weights, seed: int) -> Params:
    """The model's own weights ("trained"), or those of the same network at random."""
    network = model.unet
    if weights == "random":
        network = random_network(model.unet.config, seed)
    # The arrays of a checkpoint are bound to one device.
    return {path: jnp.asarray(np.asarray(p)) for path, p in get_params(network).items()}


def draw_noise(image_shape: tuple[int, ...], indices: Int[np.ndarray, " n"], seed: int) -> Images:
    """Gaussian noise [n, h, w, c], which depends on seed and index alone."""
    root = jax.random.fold_in(jax.random.key(seed), NOISE_STREAM)

    def draw(index: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(root, index), image_shape)

    return np.asarray(jax.vmap(draw)(jnp.asarray(indices)))


def compute_activations(functions: LevelFunctions, xt: Images, params: Params, t: int) -> Levels:
    """The activations [n, d] of every level, computed in padded chunks."""
    chunks = []
    for start in range(0, len(xt), FORWARD):
        indices = np.arange(start, min(start + FORWARD, len(xt)))
        # One compiled program for every number of images: the last chunk repeats its images.
        padded = xt[np.resize(indices, FORWARD)]
        levels = functions.all_levels(jnp.asarray(padded), params, jnp.asarray(t, jnp.int32))
        chunks.append([np.asarray(z).reshape(FORWARD, -1)[: len(indices)] for z in levels])
    return tuple(np.concatenate(level) for level in zip(*chunks, strict=True))


def check_has_levels(network: object) -> None:
    """Raise a ValueError unless a network can be entered at its levels."""
    methods = ("encode", "advance", "decode")
    missing = [name for name in methods if not hasattr(network, name)]
    if missing:
        raise ValueError(
            "the probe needs a network with encode, advance and decode "
            f"(jaxdiff.denoiser.LeveledDenoiser), got {type(network).__name__} without "
            f"{', '.join(missing)}; implement them to probe its levels"
        )


def _noise_images(
    schedule: Schedule, x0: Images, eps: Float[np.ndarray, "_m h w c"], t: int
) -> Images:
    """x_t of images [n, h, w, c]; eps [1, h, w, c] is shared by all of them."""
    eps_of_images = jnp.broadcast_to(jnp.asarray(eps), x0.shape)
    return np.asarray(add_noise(schedule, jnp.asarray(x0), eps_of_images, jnp.full(len(x0), t)))
