"""Which images the seeds of a study are trained on, where they take disjoint parts in turn."""

import numpy as np
import pytest

from jaxdiff.cells.data import cell_training_set, open_cell_dataset
from jaxdiff.study import grid
from jaxdiff.study.config import default_config


def training_sets(parts, seeds, n):
    """By seed: its training images, as a set."""
    config = default_config()
    config.seeds = tuple(range(seeds))
    config.data.parts = parts
    config.data.n = (n,)
    config.measures.k = (1,)
    cells = grid.expand(config)
    assert [cell.majority for cell in cells] == [6, 9] * (seeds // 2)
    dataset = open_cell_dataset(cells[0])
    return [set(cell_training_set(cell, dataset).tolist()) for cell in cells]


def union(sets):
    return set().union(*sets)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_seeds_of_one_turn_share_no_image_whatever_their_role(parts):
    sets = training_sets(parts, 6, 50)[:parts]
    assert len(union(sets)) == 50 * parts


def test_the_roles_have_no_halves_of_their_own_where_the_parts_are_taken_again():
    """Two parts and alternating roles: the parity of a seed is that of its part.

    In one turn the roles share no image, as no two seeds do. Every turn cuts the data anew, so
    that the larger class of a role comes from nearly all of the data in six turns and not from
    half of them.
    """
    sets = training_sets(2, 12, 150)
    largest_share = len(union(sets[::2]) & union(sets[1::2])) / len(union(sets))
    assert not sets[0] & sets[1]
    assert largest_share > 0.4
    of_one_half = len(sets[0])
    assert len(union(sets[::2])) > 1.8 * of_one_half
    assert len(union(sets[1::2])) > 1.8 * of_one_half


def test_disjoint_parts_make_the_mean_over_both_roles_more_exact():
    """The mean of the two roles' means, of a quantity that every training image moves a little.

    It is right on average for every number of parts, even ones among them, and varies less with
    more parts: over 12 seeds 6 parts hold each image twice.
    """
    rng = np.random.default_rng(0)
    errors = {}
    for parts in (1, 2, 6):
        sets = [np.array(sorted(s)) for s in training_sets(parts, 12, 50)]
        pool = np.concatenate(sets).max() + 1
        # Each image's effect, in 2,000 worlds.
        effects = rng.normal(size=(pool, 2000))
        means = np.array([effects[s].mean(axis=0) for s in sets])
        estimate = 0.5 * (means[::2].mean(axis=0) + means[1::2].mean(axis=0))
        assert abs(estimate.mean()) < 4 * estimate.std() / np.sqrt(2000)
        errors[parts] = estimate.std()
    print(errors)
    assert errors[6] < errors[2] < errors[1]
