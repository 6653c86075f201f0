import itertools

import numpy as np
import pytest

from jaxdiff.landscape import theorem2

PROPORTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)  # Figure 3's rows


def test_the_vote_is_the_closed_form():
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(theorem2.majority_map(p), 3 * p**2 - 2 * p**3, atol=1e-12)
    for cells in (1, 3, 4, 9):
        brute = sum(
            (2 * sum(cell) > cells) * 0.7 ** sum(cell) * 0.3 ** (cells - sum(cell))
            + 0.5 * (2 * sum(cell) == cells) * 0.7 ** sum(cell) * 0.3 ** (cells - sum(cell))
            for cell in itertools.product((0, 1), repeat=cells)
        )
        assert theorem2.majority_map(0.7, cells) == pytest.approx(brute)
        np.testing.assert_allclose(theorem2.plurality_map([0.7, 0.3], cells), [brute, 1 - brute])
    with pytest.raises(ValueError, match=r"a share of 1.2 is none"):
        theorem2.majority_map([0.3, 1.2])


def test_its_odds_are_raised_to_less_than_two():
    """1.5 near 1/2, 1.61 at 0.9, never above 2; the absolute gain is largest near 0.79."""
    p = np.linspace(0.501, 0.9999, 2000)
    s = theorem2.exponent(p, theorem2.majority_map(p))
    assert s[0] == pytest.approx(1.5, abs=1e-3)
    assert theorem2.exponent(0.9, theorem2.majority_map(0.9)) == pytest.approx(1.61, abs=5e-3)
    assert np.all(np.diff(s) > 0)
    assert s.max() < 2
    assert p[np.argmax(theorem2.majority_map(p) - p)] == pytest.approx(0.79, abs=5e-3)


def test_the_papers_exponents():
    """Table 2's shares of "female", trained at 58.32 %, by Eq. 15."""
    generated = {"2": 59.67, "6": 71.15}
    assert theorem2.exponent(0.5832, generated["6"] / 100) == pytest.approx(2.69, abs=0.01)
    assert theorem2.exponent(0.5832, generated["2"] / 100) == pytest.approx(1.17, abs=0.01)
    assert theorem2.odds(0.6, 0.4, 2) == pytest.approx(2.25)
    with pytest.raises(ValueError, match="q is 0"):
        theorem2.odds(1.0, 0.0, 2)


@pytest.mark.parametrize("p", PROPORTIONS)
def test_simulated_grids_follow_the_iterates(p):
    """Every level of 2,000 grids of 64 x 64 independent cells, within 3 standard errors."""
    rng = np.random.default_rng(0)
    levels = theorem2.hierarchy(theorem2.grids([p, 1 - p], 64, 2000, rng), 2, rng)
    found, error = theorem2.shares_by_level(levels)
    wanted = theorem2.iterates(p, len(levels) - 1)
    print(
        f"{p}: "
        + ", ".join(
            f"{f:.4f} ({(f - w) / max(e, 1e-9):+.1f} s.e.)"
            for f, e, w in zip(found, error, wanted, strict=True)
        )
    )
    assert len(levels) == 7
    floor = (
        3 / 2000 / np.array([level[0].size for level in levels])
    )  # where no grid has a cell of the other class
    assert np.all(np.abs(found - wanted) <= 3 * error + floor)


@pytest.mark.parametrize(
    ("window", "shares"), [(3, (0.6, 0.4)), (2, (0.5, 0.3, 0.2)), (3, (0.4, 0.3, 0.2, 0.1))]
)
def test_other_windows_and_more_classes(window, shares):
    rng = np.random.default_rng(1)
    levels = theorem2.hierarchy(
        theorem2.grids(shares, window**3, 3000, rng), len(shares), rng, window
    )
    wanted = theorem2.plurality_map(shares, window**2)
    for c in range(len(shares)):
        found, error = theorem2.shares_by_level(levels[:2], c)
        assert abs(found[1] - wanted[c]) < 3 * error[1]


def test_exact_counts_are_drawn_without_replacement():
    """On 4 x 4 cells the difference to independent cells is many standard errors."""
    rng = np.random.default_rng(2)
    grid = theorem2.grids([0.75, 0.25], 4, 20_000, rng, exact=True)
    assert np.all((grid == 0).sum(axis=(1, 2)) == 12)
    found, error = theorem2.shares_by_level(theorem2.hierarchy(grid, 2, rng)[:2])
    assert abs(found[1] - theorem2.exact_count_map(12, 16)) < 3 * error[1]
    assert abs(found[1] - theorem2.majority_map(0.75)) > 6 * error[1]
    with pytest.raises(ValueError, match="a grid of 5 x 5 cells has no whole windows of 2 x 2"):
        theorem2.coarsen(np.zeros((5, 5), int), 2, rng)
