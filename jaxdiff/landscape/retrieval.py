"""Retrieval from a memory of points: which classes come out as the energy is smoothed.

Nothing is trained. Points are rows [n, d] with labels [n]; the weights are Eq. 2's. Eq. 1 is the
hard vote of k neighbors. Between noise and data stands DDIM with the soft k-NN denoiser: at
rho = 1 the exact denoiser of the memory, whose classes come out in their proportions, and
smoother above.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdiff import samplers
from jaxdiff.diffusion import Schedule
from jaxdiff.landscape import energies
from jaxdiff.landscape.energies import Points

Queries = Float[Array, "q d"]
Labels = Int[np.ndarray, " n"]
SoftLabels = Float[np.ndarray, "q classes"]
QUERIES_PER_BATCH = 64  # memory is this many times n


def map_rows(function, rows):
    """Apply a traceable function to each row, some rows together."""
    return jax.lax.map(function, rows, batch_size=QUERIES_PER_BATCH)


def sample_smoothed(
    points: Points,
    labels: Labels,
    schedule: Schedule,
    rho: float | Float[np.ndarray, " T"],
    key: Key[Array, ""],
    *,
    classes: int = 2,
    count: int,
    sampling_steps: int = 50,
) -> tuple[Float[np.ndarray, "q d"], SoftLabels]:
    """Sample by DDIM with the soft k-NN denoiser of a memory.

    x0_hat = sum_i w_i x_i at temperature rho 2 sigma^2 / s^2 in x_t / s. The chain is not
    clipped.

    Parameters
    ----------
    points
        The memory [n, d].
    labels
        Class of each point, from 0 to classes - 1.
    schedule
        Noise levels.
    rho
        One number, or one for each t, as fitted to a trained model; 1 is the exact denoiser.
    key
        PRNG key for the noise that sampling starts from.
    classes
        Number of classes.
    count
        Number of samples.
    sampling_steps
        DDIM steps.

    Returns
    -------
    x0, soft
        Samples [count, d], and the last step's weight of each class [count, classes], as
        `soft_labels`. The weights of all points are never held for more than a few samples.
    """
    x_T = jax.random.normal(key, (count, points.shape[1]))
    rhos = jnp.broadcast_to(jnp.asarray(rho, points.dtype), schedule.steps)
    memberships = jax.nn.one_hot(labels, classes, dtype=points.dtype)
    x0, soft = _sample(schedule, sampling_steps, points, memberships, rhos, x_T)
    return np.asarray(x0), np.asarray(soft)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(schedule, sampling_steps, points, memberships, rhos, x_T):
    alpha_bar = jnp.asarray(schedule.alpha_bar)

    def compute_weights(x: Array, t: Array) -> Array:
        s_square = alpha_bar[t]
        tau = rhos[t] * 2.0 * (1.0 - s_square) / s_square
        return energies.weights(x / jnp.sqrt(s_square), points, tau)

    def denoise_one(query: tuple[Array, Array]) -> Array:
        return jnp.matmul(compute_weights(*query), points, precision="highest")

    def denoise(xt: Array, t: Array) -> Array:
        return map_rows(denoise_one, (xt, t))

    ddim = samplers.DDIM(prediction="x0", clip=False)
    chain = ddim.chain(schedule, sampling_steps)
    last_t = jnp.asarray(chain.t[-1])
    keys = jax.random.split(jax.random.key(0), len(x_T))  # DDIM draws nothing

    def step(carry, sampler_step):
        xt, _ = carry
        # The x_t before the step is kept: at the last one its weights are the soft labels.
        return (ddim.step(denoise, schedule, xt, sampler_step, keys), xt), None

    (x0, last_xt), _ = jax.lax.scan(step, (x_T, x_T), chain)

    def weigh_classes(x: Array) -> Array:
        return jnp.matmul(compute_weights(x, last_t), memberships, precision="highest")

    return x0, map_rows(weigh_classes, last_xt)


def soft_labels(weights: Float[np.ndarray, "q n"], labels: Labels, classes: int) -> SoftLabels:
    """Each query's weight by class (Eq. 2): its argmax is a label, its mean the soft share."""
    by_class = [weights[:, labels == label].sum(axis=1) for label in range(classes)]
    return np.stack(by_class, axis=1)


def hard_votes(
    queries: Queries, points: Points, labels: Labels, classes: int, ks: tuple[int, ...]
) -> dict[int, SoftLabels]:
    """Share of each class among the k nearest points of each query, by k (Eq. 1).

    Labels are 0 to classes - 1, and a k is at most the number of points.
    """
    nearest = np.asarray(_nearest_indices(queries, points, max(ks)))
    votes = {}
    for k in ks:
        neighbor_labels = labels[nearest[:, :k]]
        shares = [(neighbor_labels == label).mean(axis=1) for label in range(classes)]
        votes[k] = np.stack(shares, axis=1)
    return votes


@functools.partial(jax.jit, static_argnums=2)
def _nearest_indices(queries, points, k):
    def search(query):
        _, indices = jax.lax.top_k(-energies.squared_distances(query, points), k)
        return indices

    return map_rows(search, queries)
