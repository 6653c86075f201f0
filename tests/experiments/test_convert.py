"""convert writes no schedule that the model's folder does not have."""

from jaxdiff import diffusers_io
from tests.experiments.commands import fail_command


def test_a_unet_without_a_scheduler_is_not_converted(tiny, tmp_path):
    diffusers_io.save_unet(tiny, tmp_path / "unet")
    out = tmp_path / "cell"
    sentence = fail_command("convert", "--model", tmp_path / "unet", "--out", out)
    assert "must have the scheduler_config.json of its training" in sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unet"]
