"""Images of a small pipeline of random weights (tests/parity compares them with diffusers')."""

import numpy as np
import pytest

from jaxdiff.stable_diffusion.pipeline import Pipeline, TextToImagePipeline
from tests.stable_diffusion import tiny

pytestmark = pytest.mark.slow

PROMPTS = ["a woman", "a queen", "an actress"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(tiny.write_pipeline(tmp_path_factory.mktemp("pipeline")))


@pytest.fixture(scope="module")
def blended(pipeline):
    return TextToImagePipeline(pipeline, steps=3, form="blend", batch=4)


@pytest.fixture(scope="module")
def plain(pipeline):
    return TextToImagePipeline(pipeline, steps=3, batch=4)


def largest_difference(a, b):
    return float(np.abs(a - b).max())


def test_a_fraction_of_0_is_bit_for_bit_no_bypass(plain, blended):
    latents = plain.latents([0, 1, 2])
    images = plain(PROMPTS, latents)
    assert images.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(blended(PROMPTS, latents, fraction=0.0), images)
    assert largest_difference(blended(PROMPTS, latents, fraction=1.0), images) > 1e-3


def test_an_image_does_not_depend_on_those_beside_it(plain):
    """Nor on the batch that it is in: five images are two batches of four."""
    latents = plain.latents([0, 1, 2, 3, 4])
    prompts = [*PROMPTS, *PROMPTS[:2]]
    images = plain(prompts, latents)
    np.testing.assert_array_equal(plain(prompts[3:], latents[3:]), images[3:])
    twice = plain([prompts[0]] * 2, latents[:1].repeat(2, axis=0))
    np.testing.assert_array_equal(twice[0], twice[1])
    np.testing.assert_array_equal(twice[0], images[0])


def test_images_are_those_of_one_device_and_may_be_wider_than_high(pipeline, plain):
    single = TextToImagePipeline(pipeline, steps=3, batch=1)
    latents = plain.latents([5, 6])
    np.testing.assert_allclose(single(PROMPTS[:2], latents), plain(PROMPTS[:2], latents), atol=1e-5)
    wide = TextToImagePipeline(pipeline, steps=1, batch=1, size=(8, 16))
    assert wide(PROMPTS[:1], wide.latents([0])).shape == (1, 8, 16, 3)


def test_guidance_0_knows_the_negative_prompt_alone_and_1_the_prompt(plain):
    latents = plain.latents([0, 0])
    unconditional = plain(PROMPTS[:2], latents, guidance=0.0, negative="a queen")
    assert largest_difference(unconditional[0], unconditional[1]) < 1e-5
    conditional = plain(["a queen", "a woman"], latents, guidance=1.0)
    assert largest_difference(conditional[0], unconditional[0]) < 1e-5
    assert largest_difference(conditional[0], conditional[1]) > 1e-5
    strong = plain(["a queen", "a woman"], latents, guidance=7.5)
    assert largest_difference(*strong) > largest_difference(*conditional)


def test_what_cannot_be_drawn_is_refused(pipeline, plain, blended):
    latents = plain.latents([0])
    with pytest.raises(ValueError, match=r"fraction"):
        blended(PROMPTS[:1], latents, fraction=1.5)
    with pytest.raises(ValueError, match="needs a form to bypass a fraction"):
        plain(PROMPTS[:1], latents, fraction=0.5)
    with pytest.raises(ValueError, match="must be multiples of 2 px, got 17"):
        TextToImagePipeline(pipeline, size=(17, 16))
    with pytest.raises(ValueError, match="halved"):
        TextToImagePipeline(pipeline, size=(18, 18))
