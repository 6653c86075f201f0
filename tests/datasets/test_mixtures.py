import numpy as np
import pytest
from PIL import Image

from jaxdiff.datasets.image_io import pad_or_resize
from jaxdiff.datasets.mixtures import (
    draw_subset,
    exact_counts,
    group_counts,
    match_counts,
    max_mixture_size,
    mixture,
)


def test_mixtures_nest_and_parts_are_disjoint():
    labels = np.repeat([6, 9], 100)
    small = mixture(labels, {6: 8, 9: 2})
    large = mixture(labels, {6: 40, 9: 10})
    assert set(small) < set(large)
    parts = [mixture(labels, {6: 20, 9: 20}, part=i, parts=5) for i in range(5)]
    assert len(np.unique(np.concatenate(parts))) == 200
    assert set(mixture(labels, {6: 40}, seed=1)) != set(mixture(labels, {6: 40}))
    with pytest.raises(ValueError, match="30 images of class 9 were asked for and 20 can be had"):
        mixture(labels, {6: 2, 9: 30}, parts=5)


def test_proportions():
    assert exact_counts(300, (0.8, 0.2)) == [240, 60]
    assert max_mixture_size([240, 240], (0.8, 0.2)) == 300
    assert max_mixture_size([240, 240], (0.9, 0.1)) == 260
    with pytest.raises(ValueError, match=r"sum to 1.1"):
        exact_counts(300, (0.8, 0.3))
    with pytest.raises(ValueError, match="cannot be split"):
        exact_counts(7, (0.8, 0.2))


def test_groups_have_whole_images():
    assert group_counts(400, (0.4438, 0.1394, 0.4082, 0.0086)) == [178, 56, 163, 3]
    assert sum(group_counts(7, (0.4, 0.3, 0.2, 0.1))) == 7
    with pytest.raises(
        ValueError, match=r"40 images split as .* leave a group without an image; choose a larger n"
    ):
        group_counts(40, (0.4438, 0.1394, 0.4082, 0.0086))


@pytest.mark.parametrize(
    ("train", "unseen", "matched"),
    [
        ((240, 60), (260, 260), (240, 60)),  # all training images
        ((4000, 1000), (1780, 1780), (1780, 445)),  # as many as there are, at the training mix
        ((240, 60), (260, 10), (240, 10)),  # a scarce class takes no other one with it
        ((4000, 3), (100, 50), (100, 1)),  # a rare class is never dropped,
        ((240, 60), (260, 0), (240, 0)),  # unless there is none of it
        ((60, 240), (260, 260), (60, 240)),
        ((240, 60), (0, 0), (0, 0)),
        ((240, 60), (0, 9), (0, 0)),  # images of the rarer class alone have no such mix
    ],
)
def test_matched_sets_keep_the_mix_and_every_class(train, unseen, matched):
    counts = match_counts(np.repeat([6, 9], train), np.repeat([3, 6, 9], (500, *unseen)))
    assert counts == dict(zip((6, 9), matched, strict=True))


def test_a_subset_has_the_mix_of_its_set():
    labels = np.random.default_rng(0).permutation(np.repeat([6, 9, 4], (240, 55, 5)))
    rows = draw_subset(labels, 60)
    assert len(np.unique(rows)) == 60
    assert [int((labels[rows] == label).sum()) for label in (6, 9, 4)] == [48, 11, 1]
    assert set(rows) != set(draw_subset(labels, 60, seed=1))
    assert rows.max() > 200, "not the first ones"
    np.testing.assert_array_equal(draw_subset(labels, 999), np.arange(300))


def test_sizes():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.uint8)
    padded = pad_or_resize(images, 32, 1)
    np.testing.assert_array_equal(padded[:, 2:30, 2:30], images)
    assert not padded[:, :2].any()
    small = pad_or_resize(images, 16, 1)
    np.testing.assert_array_equal(
        small[1, :, :, 0], np.asarray(Image.fromarray(images[1, :, :, 0]).resize((16, 16), 2))
    )
    assert pad_or_resize(images, 28, 3).shape == (2, 28, 28, 3)
