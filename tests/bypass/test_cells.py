"""The settings of the bypassed mid-block, and the likeness of pictures."""

import json

import numpy as np
import pytest
from etils import epath

from configs import sd_bypass
from jaxdiff.bypass import config as bypass_config
from jaxdiff.bypass import text_to_image as pictures
from jaxdiff.bypass.cells import points
from jaxdiff.report import bypass_figures, style
from tests.stable_diffusion import tiny


def test_the_papers_prompts_and_0_among_the_fractions():
    config = sd_bypass.get_config()
    config.fractions = (1.0, 0.5)
    settings = bypass_config.check(config)
    assert settings["prompts"] == ("a woman", "a girl", "an actress", "an actor", "a queen")
    assert settings["fractions"] == (0.0, 0.5, 1.0)
    assert points(settings | {"forms": ("blend", "channels")}) == [
        ("", 0.0), ("blend", 0.5), ("blend", 1.0), ("channels", 0.5), ("channels", 1.0)]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("fractions", (0.0, 1.5), "config.fractions is (0.0, 1.5), config.window"),
        ("fractions", (0.0,), "a fraction above 0 among them"),
        ("fractions", ("half",), "config.fractions is ('half',); each entry is of type float"),
        ("prompts", (1,), "config.prompts is (1,); each entry is of type str"),
        ("guidances", (-1.0,), "config.guidances is (-1.0,); scales of 0 or more"),
        ("seeds", (0, 0), "config.seeds is (0, 0); different whole numbers"),
        ("num", 3, "config.num is 3; 0, or at least 8, is expected"),
        ("inception", "nowhere.pth", "config.inception is nowhere.pth, which does not exist"),
        ("window", (0.8, 0.2), "config.window is (0.8, 0.2); two numbers"),
        ("forms", ("half",), "config.forms is 'half'; choose of blend, channels, elements"),
        ("forms", (), "config.forms, config.prompts and config.seeds need at least one entry each"),
        ("seeds", (-1,), "config.seeds is (-1,); different whole numbers"),
        ("steps", 0, "config.steps is 0; at least 1"),
        ("space", "inception", "give its weights file as config.inception"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(key, value, sentence):
    config = sd_bypass.get_config()
    config[key] = value
    with pytest.raises(ValueError, match=r".*") as raised:
        bypass_config.check(config)
    assert sentence in str(raised.value)


def test_likeness_is_between_prompts_at_a_seed_and_between_seeds_at_a_prompt():
    """Pictures that the seed alone decides: prompts agree wholly, seeds do not; three prompts, two seeds."""
    seeds = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    rows = {
        (r["between"], r["name"]): r for r in pictures.likeness(np.stack([seeds] * 3), "vgg", "vgg")
    }
    assert rows["prompts", "lpips"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert rows["prompts", "cosine"]["value"] == pytest.approx(1.0, abs=1e-5)
    assert rows["seeds", "lpips"]["value"] > 0.01
    assert rows["seeds", "cosine"]["value"] < 0.999
    assert (rows["prompts", "lpips"]["n"], rows["seeds", "lpips"]["n"]) == (2, 3)
    one = pictures.likeness(seeds[None], "vgg", "vgg")
    assert {r["between"] for r in one} == {"seeds"}
    assert one[0]["low"] is None


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"size": 17}, "a picture of 17 px on a side has no latents; choose a multiple of 2"),
        ({"steps": 2000}, "2000 sampling steps were asked for; the schedule has 1000"),
        ({"lpips": "alex"}, "config.lpips is alex, which needs 32 px; the pictures have 16"),
        ({"window": (0.4, 0.6), "ramp": 0.5}, "a ramp of 0 to half of it"),
    ],
)
def test_what_a_folder_cannot_draw_is_said_before_its_weights_are_read(setting, sentence, tmp_path):
    """There are none in this folder."""
    settings = bypass_config.check(sd_bypass.get_config())
    paths = {"tiny": epath.Path(tiny.write_configs(tmp_path))}
    pictures.check(paths, settings)
    with pytest.raises(ValueError, match=r".*") as raised:
        pictures.check(paths, settings | setting)
    assert sentence in str(raised.value)


def test_all_that_a_picture_depends_on_is_in_its_identity_and_nothing_else(tmp_path):
    folder = epath.Path(tiny.write_pipeline(tmp_path))
    before = pictures._identity(folder)
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not read")
    assert pictures._identity(folder) == before
    for name in ("scheduler/scheduler_config.json", "unet/config.json", "tokenizer/vocab.json"):
        change(folder, name, added=1)
        assert pictures._identity(folder) != before
        before = pictures._identity(folder)


@pytest.mark.slow
def test_one_prompt_at_one_seed_is_drawn_without_likeness(tmp_path):
    settings = bypass_config.check(sd_bypass.get_config()) | {
        "prompts": ("a $5 woman " * 20,), "seeds": (0,), "steps": 1, "fractions": (0.0, 1.0), "forms": ("blend",), "guidances": (), "batch": 1,
        "space": "vgg"}  # fmt: skip
    paths = {"tiny": epath.Path(tiny.write_pipeline(tmp_path / "tiny"))}
    found = pictures.run(paths, settings, epath.Path(tmp_path / "out"), lambda *_: None)
    assert found["tiny"]["rows"] == []
    assert bypass_figures.curves(found) is None
    drawn = dict(bypass_figures.pictures("tiny", found["tiny"], epath.Path(tmp_path / "out")))
    assert set(drawn) == {"tiny-blend", "tiny-guidance"}
    for figure in drawn.values():
        style.to_svg(figure(), "drawn")
