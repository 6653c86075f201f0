"""The mid-block bypassed by a fraction, and the U-Net that does so in a window of the chain."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.denoiser import Denoiser, as_function, get_params
from jaxdiff.unet import UNet
from jaxdiff.unet_bypass import BypassedUNet, bypass
from tests.conftest import TINY_CONFIG, noisy_batch

FORMS = ["blend", "channels", "elements"]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_or_everything_is_bypassed(tiny, form):
    xt, t = noisy_batch()
    hidden = tiny.encode(xt, t, level=2)
    output = tiny.decode(bypass(tiny.bottleneck, 0.0, form)(hidden))
    np.testing.assert_array_equal(output, tiny(xt, t))
    np.testing.assert_array_equal(bypass(tiny.bottleneck, 1.0, form)(hidden).z, hidden.z)


def test_a_blend_is_between_input_and_output(tiny):
    hidden = tiny.encode(*noisy_batch(), level=2)
    after = tiny.bottleneck(hidden)
    half = bypass(tiny.bottleneck, 0.5)(hidden)
    np.testing.assert_allclose(half.z, 0.5 * (hidden.z + after.z), atol=1e-6)


@pytest.mark.parametrize("form", ["channels", "elements"])
def test_a_selection_is_nested_and_has_its_fraction(tiny, form):
    hidden = tiny.encode(*noisy_batch(), level=2)
    after = tiny.bottleneck(hidden)

    def passed_mask(p):
        z = bypass(tiny.bottleneck, p, form)(hidden).z
        return np.asarray(z == hidden.z) & ~np.asarray(after.z == hidden.z)

    quarter = passed_mask(0.25)
    half = passed_mask(0.5)
    assert quarter.mean() == pytest.approx(0.25)
    assert half.mean() == pytest.approx(0.5)
    assert (half | ~quarter).all(), "what passes at a quarter passes at a half"
    if form == "channels":
        pixels = (0, 1, 2)
        assert (quarter.all(axis=pixels) | ~quarter.any(axis=pixels)).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_bypassed_unet_is_the_unet_at_0_and_follows_its_window(tiny, form):
    """One compiled program; outside the window, and at fraction 0, bit for bit the U-Net itself."""
    xt, _ = noisy_batch()
    bypassed = BypassedUNet(tiny, 0.5, 1000, form=form, window=(0.2, 0.8), ramp=0.2)
    assert isinstance(bypassed, Denoiser)
    apply = jax.jit(as_function(bypassed))
    params = get_params(bypassed)
    apply_tiny = jax.jit(as_function(tiny))
    tiny_params = get_params(tiny)
    for steps in ([999, 850], [100, 0]):
        t = jnp.array(steps)
        np.testing.assert_array_equal(apply(params, xt, t), apply_tiny(tiny_params, xt, t))

    t = jnp.array([499, 699])
    unchanged = apply(params | {"fraction": jnp.float32(0.0)}, xt, t)
    np.testing.assert_array_equal(unchanged, apply_tiny(tiny_params, xt, t))
    fraction = bypassed.fraction_at(t)
    np.testing.assert_allclose(fraction, [0.5, 0.25], atol=2e-3)
    hidden = tiny.encode(xt, t, level=2)
    expected = tiny.decode(bypass(tiny.bottleneck, fraction, form)(hidden))
    np.testing.assert_allclose(apply(params, xt, t), expected, atol=1e-5)
    assert float(jnp.abs(apply(params, xt, t) - unchanged).max()) > 1e-3


@pytest.mark.parametrize(
    ("fraction", "options", "message"),
    [
        (1.5, {}, "a fraction of 1.5 was to be bypassed"),
        (0.5, {"window": (0.8, 0.2)}, "a part of 0 to 1 and a ramp"),
        (0.5, {"ramp": 0.6}, "a ramp of 0 to half of it"),
    ],
)
def test_fractions_and_windows_out_of_range_are_refused(tiny, fraction, options, message):
    with pytest.raises(ValueError, match=message):
        BypassedUNet(tiny, fraction, 1000, **options)


def test_a_unet_without_a_mid_block_is_refused():
    unet = UNet(dataclasses.replace(TINY_CONFIG, mid_block=False), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="has no mid-block"):
        BypassedUNet(unet, 0.5, 1000)
