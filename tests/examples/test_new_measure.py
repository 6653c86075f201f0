import importlib

import numpy as np
import pytest

from jaxdiff.measures import registry
from tests.measures.fake_artifacts import make_artifacts


@pytest.fixture
def brightness(monkeypatch):
    """The measure, registered for this test alone."""
    monkeypatch.setattr(registry, "MEASURES", dict(registry.MEASURES))
    importlib.reload(importlib.import_module("examples.new_measure"))
    return registry.MEASURES["brightness"]


def test_the_brightness_of_samples_and_training_images(brightness):
    artifacts = make_artifacts()
    artifacts.samples = np.full((4, 8, 8, 1), 51, np.uint8)
    samples, training_data = brightness.compute(artifacts)
    assert (samples.name, samples.value, samples.n) == ("samples", pytest.approx(0.2), 4)
    assert training_data.low < training_data.value < training_data.high


def test_it_describes_its_figure_to_the_report(brightness):
    description = brightness.describe()
    assert description["title"] == "Brightness"
    assert description["figure"]["estimate"] == "samples"
    assert description["figure"]["reference"] == "training_data"
