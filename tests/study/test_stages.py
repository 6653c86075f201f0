import numpy as np
import pytest

from jaxdiff.diffusion import Schedule
from jaxdiff.models import Model
from jaxdiff.sampling import Sampler
from jaxdiff.study import stages
from jaxdiff.unet import UNet


def draw(model, indices, settings, seed):
    return Sampler(model, settings, lambda *_: None).sample(indices, seed)


@pytest.fixture
def model(one: UNet) -> Model:
    return Model(one, Schedule.linear(20), "v", {"data": {"size": 8}})


def test_a_sample_depends_on_its_index_and_the_seed_alone(model):
    settings = {"batch": 8, "method": "ddpm", "steps": 6, "clip": True}
    drawn = draw(model, np.arange(11), settings, 0)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(draw(model, np.arange(3), settings, 0), drawn[:3])
    np.testing.assert_array_equal(draw(model, np.array([9, 2]), settings, 0), drawn[[9, 2]])
    other_chunk = draw(model, np.arange(11), settings | {"batch": 6}, 0)
    assert np.abs(other_chunk - drawn).max() < 1e-3
    assert np.abs(draw(model, np.arange(11), settings, 1) - drawn).max() > 0.1


def test_a_stage_runs_once_for_its_inputs(tmp_path):
    from etils import epath

    folder, runs = epath.Path(tmp_path), []

    def make():
        runs.append(1)
        (folder / "out.txt").write_text(str(len(runs)))

    first = stages.stage(folder, "make", {"a": 1}, ("out.txt",), make)
    assert stages.stage(folder, "make", {"a": 1}, ("out.txt",), make) == first
    assert len(runs) == 1
    stages.stage(folder, "make", {"a": 2}, ("out.txt",), make)
    (folder / "out.txt").write_text("changed by hand")
    stages.stage(folder, "make", {"a": 2}, ("out.txt",), make)
    (folder / "out.txt").unlink()
    stages.stage(folder, "make", {"a": 2}, ("out.txt",), make)
    assert len(runs) == 4
