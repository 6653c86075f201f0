import itertools

import numpy as np
import pytest

from jaxdiff.landscape import theorem2
from tests.landscape import oracles

PROPORTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)  # Figure 3's rows


def enumerate_vote(p, cells):
    """The majority's share after one vote, over all windows."""
    share = 0.0
    for window in itertools.product((0, 1), repeat=cells):
        votes = sum(window)
        probability = p**votes * (1 - p) ** (cells - votes)
        if 2 * votes > cells:
            share += probability
        elif 2 * votes == cells:
            share += 0.5 * probability
    return share


def test_the_vote_is_the_closed_form():
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(theorem2.majority_map(p), 3 * p**2 - 2 * p**3, atol=1e-12)


@pytest.mark.parametrize("cells", [1, 3, 4, 9])
def test_the_vote_of_any_number_of_cells(cells):
    expected = enumerate_vote(0.7, cells)
    assert theorem2.majority_map(0.7, cells) == pytest.approx(expected)
    np.testing.assert_allclose(oracles.plurality_map([0.7, 0.3], cells), [expected, 1 - expected])


def test_a_share_is_between_0_and_1():
    with pytest.raises(ValueError, match=r"a share must be between 0 and 1, got 1.2"):
        theorem2.majority_map([0.3, 1.2])


def test_its_odds_are_raised_to_less_than_two():
    """1.5 near 1/2, 1.61 at 0.9, never above 2; the absolute gain is largest near 0.79."""
    p = np.linspace(0.501, 0.9999, 2000)
    exponents = theorem2.exponent(p, theorem2.majority_map(p))
    assert exponents[0] == pytest.approx(1.5, abs=1e-3)
    exponent = theorem2.exponent(0.9, theorem2.majority_map(0.9))
    assert exponent == pytest.approx(1.61, abs=5e-3)
    assert np.all(np.diff(exponents) > 0)
    assert exponents.max() < 2
    assert p[np.argmax(theorem2.majority_map(p) - p)] == pytest.approx(0.79, abs=5e-3)


def test_the_papers_exponents():
    """Table 2's shares of "female", trained at 58.32 %, by Eq. 15."""
    generated = {"2": 59.67, "6": 71.15}
    assert theorem2.exponent(0.5832, generated["6"] / 100) == pytest.approx(2.69, abs=0.01)
    assert theorem2.exponent(0.5832, generated["2"] / 100) == pytest.approx(1.17, abs=0.01)


def test_odds():
    assert theorem2.odds(0.6, 0.4, 2) == pytest.approx(2.25)
    with pytest.raises(ValueError, match=r"must be positive shares or counts, got p = 1, q = 0"):
        theorem2.odds(1.0, 0.0, 2)


@pytest.mark.parametrize("p", PROPORTIONS)
def test_simulated_grids_follow_the_iterates(p):
    """Every level of 2,000 grids of 64 x 64 independent cells, within 3 standard errors."""
    count = 2000
    rng = np.random.default_rng(0)
    levels = theorem2.coarsen_fully(theorem2.sample_grids([p, 1 - p], 64, count, rng), 2, rng)
    assert len(levels) == 7
    means, errors = theorem2.shares_by_level(levels)
    expected = theorem2.iterates(p, len(levels) - 1)
    deviations = (means - expected) / np.maximum(errors, 1e-9)
    print(f"{p}: {means} at {deviations} standard errors")
    # The error is 0 where no grid has a cell of the other class.
    floor = 3 / count / np.array([level[0].size for level in levels])
    assert np.all(np.abs(means - expected) <= 3 * errors + floor)


@pytest.mark.parametrize(
    ("window", "shares"), [(3, (0.6, 0.4)), (2, (0.5, 0.3, 0.2)), (3, (0.4, 0.3, 0.2, 0.1))]
)
def test_other_windows_and_more_classes(window, shares):
    rng = np.random.default_rng(1)
    classes = len(shares)
    grids = theorem2.sample_grids(shares, window**3, 3000, rng)
    levels = theorem2.coarsen_fully(grids, classes, rng, window)
    expected = oracles.plurality_map(shares, window**2)
    for label in range(classes):
        means, errors = theorem2.shares_by_level(levels[:2], label)
        assert abs(means[1] - expected[label]) < 3 * errors[1]


def test_exact_counts_are_drawn_without_replacement():
    """On 4 x 4 cells the difference to independent cells is many standard errors."""
    rng = np.random.default_rng(2)
    grids = theorem2.sample_grids([0.75, 0.25], 4, 20_000, rng, exact=True)
    assert np.all((grids == 0).sum(axis=(1, 2)) == 12)
    levels = theorem2.coarsen_fully(grids, 2, rng)
    means, errors = theorem2.shares_by_level(levels[:2])
    assert abs(means[1] - oracles.exact_count_map(12, 16)) < 3 * errors[1]
    assert abs(means[1] - theorem2.majority_map(0.75)) > 6 * errors[1]


def test_windows_fill_the_grid():
    rng = np.random.default_rng(2)
    with pytest.raises(ValueError, match="must be a multiple of the window's 2 cells, got 5"):
        theorem2.coarsen(np.zeros((5, 5), int), 2, rng)
