"""Features are computed once for the measures that share images."""

import jax
import numpy as np
import pytest

from jaxdiff.features import extractors
from jaxdiff.features.extractors import FeatureExtractor, load_extractor


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The number of images of each call of a network."""
    calls: list[int] = []
    extract = FeatureExtractor._extract

    def count(self, images):
        calls.append(len(images))
        return extract(self, images)

    monkeypatch.setattr(FeatureExtractor, "_extract", count)
    return calls


def images_of(seed: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def new_extractor() -> FeatureExtractor:
    return FeatureExtractor("mean", {}, lambda params, images: images.mean(axis=(1, 2)))


def test_the_same_images_are_extracted_once(calls):
    extractor = new_extractor()
    first = extractor(images_of(0))
    np.testing.assert_allclose(first[:, 0], images_of(0).mean(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(extractor(images_of(0)), first)
    assert calls == [5]
    assert not np.array_equal(extractor(images_of(1)), first)
    new_extractor()(images_of(0))
    assert calls == [5, 5, 5], "other images, and another extractor"
    with jax.default_matmul_precision("highest"):
        extractor(images_of(0))
    assert len(calls) == 4, "another precision"


def test_kept_features_cannot_be_changed():
    extractor = new_extractor()
    with pytest.raises(ValueError, match="read-only"):
        extractor(images_of(0))[0] = 0.0


def test_no_more_is_kept_than_a_bound(calls, monkeypatch):
    extractor = new_extractor()
    for seed in (*range(extractors.KEPT), 0, extractors.KEPT, 0, 1):
        extractor(images_of(seed))
    assert len(calls) == extractors.KEPT + 2, "of the sets in use the first is the newest"
    monkeypatch.setattr(extractors, "MAX_KEPT_BYTES", 0)
    for _ in range(2):
        extractor(images_of(100))
    assert len(calls) == extractors.KEPT + 4


def test_an_extractor_is_loaded_once():
    assert load_extractor("pixels") is load_extractor("pixels")
