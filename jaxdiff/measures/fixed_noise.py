"""Noised images whose noise is the same for all models and checkpoints of a study."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff import diffusion, rng
from jaxdiff.diffusion import Schedule

# A model's prediction: from x_t [n, h, w, c] and t [n] to eps [n, h, w, c].
PredictEps = Callable[[Array, Array], Array | np.ndarray]

# The "seed" of the noise at which models and checkpoints are compared: beside
# noise_bank.COMMON_SEED at the end of the range, far from the seeds of studies.
FIXED_NOISE_SEED = 2**31 - 2


def noise_images(
    schedule: Schedule, x0: Float[Array, "n h w c"], t: int, seed: int
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"]]:
    """x_t of each image and its eps, which depend on the seed, t and the image's index alone."""
    key = jax.random.fold_in(jax.random.key(seed), t)
    # A key for each index: an image's noise does not depend on how many there are.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(x0)))
    eps = jax.vmap(lambda key: rng.normal(key, x0.shape[1:]))(keys)
    return diffusion.add_noise(schedule, x0, eps, jnp.full(len(x0), t)), eps
