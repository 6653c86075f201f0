import numpy as np
import pytest

from jaxdiff.datasets import mnist as digits
from jaxdiff.datasets.image_io import pad_or_resize
from jaxdiff.measures.lpips import LPIPS


@pytest.fixture(scope="module")
def lpips():
    return LPIPS.load("alex")


@pytest.fixture(scope="module")
def images():
    return pad_or_resize(digits.embedded()[0][::120], 32, 1)


@pytest.fixture(scope="module")
def distances(lpips, images):
    """All distances of the set, one pair at a time."""
    i, j = np.triu_indices(len(images), 1)
    matrix = np.zeros((len(images), len(images)))
    matrix[i, j] = lpips.distance(images[i], images[j])
    return matrix + matrix.T


def mean_of_pairs(distances):
    """The mean over the pairs of a set, without an image and itself."""
    n = len(distances)
    return distances.sum() / (n * (n - 1))


def test_a_distance_is_symmetric_and_0_for_equal_images(lpips, images, distances):
    assert distances.min() >= 0
    np.testing.assert_allclose(lpips.distance(images, images), 0, atol=1e-7)
    forward = lpips.distance(images[1:4], images[:3])
    backward = lpips.distance(images[:3], images[1:4])
    np.testing.assert_allclose(forward, backward, rtol=1e-6)


def test_uint8_float_gray_and_rgb_images_are_the_same(lpips, images, distances):
    expected = distances[range(5), range(5, 10)]
    as_float = images.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(lpips.distance(as_float[:5], as_float[5:10]), expected, rtol=1e-5)
    rgb = np.repeat(images, 3, -1)
    np.testing.assert_allclose(lpips.distance(rgb[:5], rgb[5:10]), expected, rtol=1e-6)


def test_the_mean_over_all_pairs_is_exact(lpips, images, distances):
    estimate = lpips.mean_pairwise(images, batch=16)
    assert float(estimate) == pytest.approx(mean_of_pairs(distances), rel=1e-6)
    assert estimate.n == len(images)
    two = lpips.mean_pairwise(images[:2])
    assert float(two) == pytest.approx(distances[0, 1], rel=1e-5)


def test_within_between_and_at_a_mix(lpips, images, distances):
    labels = np.arange(len(images)) % 3
    pairs = lpips.pairwise(images, labels, batch=16)
    within_0 = mean_of_pairs(distances[labels == 0][:, labels == 0])
    within_1 = mean_of_pairs(distances[labels == 1][:, labels == 1])
    between = distances[labels == 0][:, labels == 1].mean()
    assert float(pairs.within(0)) == pytest.approx(within_0, rel=1e-6)
    assert float(pairs.between(0, 1)) == pytest.approx(between, rel=1e-6)
    expected = 0.64 * within_0 + 0.04 * within_1 + 0.32 * between
    assert float(pairs.at_mix({0: 0.8, 1: 0.2})) == pytest.approx(expected, rel=1e-6)
    assert pairs.at_mix({0: 0.5, 7: 0.5}) is None
    assert pairs.at_mix({}) is None


def test_a_class_of_one_image_has_no_mean(lpips, images):
    assert lpips.pairwise(images[:4], np.array([0, 0, 0, 1])).within(1) is None


def test_the_standard_error_is_the_jackknife(lpips, images, distances):
    """With as many groups as images, against leaving each image out by hand."""
    n = len(images)
    left_out = [
        mean_of_pairs(np.delete(np.delete(distances, i, axis=0), i, axis=1)) for i in range(n)
    ]
    expected = np.sqrt((n - 1) / n * np.sum((left_out - np.mean(left_out)) ** 2))
    estimate = lpips.mean_pairwise(images)
    assert estimate.standard_error == pytest.approx(expected, rel=1e-4)
    assert estimate.high - estimate.value == pytest.approx(1.96 * estimate.standard_error)


def test_bad_images_get_a_sentence(lpips):
    with pytest.raises(
        ValueError, match=r"alex needs 32 px or more, not 16 \(vgg takes 16 px and more\)"
    ):
        lpips.mean_pairwise(np.zeros((3, 16, 16, 1), np.uint8))
    with pytest.raises(ValueError, match="1 image has no pairs"):
        lpips.mean_pairwise(np.zeros((1, 32, 32, 1), np.uint8))
    with pytest.raises(ValueError, match=r"\[N, H, W, 1 or 3\] is expected"):
        lpips.mean_pairwise(np.zeros((3, 32, 32, 2), np.uint8))
    with pytest.raises(ValueError, match="images of one shape"):
        lpips.distance(np.zeros((3, 32, 32, 1), np.uint8), np.zeros((3, 40, 40, 1), np.uint8))
