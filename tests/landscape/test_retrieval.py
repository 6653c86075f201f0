import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import Schedule
from jaxdiff.estimates import wilson
from jaxdiff.landscape import energies, retrieval
from tests.landscape.clouds import LABELS, POINTS

SCHEDULE = Schedule.linear(100, 1e-3, 0.2)


def sample(rho, count):
    return retrieval.sample_smoothed(POINTS, SCHEDULE, rho, jax.random.key(0), count=count)


def test_the_exact_denoiser_returns_the_proportions_and_points():
    x0, weights = sample(1.0, 500)
    soft = retrieval.soft_labels(weights, LABELS, 2)
    low, high = wilson(int(soft.argmax(axis=1).sum()), 500)
    assert low < 0.2 < high
    squares = jax.vmap(energies.squared_distances, (0, None))(jnp.asarray(x0), POINTS)
    nearest = np.sqrt(squares.min(axis=1))
    assert np.median(nearest) < 0.05, "the exact denoiser brings the memory back"
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_an_infinite_temperature_gives_the_majority():
    """The labels are the majority's alone, and the soft share is the proportion."""
    _, weights = sample(1e9, 50)
    soft = retrieval.soft_labels(weights, LABELS, 2)
    assert np.all(soft.argmax(axis=1) == 0)
    np.testing.assert_allclose(soft[:, 1], 0.2, atol=1e-3)


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
