"""The study's own small probe as a registered measure."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdiff.diffusion import Schedule
from jaxdiff.measures import curvature
from jaxdiff.measures.registry import MEASURES
from jaxdiff.measures.roles import Roles
from jaxdiff.models import Model
from jaxdiff.reading import Reading
from tests.measures.fake_artifacts import FakeArtifacts, FakeSplit


@pytest.fixture(scope="module")
def artifacts(minimal_unet):
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    model = Model(minimal_unet, Schedule.linear(100), "eps", {"data": {"size": 4}})
    return FakeArtifacts(
        FakeSplit(images, np.where(np.arange(40) % 4, 6, 9)),
        samples=images,
        settings=SimpleNamespace(probe=2),
        roles=Roles(6, 9, 0.25),
        leveled_sampler=SimpleNamespace(model=model),
        unseen_images=images[:10],
    )


@pytest.mark.slow
def test_points_go_to_a_file_and_quantiles_to_the_result(artifacts):
    estimates = curvature.curvature(artifacts)
    assert artifacts.unseen_counts == [64]
    rows = artifacts.json["probe.json"]["rows"]
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
