"""Two clouds in 6 dimensions; the smaller is the second class, 80-20."""

import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
LABELS = (np.arange(60) >= 48).astype(np.int64)
CENTERS = np.where(LABELS, 1.0, -1.0)[:, None]
POINTS = jnp.asarray(RNG.normal(size=(60, 6)) * 0.5 + CENTERS, jnp.float32)
