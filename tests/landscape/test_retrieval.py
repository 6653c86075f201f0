import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import samplers
from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import wilson
from jaxdiff.landscape import energies, retrieval
from tests.landscape.clouds import LABELS, POINTS

SCHEDULE = Schedule.linear(100, 1e-3, 0.2)


def sample(rho, count, **options):
    key = jax.random.key(0)
    return retrieval.sample_smoothed(POINTS, LABELS, SCHEDULE, rho, key, count=count, **options)


def test_the_exact_denoiser_returns_the_proportions_and_points():
    x0, soft = sample(1.0, 500)
    low, high = wilson(int(soft.argmax(axis=1).sum()), 500)
    assert low < 0.2 < high
    squares = jax.vmap(energies.squared_distances, (0, None))(jnp.asarray(x0), POINTS)
    nearest = np.sqrt(squares.min(axis=1))
    assert np.median(nearest) < 0.05, "the exact denoiser brings the memory back"
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-5)


def test_an_infinite_temperature_gives_the_majority():
    """The labels are the majority's alone, and the soft share is the proportion."""
    _, soft = sample(1e9, 50)
    assert np.all(soft.argmax(axis=1) == 0)
    np.testing.assert_allclose(soft[:, 1], 0.2, atol=1e-3)


def test_classes_weigh_as_the_sums_of_a_dense_matrix_of_weights():
    """Of more samples than one block of rows, and no multiple of it."""
    count = 2 * retrieval.QUERIES_PER_BATCH + 3
    x0, soft = sample(2.0, count, sampling_steps=10)
    alpha_bar = jnp.asarray(SCHEDULE.alpha_bar)

    def dense_weights(x, t):
        tau = 2.0 * 2.0 * (1.0 - alpha_bar[t]) / alpha_bar[t]
        queries = x / jnp.sqrt(alpha_bar[t])
        return jax.vmap(energies.weights, (0, None, None))(queries, POINTS, tau)

    ddim = samplers.DDIM(prediction="x0", clip=False)
    chain = ddim.chain(SCHEDULE, 10)
    keys = jax.random.split(jax.random.key(0), count)
    x = jax.random.normal(jax.random.key(0), (count, POINTS.shape[1]))

    def denoise(xt, t):
        return jnp.matmul(dense_weights(xt, t[0]), POINTS, precision="highest")

    for i in range(len(chain.t)):
        weights = np.asarray(dense_weights(x, chain.t[i]))
        step = jax.tree.map(lambda values, i=i: values[i], chain)
        x = ddim.step(denoise, SCHEDULE, x, step, keys)
    np.testing.assert_allclose(x0, x, atol=1e-4)
    np.testing.assert_allclose(soft, retrieval.soft_labels(weights, LABELS, 2), atol=1e-5)


def test_no_array_grows_with_samples_and_points():
    count, n = 1000, len(POINTS)
    arrays = (POINTS, jnp.ones((n, 2)), jnp.ones(100), jnp.ones((count, POINTS.shape[1])))
    program = jax.make_jaxpr(retrieval._sample, static_argnums=(0, 1))(SCHEDULE, 50, *arrays)
    assert f"{retrieval.QUERIES_PER_BATCH},{n}]" in str(program)
    assert f"{count},{n}]" not in str(program)
    largest = re.findall(r"f32\[([\d,]+)\]", str(program))
    assert max(np.prod([int(d) for d in shape.split(",")]) for shape in largest) < count * n


def test_rho_may_depend_on_the_noise_level():
    constant, _ = sample(2.0, 20)
    by_level, _ = sample(np.full(100, 2.0), 20)
    np.testing.assert_allclose(constant, by_level, atol=1e-5)


def test_hard_votes_are_those_of_brute_force():
    queries = POINTS[:10] + 0.1
    votes = retrieval.hard_votes(queries, POINTS, LABELS, 2, (1, 5, 60))
    squares = np.square(np.asarray(queries)[:, None] - np.asarray(POINTS)).sum(-1)
    order = np.argsort(squares, axis=1)
    for k in (1, 5):
        np.testing.assert_allclose(votes[k][:, 1], LABELS[order[:, :k]].mean(axis=1))
    np.testing.assert_allclose(votes[60], [[0.8, 0.2]] * 10)
