"""The settings of the bypassed mid-block."""

import pytest

from configs import sd_bypass
from jaxdiff.bypass.cells import Point, list_points
from jaxdiff.bypass.config import read_settings


def test_the_papers_prompts_and_0_among_the_fractions():
    config = sd_bypass.get_config()
    config.fractions = (1.0, 0.5)
    config.forms = ("blend", "channels")
    settings = read_settings(config)
    assert settings.prompts == ("a woman", "a girl", "an actress", "an actor", "a queen")
    assert settings.fractions == (0.0, 0.5, 1.0)
    assert list_points(settings) == [
        Point("", 0.0),
        Point("blend", 0.5),
        Point("blend", 1.0),
        Point("channels", 0.5),
        Point("channels", 1.0),
    ]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("fractions", (0.0, 1.5), "config.fractions[1] must be at least 0 and at most 1, got 1.5"),
        ("fractions", (0.0,), "it needs a fraction above 0"),
        ("fractions", ("half",), "config.fractions[0] must be a number, got 'half'"),
        ("prompts", (1,), "config.prompts[0] must be a string, got 1"),
        ("guidances", (-1.0,), "config.guidances[0] must be at least 0, got -1.0"),
        ("seeds", (0, 0), "config.seeds is (0, 0); it needs different whole numbers"),
        ("num", 3, "config.num must be 0 or at least 8, got 3"),
        ("inception", "nowhere.pth", "config.inception is nowhere.pth, which does not exist"),
        ("window", (0.8, 0.2), "config.window is (0.8, 0.2); it needs two numbers"),
        ("forms", ("half",), "config.forms holds 'half'; choose among blend, channels, elements"),
        ("forms", (), "config.forms is empty; it needs at least one entry"),
        ("seeds", (-1,), "config.seeds[0] must be at least 0, got -1"),
        ("steps", 0, "config.steps must be at least 1, got 0"),
        ("space", "inception", "give its weights file as config.inception"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(key, value, sentence):
    config = sd_bypass.get_config()
    config[key] = value
    with pytest.raises(ValueError, match=r".*") as raised:
        read_settings(config)
    assert sentence in str(raised.value)
