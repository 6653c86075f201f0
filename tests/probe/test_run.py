"""What is probed and made again, and what is refused."""

import dataclasses

import pytest
from etils import epath

from jaxdiff.diffusion import Schedule
from jaxdiff.probe import run as probe_run
from jaxdiff.probe.data import ProbeData
from jaxdiff.probe.options import noise_steps, probe_grid, select_levels
from jaxdiff.probe.run import ModelFolder, ProbeJob
from jaxdiff.probe.state import check_has_levels
from jaxdiff.stage import Redo
from tests.probe.small import IMAGES, OPTIONS, SMALL, build_unet

SCHEDULE = Schedule.linear(1000)


@pytest.fixture(scope="module")
def data():
    return ProbeData.from_images(IMAGES, 4)


@pytest.fixture
def job(data):
    model = ModelFolder("small", epath.Path("/nowhere"), SMALL, SCHEDULE, "v", (8, 8))
    return ProbeJob(model, data, (4, 8), dataclasses.replace(OPTIONS, random=True))


def test_the_grid_is_weights_then_t_then_level(job):
    names = [job.part_name(point) for point in job.grid]
    assert len(names) == 2 * 1 * 4
    assert names[0] == "small-trained-t300-level0"
    assert names[-1] == "small-random-t300-level3"


@pytest.mark.parametrize(
    ("pattern", "remaining"), [("all", 0), ("*-level2", 6), ("small-trained-*", 4)]
)
def test_redo_makes_the_parts_that_match_again(job, pattern, remaining):
    redo = Redo([pattern])
    kept = [point for point in job.grid if not redo.matches(job.part_name(point))]
    assert len(kept) == remaining


def test_redo_of_no_part_lists_the_parts(job):
    names = [job.part_name(point) for point in job.grid]
    with pytest.raises(ValueError, match=r"--redo level9 matches no stage; .* small-random-t300"):
        Redo(["level9"]).check_all_matched(names)


def test_a_network_without_levels_is_refused():
    check_has_levels(build_unet())

    class Foreign:
        def decode(self, hidden):
            return hidden

    message = "needs a network with encode, advance and decode .*, got Foreign without encode, adv"
    with pytest.raises(ValueError, match=message):
        check_has_levels(Foreign())


def test_models_of_other_noise_levels_are_not_compared():
    schedules = {"a": SCHEDULE, "b": Schedule.cosine(1000)}
    message = r"the same noise levels, got alpha_bar \[.*\] of 1000 steps in b and \[.*\] of 1000"
    with pytest.raises(ValueError, match=message):
        probe_run.check_noise_levels(schedules, OPTIONS)


def test_levels_and_noise_levels_that_do_not_exist():
    message = "level 7 does not exist; this U-Net has 0, 1, 2, 3: 0 is the pixels, 2 the bottleneck"
    with pytest.raises(ValueError, match=message):
        select_levels(SMALL, dataclasses.replace(OPTIONS, levels=(1, 7)))
    message = "noise levels must be shares of all timesteps, from 0 to 1, got 1.5"
    with pytest.raises(ValueError, match=message):
        noise_steps(SCHEDULE, dataclasses.replace(OPTIONS, noise=(1.5,)))
    with pytest.raises(ValueError, match=message):
        probe_grid(SMALL, SCHEDULE, dataclasses.replace(OPTIONS, noise=(1.5,)))


def test_images_of_another_size_are_refused(job, data):
    model = dataclasses.replace(job.model, size=(16, 16))
    message = r"small takes images of 16 x 16 x 1 .*, got images of 8 x 8 x 1"
    with pytest.raises(ValueError, match=message):
        probe_run.check_model(model, data, OPTIONS)


def test_a_path_that_is_no_model_is_refused(data):
    with pytest.raises(ValueError, match=r"nowhere is no model: it has no config\.json"):
        probe_run.run({"x": epath.Path("/nowhere")}, data, OPTIONS, epath.Path("/nowhere/out"))
