"""convert writes no schedule that the model lacks, and nothing that cannot be read again."""

import pytest

from jaxdiff import diffusers_io, diffusers_scheduler
from tests.experiments.commands import fail_command


def test_a_unet_without_a_scheduler_is_not_converted(tiny, tmp_path):
    diffusers_io.save_unet(tiny, tmp_path / "unet")
    out = tmp_path / "cell"
    sentence = fail_command("convert", "--model", tmp_path / "unet", "--out", out)
    assert "must have the scheduler_config.json of its training" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unet"]


@pytest.mark.parametrize("name", ["a[1]b", "a\\b", "a*"])
def test_a_folder_that_holds_no_checkpoints_is_refused_by_its_name(name, tiny, tmp_path):
    diffusers_io.save_pipeline(tiny, diffusers_scheduler.DEFAULT, tmp_path / "model")
    out = tmp_path / name
    sentence = fail_command("convert", "--model", tmp_path / "model", "--out", out)
    assert f"in {out}; choose another folder" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
