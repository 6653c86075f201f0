"""The card says what is known of a model, and its code is what loads it."""

import json

import pytest
import yaml
from etils import epath

from jaxdiff.estimates import Estimate
from jaxdiff.report import model_card

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "prediction_type": "epsilon",
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "_jaxdiff_sampler": {"steps": 40, "eta": 0.5, "rederive": True, "stride": False},
}
SETTINGS = {
    "data": {"source": "digits"},
    "n": 300,
    "proportions": [0.8, 0.2],
    "majority": 6,
    "minority": 9,
    "seed": 0,
    "train": {"steps": 1000},
    "diffusion": {"schedule": "linear", "steps": 1000},
    "sample": {"method": "ddim"},
}


@pytest.fixture
def folder(tmp_path):
    path = epath.Path(tmp_path) / "model"
    (path / "unet").mkdir(parents=True)
    (path / "scheduler").mkdir()
    unet = {"sample_size": 16, "in_channels": 1, "block_out_channels": [8, 16]}
    (path / "unet" / "config.json").write_text(json.dumps(unet))
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return path


def write(folder, settings, result=None, license="unknown", step=None):
    """The card of a cell: its fields and its text."""
    (folder / "config.json").write_text(json.dumps(settings))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    model_card.write_card(folder, folder, "someone/tiny", license, step)
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_an_earlier_checkpoint_has_its_step_and_no_measures_of_the_last(folder):
    share = Estimate(0.25, 0.2, 0.3, 64, name="classified").to_json()
    result = {"schema": 1, "cell": {"data": "MNIST"}, "share": [share]}
    _, text = write(folder, SETTINGS, result, step=1500)
    assert "moving average, after 1,500 steps." in text
    assert "digits (MNIST)" in text
    assert "## Measures" not in text


def test_a_measured_cell_has_its_data_its_settings_and_its_measures(folder):
    share = Estimate(0.25, 0.2, 0.3, 64, name="classified").to_json()
    nearest = Estimate.undefined("nearest", space="pixels").to_json()
    many = [Estimate(1.0, name=f"loss{i}").to_json() for i in range(20)]
    result = {
        "schema": 1,
        "cell": {"data": "MNIST"},
        "share": [share, nearest],
        "checkpoints": many,
    }
    header, text = write(folder, SETTINGS, result, "apache-2.0")
    assert header["license"] == "apache-2.0"
    assert header["pipeline_tag"] == "unconditional-image-generation"
    assert "U-Net of depth 2 that predicts the noise of images of\n16 x 16 px" in text
    assert "digits (MNIST): 300 images, 0.8 of class 6, 0.2 of class 9; seed 0." in text
    assert "| share | classified | 0.25 [0.2, 0.3] | 64 |" in text
    assert "| share | nearest (space pixels) | undefined |  |" in text
    assert "| checkpoints | and 12 more |  |  |" in text
    assert 'jd.load("someone/tiny")' in text
    assert 'jd.sample(model, 16, method="ddim", steps=40)' in text
    assert "num_inference_steps=40, use_clipped_model_output=True, eta=0.5" in text
    assert "It was trained by jaxdiff; the weights are their moving average." in text
    assert "\n\n\n" not in text


def test_groups_and_the_first_weights_are_named(folder):
    groups = {"proportions": [0.4, 0.1, 0.4, 0.1], "data": {"source": "celeba", "group": "Smiling"}}
    init = {"repository": "someone/base", "commit": "abc"}
    (folder / "run.json").write_text(json.dumps({"init": init}))
    _, text = write(folder, SETTINGS | groups)
    assert "0.4 of class 6 without Smiling, 0.1 of class 6 with Smiling, 0.4 of class 9" in text
    assert "began from the weights of someone/base at commit abc." in text


def test_a_model_of_which_little_is_known_has_a_short_card(folder):
    header, text = write(folder, {"unet": {}, "diffusion": {"alpha_bar": [0.9]}})
    assert header["license"] == "unknown"
    assert "The license is not chosen yet" in text
    for heading in ("## Trained on", "## Settings", "## Measures"):
        assert heading not in text
    assert "DDIMPipeline.from_pretrained" in text
    assert "trained by jaxdiff" not in text
    assert "\n\n\n" not in text
