import numpy as np
import pytest

from jaxdiff.datasets import mnist as digits
from jaxdiff.datasets.images import to_size
from jaxdiff.measures.lpips import LPIPS


@pytest.fixture(scope="module")
def lpips():
    return LPIPS.load("alex")


@pytest.fixture(scope="module")
def images():
    return to_size(digits.embedded()[0][::120], 32, 1)


@pytest.fixture(scope="module")
def distances(lpips, images):
    """All distances of the set, one pair at a time."""
    i, j = np.triu_indices(len(images), 1)
    matrix = np.zeros((len(images), len(images)))
    matrix[i, j] = lpips.distance(images[i], images[j])
    return matrix + matrix.T


def test_distances(lpips, images, distances):
    assert distances.min() >= 0
    np.testing.assert_allclose(lpips.distance(images, images), 0, atol=1e-7)
    np.testing.assert_allclose(
        lpips.distance(images[1:4], images[:3]), lpips.distance(images[:3], images[1:4]), rtol=1e-6
    )
    as_float = images.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(
        lpips.distance(as_float[:5], as_float[5:10]), distances[range(5), range(5, 10)], rtol=1e-5
    )
    rgb = np.repeat(images, 3, -1)
    np.testing.assert_allclose(
        lpips.distance(rgb[:5], rgb[5:10]), distances[range(5), range(5, 10)], rtol=1e-6
    )


def test_the_mean_over_all_pairs_is_exact(lpips, images, distances):
    n = len(images)
    whole = lpips.mean_pairwise(images, batch=16)
    assert float(whole) == pytest.approx(distances.sum() / (n * (n - 1)), rel=1e-6)
    assert whole.n == n
    two = lpips.mean_pairwise(images[:2])
    assert float(two) == pytest.approx(distances[0, 1], rel=1e-5)


def test_within_between_and_at_a_mix(lpips, images, distances):
    labels = np.arange(len(images)) % 3
    sums = lpips.pairwise(images, labels, batch=16)
    own, other = distances[labels == 0][:, labels == 0], distances[labels == 0][:, labels == 1]
    third = distances[labels == 1][:, labels == 1]
    within = [m.sum() / (len(m) * (len(m) - 1)) for m in (own, third)]
    assert float(sums.within(0)) == pytest.approx(within[0], rel=1e-6)
    assert float(sums.between(0, 1)) == pytest.approx(other.mean(), rel=1e-6)
    mix = 0.64 * within[0] + 0.04 * within[1] + 0.32 * other.mean()
    assert float(sums.at_mix({0: 0.8, 1: 0.2})) == pytest.approx(mix, rel=1e-6)
    assert sums.at_mix({0: 0.5, 7: 0.5}) is None
    one_of_a_kind = lpips.pairwise(images[:4], np.array([0, 0, 0, 1]))
    assert one_of_a_kind.within(1) is None


def test_the_standard_error_is_the_jackknife(lpips, images, distances):
    """With as many groups as images, against leaving each image out by hand."""
    n = len(images)
    without = np.array(
        [np.delete(np.delete(distances, i, 0), i, 1).sum() / ((n - 1) * (n - 2)) for i in range(n)]
    )
    by_hand = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    assert lpips.mean_pairwise(images).standard_error == pytest.approx(by_hand, rel=1e-4)


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
