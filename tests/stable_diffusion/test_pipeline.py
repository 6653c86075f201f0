"""Pictures of a small pipeline of random weights (tests/parity has the comparison with diffusers)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import samplers
from jaxdiff.diffusion import Schedule
from jaxdiff.stable_diffusion.pipeline import Painter, Pipeline
from jaxdiff.stable_diffusion.pndm import WEIGHTS, calls, pndm
from tests.stable_diffusion import tiny

PROMPTS = ["a woman", "a queen", "an actress"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(tiny.write_pipeline(tmp_path_factory.mktemp("pipeline")))


@pytest.fixture(scope="module")
def blended(pipeline):
    return Painter(pipeline, steps=3, form="blend", batch=4)


@pytest.fixture(scope="module")
def plain(pipeline):
    return Painter(pipeline, steps=3, batch=4)


def test_a_fraction_of_0_is_bit_for_bit_no_bypass(plain, blended):
    latents = plain.latents([0, 1, 2])
    drawn = plain.draw(PROMPTS, latents)
    assert drawn.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(blended.draw(PROMPTS, latents, fraction=0.0), drawn)
    assert np.abs(blended.draw(PROMPTS, latents, fraction=1.0) - drawn).max() > 1e-3


def test_a_picture_does_not_depend_on_those_beside_it(plain):
    """Nor on the chunk that it is in: five pictures are two of four."""
    latents = plain.latents([0, 1, 2, 3, 4])
    prompts = [*PROMPTS, *PROMPTS[:2]]
    drawn = plain.draw(prompts, latents)
    np.testing.assert_array_equal(plain.draw(prompts[3:], latents[3:]), drawn[3:])
    again = plain.draw([prompts[0]] * 2, latents[:1].repeat(2, axis=0))
    np.testing.assert_array_equal(again[0], again[1])
    np.testing.assert_array_equal(again[0], drawn[0])


def test_pictures_are_those_of_one_device_and_may_be_wider_than_high(pipeline, plain):
    alone = Painter(pipeline, steps=3, batch=1)
    latents = plain.latents([5, 6])
    np.testing.assert_allclose(
        alone.draw(PROMPTS[:2], latents), plain.draw(PROMPTS[:2], latents), atol=1e-5
    )
    wide = Painter(pipeline, steps=1, batch=1, size=(8, 16))
    assert wide.draw(PROMPTS[:1], wide.latents([0])).shape == (1, 8, 16, 3)


def test_guidance_0_knows_the_negative_prompt_alone_and_1_the_prompt(plain):
    latents = plain.latents([0, 0])

    def apart(a, b):
        return float(np.abs(a - b).max())

    none = plain.draw(PROMPTS[:2], latents, guidance=0.0, negative="a queen")
    assert apart(none[0], none[1]) < 1e-5
    one = plain.draw(["a queen", "a woman"], latents, guidance=1.0)
    assert apart(one[0], none[0]) < 1e-5 < apart(one[0], one[1])
    strong = plain.draw(["a queen", "a woman"], latents, guidance=7.5)
    assert apart(strong[0], strong[1]) > apart(one[0], one[1])


def test_what_cannot_be_drawn_is_refused(pipeline, plain, blended):
    with pytest.raises(
        ValueError, match=r"a fraction of 1\.5 was to be bypassed; it goes from 0 to 1"
    ):
        blended.draw(PROMPTS[:1], plain.latents([0]), fraction=1.5)
    with pytest.raises(ValueError, match="a Painter without a form"):
        plain.draw(PROMPTS[:1], plain.latents([0]), fraction=0.5)
    with pytest.raises(
        ValueError, match="a picture of 17 px on a side has no latents; choose a multiple of 2"
    ):
        Painter(pipeline, size=(17, 16))
    with pytest.raises(ValueError, match="cannot be halved 1 times"):
        Painter(pipeline, size=(18, 18))


def test_pndms_weights_each_sum_to_one_and_its_calls_are_one_more_than_its_steps():
    np.testing.assert_allclose(WEIGHTS.sum(axis=1), 1.0, atol=1e-6)
    made = calls(Schedule.scaled_linear(), 10, offset=1)
    assert made.t.tolist() == [901, 801, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert made.again.tolist() == [False, True] + [False] * 9


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_pndm_is_ddim_where_the_network_sees_one_image(prediction):
    """The exact eps of a single image is constant along the path, so that all mixtures of it are the same; v turns slowly."""
    schedule, image = Schedule.scaled_linear(), jnp.full((1, 2, 2, 1), 0.3)

    def predict(xt, t):
        s, sigma = schedule.signal_and_noise(t, 4)
        eps = (xt - s * image) / sigma
        return eps if prediction == "eps" else s * eps - sigma * image

    x_T = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 1)), jnp.float32)
    common = {
        "prediction": prediction,
        "steps": 10,
        "spacing": "leading",
        "offset": 1,
        "to_one": False,
    }
    theirs = samplers.ddim(
        predict,
        schedule,
        x_T,
        jax.random.split(jax.random.key(0), 1),
        clip=0.0,
        stride=True,
        **common,
    )
    drawn = pndm(predict, schedule, x_T, **common)
    np.testing.assert_allclose(drawn, theirs, atol=1e-4 if prediction == "eps" else 1e-2)
    with pytest.raises(ValueError, match="predicts x0, so choose DDIM"):
        pndm(predict, schedule, x_T, prediction="x0")
