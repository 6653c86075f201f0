"""A small classifier of a dataset's classes, with a reject class for images of none.

The reject class makes a quality gate that can fail: without it, noise is always "some class". It is
trained on noise of many scales, two images laid over each other, images cut and put together
wrongly, and images lost in noise.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdiff import rng as random
from jaxdiff.batching import batched_map
from jaxdiff.datasets.batches import batch_indices
from jaxdiff.datasets.images import to_float
from jaxdiff.denoiser import NetworkFunction, Params, as_function, get_params
from jaxdiff.layers import Conv, Linear
from jaxdiff.programs import share_programs

Images = Float[Array, "batch height width channel"]
Logits = Float[Array, "batch _label"]

# Augmentation: a random affine map of each image, noise, and one rejected image to four others.
MAX_ANGLE = 0.21  # radians, 12 degrees
MAX_SCALING = 0.12
MAX_SHIFT = 0.07  # of the side
MAX_NOISE = 0.25  # standard deviation, in images of [-1, 1]
IMAGES_A_REJECT = 4
LABEL_SMOOTHING = 0.05
WEIGHT_DECAY = 1e-3


class Classifier(nnx.Module):
    """Three convolutions, the last two of stride 2, and a linear layer: images to logits."""

    def __init__(self, size: int, channels: int, labels: int, rngs: nnx.Rngs, width: int = 24):
        self.convs = nnx.List(
            [
                Conv(channels, width, rngs),
                Conv(width, 2 * width, rngs, stride=2),
                Conv(2 * width, 2 * width, rngs, stride=2),
            ]
        )
        # Each convolution of stride 2 halves the side, rounded up.
        last_size = -(-size // 4)
        self.head = Linear(2 * width * last_size * last_size, labels, rngs)

    def __call__(self, x: Images) -> Logits:
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.head(x.reshape(x.shape[0], -1))


class Perceptron(nnx.Module):
    """Two hidden layers that see all pixels at once: it errs elsewhere than convolutions do."""

    def __init__(self, size: int, channels: int, labels: int, rngs: nnx.Rngs, width: int = 256):
        self.layers = nnx.List(
            [Linear(size * size * channels, width, rngs), Linear(width, width, rngs)]
        )
        self.head = Linear(width, labels, rngs)

    def __call__(self, x: Images) -> Logits:
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


ARCHITECTURES: dict[str, type[Classifier] | type[Perceptron]] = {
    "convolutional": Classifier,
    "perceptron": Perceptron,
}


def distort(images: Images, key: Key[Array, ""]) -> Images:
    """A random small affine map of each image, with black outside.

    Up to 12 degrees, 12 % in size and 7 % of the side in position.
    """
    batch, size = images.shape[:2]
    center = (size - 1) / 2
    angle, scale_y, scale_x, shift_y, shift_x = jax.random.uniform(
        key, (5, batch), minval=-1.0, maxval=1.0
    )
    grid = jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")) - center

    def transform(image: Array, angle: Array, scale: Array, shift: Array) -> Array:
        cos = jnp.cos(angle)
        sin = jnp.sin(angle)
        # From a pixel of the result to the place in the image that it is read from.
        matrix = jnp.array([[cos, -sin], [sin, cos]]) * scale[:, None]
        coordinates = jnp.einsum("ij,jhw->ihw", matrix, grid) + shift[:, None, None] + center

        def interpolate(channel: Array) -> Array:
            return map_coordinates(channel, [*coordinates], 1, cval=-1.0)

        return jax.vmap(interpolate, in_axes=-1, out_axes=-1)(image)

    return jax.vmap(transform)(
        images,
        MAX_ANGLE * angle,
        1 + MAX_SCALING * jnp.stack([scale_y, scale_x], -1),
        MAX_SHIFT * size * jnp.stack([shift_y, shift_x], -1),
    )


def make_rejects(images: Images, key: Key[Array, ""]) -> Images:
    """As many images that are of no class, each of one of six kinds, in [-1, 1]."""
    batch, size = images.shape[:2]
    # Two are unused: of another number of keys each would be another key.
    key_noise, key_offset, key_scale, key_drown, key_kind, _, _ = jax.random.split(key, 7)
    neighbor = jnp.roll(images, 1, axis=0)

    def uniform(key: Key[Array, ""], low: float, high: float) -> Array:
        return jax.random.uniform(key, (batch, 1, 1, 1), minval=low, maxval=high)

    noise = random.normal(key_noise, images.shape)
    coarse = jax.image.resize(noise[:, : size // 4, : size // 4], images.shape, "linear")
    offset = uniform(key_offset, -1.0, 1.0)
    scale = uniform(key_scale, 0.2, 2.0)
    # These two differ in how fine their noise is.
    rough = jnp.clip(offset + scale * noise, -1, 1)
    smooth = jnp.clip(offset + scale * coarse, -1, 1)
    is_top = jnp.arange(size)[None, :, None, None] < size // 2
    # Both are upper halves: the neighbor's lower half could complete an image of its class.
    halves = jnp.where(is_top, images, jnp.roll(neighbor, size // 2, axis=1))
    # shifted, or an image laid over its like would still be of its class
    overlaid = jnp.maximum(images, jnp.roll(neighbor, size // 4, axis=2))
    shuffled = jnp.roll(images, (size // 2, size // 2), axis=(1, 2))
    drowned = jnp.clip(0.3 * images + uniform(key_drown, 0.6, 1.2) * noise, -1, 1)
    kinds = jnp.stack([rough, smooth, halves, overlaid, shuffled, drowned])
    # Each image in the one kind that is drawn for it.
    return kinds[jax.random.randint(key_kind, (batch,), 0, len(kinds)), jnp.arange(batch)]


def train(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int[np.ndarray, " n"],
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    num_classes: int = 10,
    architecture: str = "convolutional",
) -> Params:
    """Train a classifier.

    Parameters
    ----------
    images, labels
        The training set; labels in 0..num_classes - 1.
    steps
        Training steps; the learning rate falls to 0 by a cosine.
    batch
        Images of a step; a quarter as many of no class are added.
    learning_rate
        AdamW's learning rate at the start.
    seed
        Seed of the parameters, batches and augmentation.
    num_classes
        Classes of the dataset.
    architecture
        One of ARCHITECTURES.

    Returns
    -------
    dict
        Parameters of a network with num_classes + 1 labels, the last one the reject class.
    """
    size = images.shape[1]
    channels = images.shape[-1]
    module = ARCHITECTURES[architecture](size, channels, num_classes + 1, nnx.Rngs(seed))
    params = get_params(module)
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    step = _make_train_step(functools.partial(_loss, as_function(module), num_classes), optimizer)
    state = optimizer.init(params)
    for i in range(steps):
        indices = batch_indices(seed, i, batch, len(images))
        key = jax.random.fold_in(jax.random.key(seed), i)
        params, state = step(params, state, images[indices], labels[indices], key)
    return params


def _make_train_step(
    loss: Callable[..., Array], optimizer: optax.GradientTransformation
) -> Callable[..., tuple[Params, optax.OptState]]:
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: optax.OptState, x: Array, y: Array, key: Array) -> tuple:
        grads = jax.grad(loss)(params, x, y, key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def _loss(
    apply: Callable[..., Array], num_classes: int, params: Params, x: Array, y: Array, key: Array
) -> Float[Array, ""]:
    """Mean cross-entropy of a batch, augmented and joined by images of no class."""
    key_distort, key_noise, key_scale, key_reject = jax.random.split(key, 4)
    noise_scale = jax.random.uniform(key_scale, (x.shape[0], 1, 1, 1), maxval=MAX_NOISE)
    clean = distort(to_float(x), key_distort)
    # generated images carry some residual noise, which is no reason to reject them
    noisy = jnp.clip(clean + noise_scale * random.normal(key_noise, x.shape), -1, 1)
    rejects = make_rejects(clean, key_reject)[: x.shape[0] // IMAGES_A_REJECT]
    targets = jnp.concatenate([y, jnp.full(rejects.shape[:1], num_classes)])
    logits = apply(params, jnp.concatenate([noisy, rejects]))
    one_hot = jax.nn.one_hot(targets, num_classes + 1)
    smoothed = optax.smooth_labels(one_hot, LABEL_SMOOTHING)
    return optax.softmax_cross_entropy(logits, smoothed).mean()


@share_programs
def _compile_softmax(apply: NetworkFunction) -> Callable[[Params, Array], Array]:
    """(params, uint8 images) -> probabilities, compiled once for an architecture."""
    return jax.jit(lambda params, x: jax.nn.softmax(apply(params, to_float(x))))


def classify(
    params: Params, images: UInt8[np.ndarray, "n h w c"], batch: int = 256
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n label"]]:
    """Classify images with the parameters that `train` returns.

    Returns
    -------
    labels, probabilities
        The most probable label of each image, and the probabilities of all labels.
    """
    labels = params["head.bias"].shape[0]
    # the parameters' names tell the architecture, so that files need not
    architecture = Classifier if "convs.0.weight" in params else Perceptron
    module = nnx.eval_shape(
        lambda: architecture(images.shape[1], images.shape[-1], labels, nnx.Rngs(0))
    )
    softmax = functools.partial(_compile_softmax(as_function(module)), params)
    probabilities = batched_map(softmax, images, batch=batch)
    return probabilities.argmax(axis=-1), probabilities
