"""Lines through cells: what they were made with is found again, and too few points say nothing."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, logit

from jaxdiff.analysis import cell_lines
from jaxdiff.estimates import Estimate
from tests.report.small_results import make_cell, make_info

NUM_SAMPLES = 10**9  # so many that a share's logit is not moved by its bound


def make_law_cell(seed, trained, exponent, offset, noise=0.0):
    """A cell of logit(generated) = offset + exponent logit(trained) of class 6.

    Odd seeds have the 9 as the majority.
    """
    info = make_info("2", seed, trained)
    sign = -1
    if seed % 2:
        info = dataclasses.replace(info, majority=9, minority=6)
        sign = 1
    of_class = offset + exponent * sign * float(logit(trained)) + noise
    share = Estimate(float(expit(sign * of_class)), n=NUM_SAMPLES, name="share")
    return make_cell(info, share=[share])


def test_exponent_and_offset_are_found_from_both_roles():
    noise = np.random.default_rng(0).normal(0, 0.05, 16)
    cells = [
        make_law_cell(seed, trained, 1.4, -0.3, float(noise[2 * seed + i]))
        for seed in range(8)
        for i, trained in enumerate((0.2, 0.35))
    ]
    of_one_class = make_law_cell(0, 0.2, 1.4, -0.3)
    info = dataclasses.replace(of_one_class.info, proportions=(1.0, 0.0))
    cells.append(dataclasses.replace(of_one_class, info=info))
    (law,) = cell_lines.amplification_laws(cells)
    assert (law.model, law.n, law.class_label) == ("2", 300, 6)
    assert law.exponent.n == 16
    for estimate, expected in ((law.exponent, 1.4), (law.offset, -0.3)):
        assert estimate.low < expected < estimate.high
        assert estimate.high - estimate.low < 0.15


def test_swapped_names_change_the_sign_of_the_offset_alone():
    """The class that it is about is the one with the smaller label."""
    cells = [make_law_cell(seed, 0.2, 1.4, -0.3, 0.01 * (seed // 2)) for seed in range(4)]
    swapped = [
        dataclasses.replace(
            cell,
            info=dataclasses.replace(
                cell.info, majority=15 - cell.info.majority, minority=15 - cell.info.minority
            ),
        )
        for cell in cells
    ]
    ((first,), (second,)) = map(cell_lines.amplification_laws, (cells, swapped))
    assert float(first.exponent) == pytest.approx(float(second.exponent))
    assert float(first.offset) == pytest.approx(-float(second.offset))


def test_one_role_and_two_cells_have_no_law():
    assert not cell_lines.amplification_laws(
        [make_law_cell(seed, 0.2, 1.4, 0) for seed in (0, 2, 4)]
    )
    assert not cell_lines.amplification_laws([make_law_cell(seed, 0.2, 1.4, 0) for seed in (0, 1)])


def make_pair(seed, kid_change, lpips_change):
    cells = []
    for model, kid, lpips in (("2", 0.5, 0.2), ("6", 0.5 + kid_change, 0.2 + lpips_change)):
        labels = {"space": "vgg", "against": "unseen"}
        cells.append(
            make_cell(
                make_info(model, seed),
                fidelity=[
                    Estimate(kid, n=9, name="kid", labels=labels),
                    Estimate(9.0, n=9, name="kid", labels={"space": "vgg", "against": "train"}),
                ],
                lpips=[Estimate(lpips, n=9, name="at_training_mix")],
            )
        )
    return cells


def test_lpips_at_equal_kid_is_the_lines_value_at_no_change_of_kid():
    rng = np.random.default_rng(0)
    cells = []
    for seed in range(8):
        change = float(rng.normal(-0.1, 0.05))
        cells += make_pair(seed, change, 0.02 - 0.3 * change + float(rng.normal(0, 0.002)))
    (row,) = cell_lines.lpips_at_equal_kid(cells)
    assert (row.shallow, row.deep, row.space) == ("2", "6", "vgg")
    assert row.at_equal_kid.low < 0.02 < row.at_equal_kid.high
    assert row.slope.low < -0.3 < row.slope.high
    assert row.at_equal_kid.high - row.at_equal_kid.low < 0.02


def test_two_seeds_have_no_line():
    cells = make_pair(0, -0.1, 0.03) + make_pair(1, -0.2, 0.05)
    assert not cell_lines.lpips_at_equal_kid(cells)


def test_a_line_is_that_of_least_squares():
    x, y = (0.0, 1.0, 2.0, 5.0), (1.0, 2.5, 2.0, 7.0)
    line = cell_lines.fit_line(x, y)
    slope, intercept = np.polyfit(x, y, 1)
    assert float(line.slope) == pytest.approx(slope)
    assert float(line.intercept) == pytest.approx(intercept)
    assert cell_lines.fit_line((1.0, 1.0, 1.0), (0.0, 1.0, 2.0)) is None
