"""Stable Diffusion with the mid-block bypassed: similarity of images, checks, identity."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from configs import sd_bypass
from jaxdiff.analysis.similarity import DrawnModel
from jaxdiff.bypass import text_to_image
from jaxdiff.bypass.config import read_settings
from jaxdiff.report import bypass_figures, style
from tests.stable_diffusion import tiny


@pytest.mark.slow
def test_similarity_is_between_prompts_at_a_seed_and_between_seeds_at_a_prompt():
    """Images that the seed alone decides: prompts agree, seeds do not; 3 prompts, 2 seeds."""
    seeds = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    estimates = text_to_image.measure_similarity(np.stack([seeds] * 3), "vgg", "vgg")
    by_key = {(e.labels["between"], e.name): e for e in estimates}
    assert by_key["prompts", "lpips"].value == pytest.approx(0.0, abs=1e-6)
    assert by_key["prompts", "cosine"].value == pytest.approx(1.0, abs=1e-5)
    assert by_key["seeds", "lpips"].value > 0.01
    assert by_key["seeds", "cosine"].value < 0.999
    assert by_key["prompts", "lpips"].n == 2
    assert by_key["seeds", "lpips"].n == 3
    of_one_prompt = text_to_image.measure_similarity(seeds[None], "vgg", "vgg")
    assert {e.labels["between"] for e in of_one_prompt} == {"seeds"}
    assert of_one_prompt[0].low is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": 17}, "got 17"),
        ({"steps": 2000}, "got 2000"),
        ({"lpips": "alex"}, "config.lpips is alex, which needs 32 px; the images have 16"),
        ({"window": (0.4, 0.6), "ramp": 0.5}, "ramp"),
    ],
)
def test_what_a_folder_cannot_draw_is_said_before_its_weights_are_read(changes, sentence, tmp_path):
    """There are no weights in this folder."""
    settings = read_settings(sd_bypass.get_config())
    paths = {"tiny": epath.Path(tiny.write_configs(tmp_path))}
    text_to_image.check(paths, settings)
    with pytest.raises(ValueError, match=r".*") as raised:
        text_to_image.check(paths, dataclasses.replace(settings, **changes))
    assert sentence in str(raised.value)


def test_all_that_an_image_depends_on_is_in_the_digest_and_nothing_else(tmp_path):
    folder = epath.Path(tiny.write_pipeline(tmp_path))
    before = text_to_image.pipeline_digest(folder)
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not read")
    assert text_to_image.pipeline_digest(folder) == before
    for name in ("scheduler/scheduler_config.json", "unet/config.json", "tokenizer/vocab.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"added": 1}))
        after = text_to_image.pipeline_digest(folder)
        assert after != before
        before = after


@pytest.mark.slow
def test_one_prompt_at_one_seed_is_drawn_without_similarities(tmp_path):
    settings = dataclasses.replace(
        read_settings(sd_bypass.get_config()),
        prompts=("a $5 woman " * 20,),
        seeds=(0,),
        steps=1,
        fractions=(0.0, 1.0),
        forms=("blend",),
        guidances=(),
        batch=1,
        space="vgg",
    )
    paths = {"tiny": epath.Path(tiny.write_pipeline(tmp_path / "tiny"))}
    workdir = epath.Path(tmp_path / "out")
    content = text_to_image.run(paths, settings, workdir)
    assert content["tiny"]["rows"] == []
    model = DrawnModel.from_json("tiny", content["tiny"])
    assert bypass_figures.draw_similarities([model]) is None
    sheets = dict(bypass_figures.list_image_sheets(model, workdir))
    assert set(sheets) == {"tiny-blend", "tiny-guidance"}
    for draw in sheets.values():
        style.to_svg(draw(), "sheet")
