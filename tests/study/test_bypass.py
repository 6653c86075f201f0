"""The settings of the bypassed mid-block, and the likeness of pictures."""

import numpy as np
import pytest

from configs import sd_bypass
from jaxdiff.study import bypass_config, pictures
from jaxdiff.study.bypass import points


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
        ("fractions", (0.0, 1.5), "1.5 is no fraction; config.fractions"),
        ("window", (0.8, 0.2), "config.window is (0.8, 0.2); two numbers"),
        ("forms", ("half",), "config.forms is 'half'; choose of blend, channels, elements"),
        ("forms", (), "config.forms, config.prompts and config.seeds need at least one entry each"),
        ("seeds", (-1,), "config.seeds is (-1,); whole numbers"),
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
    rows = {(r["between"], r["name"]): r for r in pictures.likeness(np.stack([seeds] * 3), "vgg", "vgg")}
    assert rows["prompts", "lpips"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert rows["prompts", "cosine"]["value"] == pytest.approx(1.0, abs=1e-5)
    assert rows["seeds", "lpips"]["value"] > 0.01
    assert rows["seeds", "cosine"]["value"] < 0.999
    assert (rows["prompts", "lpips"]["n"], rows["seeds", "lpips"]["n"]) == (2, 3)
    one = pictures.likeness(seeds[None], "vgg", "vgg")
    assert {r["between"] for r in one} == {"seeds"}
    assert one[0]["low"] is None
