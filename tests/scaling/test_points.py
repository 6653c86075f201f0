import dataclasses

import numpy as np
import pytest

from jaxdiff.scaling.points import (
    LossPoint,
    check_points,
    count_distinct,
    group_nearly_equal,
    order_depths,
)

POINT = LossPoint(0.1, 1e9, 1e6, 1e5, depth=3, seed=1)


def test_compute_is_three_forward_passes_of_every_image():
    assert POINT.compute == 3e15


@pytest.mark.parametrize("name", ["loss", "flops", "images", "unique_images"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_must_be_finite_and_positive(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and above 0, got {value}"):
        check_points([POINT, dataclasses.replace(POINT, **{name: value})])


def test_no_points():
    with pytest.raises(ValueError, match="needs points, got none"):
        check_points([])


def test_depths_are_ordered_as_numbers_or_as_they_come():
    assert order_depths([10, 2, 10, 3]) == (2, 3, 10)
    assert order_depths(["wide", "deep", "wide"]) == ("wide", "deep")


def test_nearly_equal_values_share_a_group():
    groups = group_nearly_equal(np.array([2.0, 1.0, 1.009, 2.03, 1.005]))
    np.testing.assert_array_equal(groups, [1, 0, 0, 2, 0])
    assert count_distinct([2.0, 1.0, 1.009, 2.03, 1.005]) == 3
    assert count_distinct([]) == 0
