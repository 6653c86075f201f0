"""A small convolutional classifier of a dataset's classes and of images that are of none.

The reject class makes a quality gate that can fail: without it, noise is always "some class". It is trained on noise
of many scales, two images laid over each other, images cut and put together wrongly, and images lost in noise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdiff import rng as random
from jaxdiff.datasets.batches import batch_indices
from jaxdiff.datasets.images import to_float
from jaxdiff.denoiser import Params, as_function, get_params
from jaxdiff.layers import Conv, Linear

Grey = Float[Array, "batch height width 1"]


class Classifier(nnx.Module):
    """Three convolutions, the last two of stride 2, and a linear layer: [batch, h, w, c] in [-1, 1] -> logits."""

    def __init__(self, size: int, channels: int, labels: int, rngs: nnx.Rngs, width: int = 24):
        self.convs = nnx.List([Conv(channels, width, rngs), Conv(width, 2 * width, rngs, stride=2),
                               Conv(2 * width, 2 * width, rngs, stride=2)])  # fmt: skip
        rest = -(-size // 4)
        self.head = Linear(2 * width * rest * rest, labels, rngs)

    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch _label"]:
        for conv in self.convs:
            x = nnx.relu(conv(x))
        return self.head(x.reshape(x.shape[0], -1))


class Perceptron(nnx.Module):
    """Two hidden layers that see the whole image at once: an architecture that errs elsewhere than convolutions do."""

    def __init__(self, size: int, channels: int, labels: int, rngs: nnx.Rngs, width: int = 256):
        self.layers = nnx.List(
            [Linear(size * size * channels, width, rngs), Linear(width, width, rngs)]
        )
        self.head = Linear(width, labels, rngs)

    def __call__(
        self, x: Float[Array, "batch height width channel"]
    ) -> Float[Array, "batch _label"]:
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


ARCHITECTURES: dict[str, type[Classifier] | type[Perceptron]] = {
    "convolutional": Classifier,
    "perceptron": Perceptron,
}


def distort(
    images: Float[Array, "batch h w c"], key: Key[Array, ""]
) -> Float[Array, "batch h w c"]:
    """A random small affine map an image (12 degrees, 12 % in size, 7 % of the side in place), black outside."""
    batch, size = images.shape[0], images.shape[1]
    angle, scale_y, scale_x, shift_y, shift_x = jax.random.uniform(
        key, (5, batch), minval=-1.0, maxval=1.0
    )
    grid = (
        jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")) - (size - 1) / 2
    )

    def one(image: Array, angle: Array, scale: Array, shift: Array) -> Array:
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        places = (
            jnp.einsum("ij,jhw->ihw", turn * scale[:, None], grid)
            + shift[:, None, None]
            + (size - 1) / 2
        )
        return jax.vmap(
            lambda c: map_coordinates(c, [*places], 1, cval=-1.0), in_axes=-1, out_axes=-1
        )(image)

    return jax.vmap(one)(
        images,
        0.21 * angle,
        1 + 0.12 * jnp.stack([scale_y, scale_x], -1),
        0.07 * size * jnp.stack([shift_y, shift_x], -1),
    )


def rejects(
    images: Float[Array, "batch h w c"], key: Key[Array, ""]
) -> Float[Array, "batch h w c"]:
    """As many images that are of no class, each of one of six kinds, in [-1, 1]."""
    batch, size = images.shape[0], images.shape[1]
    kinds = jax.random.split(key, 7)
    other = jnp.roll(images, 1, axis=0)

    def column(k, low, high):
        return jax.random.uniform(kinds[k], (batch, 1, 1, 1), minval=low, maxval=high)

    noise = random.normal(kinds[0], images.shape)
    coarse = jax.image.resize(noise[:, : size // 4, : size // 4], images.shape, "linear")
    rough = jnp.clip(column(1, -1.0, 1.0) + column(2, 0.2, 2.0) * noise, -1, 1)
    smooth = jnp.clip(column(1, -1.0, 1.0) + column(2, 0.2, 2.0) * coarse, -1, 1)
    halves = jnp.where(
        jnp.arange(size)[None, :, None, None] < size // 2,
        images,
        jnp.roll(other, size // 2, axis=1),
    )
    overlaid = jnp.maximum(images, jnp.roll(other, size // 4, axis=2))
    shuffled = jnp.roll(images, (size // 2, size // 2), axis=(1, 2))
    lost = jnp.clip(0.3 * images + column(3, 0.6, 1.2) * noise, -1, 1)
    choices = jnp.stack([rough, smooth, halves, overlaid, shuffled, lost])
    return choices[jax.random.randint(kinds[4], (batch,), 0, len(choices)), jnp.arange(batch)]


def train(
    images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"], *, steps: int, batch: int = 64,
    learning_rate: float = 2e-3, seed: int = 0, num_classes: int = 10, architecture: str = "convolutional",
) -> Params:  # fmt: skip
    """Parameters of a classifier of num_classes + 1 labels, the last being the reject class."""
    size, channels = images.shape[1], images.shape[-1]
    module = ARCHITECTURES[architecture](size, channels, num_classes + 1, nnx.Rngs(seed))
    apply, params = as_function(module), get_params(module)
    optimizer = optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=1e-3)

    def loss_of(params: Params, x: Array, y: Array, key: Array) -> Array:
        key_distort, key_noise, key_level, key_reject = jax.random.split(key, 4)
        level = jax.random.uniform(key_level, (x.shape[0], 1, 1, 1), maxval=0.25)
        clean = distort(to_float(x), key_distort)
        seen = jnp.clip(clean + level * random.normal(key_noise, x.shape), -1, 1)
        none = rejects(clean, key_reject)[: x.shape[0] // 4]
        targets = jnp.concatenate([y, jnp.full(none.shape[:1], num_classes)])
        logits = apply(params, jnp.concatenate([seen, none]))
        smooth = optax.smooth_labels(jax.nn.one_hot(targets, num_classes + 1), 0.05)
        return optax.softmax_cross_entropy(logits, smooth).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: optax.OptState, x: Array, y: Array, key: Array) -> tuple:
        updates, state = optimizer.update(jax.grad(loss_of)(params, x, y, key), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(steps):
        chosen = batch_indices(seed, i, batch, len(images))
        key = jax.random.fold_in(jax.random.key(seed), i)
        params, state = step(params, state, images[chosen], labels[chosen], key)
    return params


def classify(
    params: Params, images: UInt8[np.ndarray, "n h w c"], chunk: int = 256
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n label"]]:
    """The most probable label of each image, and all probabilities."""
    labels = params["head.bias"].shape[0]
    architecture = Classifier if "convs.0.weight" in params else Perceptron
    shape = nnx.eval_shape(
        lambda: architecture(images.shape[1], images.shape[-1], labels, nnx.Rngs(0))
    )
    apply = as_function(shape)
    softmax = jax.jit(lambda x: jax.nn.softmax(apply(params, to_float(x))))
    rows = []
    for first in range(0, len(images), chunk):
        part = images[first : first + chunk]
        padded = np.pad(part, ((0, chunk - len(part)), (0, 0), (0, 0), (0, 0)))
        rows.append(np.asarray(softmax(padded))[: len(part)])
    probabilities = np.concatenate(rows)
    return probabilities.argmax(axis=-1), probabilities
