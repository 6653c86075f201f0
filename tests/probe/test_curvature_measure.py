"""The study's own small probe as a registered measure."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdiff.diffusion import Schedule
from jaxdiff.measures import curvature
from jaxdiff.measures.artifacts import Artifacts, Roles
from jaxdiff.measures.registry import MEASURES
from jaxdiff.models import Model
from jaxdiff.progress import no_progress
from jaxdiff.reading import Reading


class FakeArtifacts(Artifacts):
    """What the measure reads of a cell, and the files that it writes."""

    def __init__(self, model: Model):
        images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
        self.settings = SimpleNamespace(probe=2)
        self.progress = no_progress
        self.roles = Roles(6, 9, 0.25)
        self.train = SimpleNamespace(images=images, labels=np.where(np.arange(40) % 4, 6, 9))
        self.leveled_sampler = SimpleNamespace(model=model)
        self.written: dict[str, dict[str, list[dict[str, object]]]] = {}

    def unseen(self, count: int) -> np.ndarray:
        assert count == 64
        return self.train.images[:10]

    def write_json(self, name: str, value: dict[str, list[dict[str, object]]]) -> None:
        self.written[name] = value


@pytest.fixture(scope="module")
def artifacts(minimal_unet):
    model = Model(minimal_unet, Schedule.linear(100), "eps", {"data": {"size": 4}})
    return FakeArtifacts(model)


@pytest.mark.slow
def test_points_go_to_a_file_and_quantiles_to_the_result(artifacts):
    estimates = curvature.curvature(artifacts)
    rows = artifacts.written["probe.json"]["rows"]
    assert [estimate.to_json() for estimate in estimates] == [
        Reading.from_json(row).summarize().to_json() for row in rows
    ]
    assert {(row["weights"], row["t"], row["level"]) for row in rows} == {
        ("trained", 30, 0),
        ("random", 30, 0),
    }
    assert {row["reading"] for row in rows} == {"scale", "denoiser", "hessian"}
    assert all(len(row["values"]) == 2 for row in rows if row["reading"] == "hessian")


def test_it_is_registered_and_can_be_left_out():
    measure = MEASURES["curvature"]
    assert measure.outputs == ("probe.json",)
    assert measure.enabled(SimpleNamespace(probe=4))
    assert not measure.enabled(SimpleNamespace(probe=0))
