import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff.denoiser import (
    abstract_network,
    as_function,
    bind_params,
    count_parameters,
    get_params,
)
from jaxdiff.layers import Attention, GroupNorm, Upsample, convolve, dropout
from jaxdiff.unet import TABLE_A, Bypassed, UNet, UNetConfig, bypass
from tests.conftest import TINY

PRINTED = {
    "2": 1002883,
    "2-large": 15930883,
    "3": 3692867,
    "4": 3859203,
    "5": 16887619,
    "6": 27290691,
}


def inputs(size=8, channels=1, batch=2):
    return jax.random.normal(jax.random.key(1), (batch, size, size, channels)), jnp.array([3, 900])[
        :batch
    ]


@pytest.mark.parametrize("name", TABLE_A)
def test_parameter_counts_are_table_a(name):
    assert count_parameters(TABLE_A[name]) == PRINTED[name]


def levels_agree(unet, xt, t):
    whole = unet(xt, t)
    assert whole.shape == xt.shape
    for level in range(unet.config.depth + 2):
        hidden = unet.encode(xt, t, level=level)
        assert hidden.level == level
        np.testing.assert_array_equal(unet.decode(hidden), whole)


def test_decode_of_encode_is_the_whole_pass_at_every_level(tiny):
    levels_agree(tiny, *inputs())


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_A)
def test_decode_of_encode_is_the_whole_pass_at_every_level_of_table_a(name):
    levels_agree(UNet(TABLE_A[name], rngs=nnx.Rngs(0)), *inputs(32, 3))


def test_levels_that_do_not_exist_are_refused(tiny):
    xt, t = inputs()
    with pytest.raises(ValueError, match="level 4 does not exist; this U-Net has levels 0"):
        tiny.encode(xt, t, level=4)
    with pytest.raises(ValueError, match="the mid-block takes level 2, not level 1"):
        tiny.bottleneck(tiny.encode(xt, t, level=1))


def test_parameters_go_out_and_in_by_diffusers_names(tiny):
    params = get_params(tiny)
    for name in (
        "down_blocks.0.resnets.0.conv1.weight", "down_blocks.1.attentions.0.to_out.0.bias", "time_embedding.linear_1.bias",
        "up_blocks.1.resnets.1.conv_shortcut.weight", "mid_block.attentions.0.group_norm.weight", "conv_norm_out.bias",
        "up_blocks.0.upsamplers.0.conv.weight", "down_blocks.0.downsamplers.0.conv.weight",
    ):  # fmt: skip
        assert name in params
    xt, t = inputs()
    changed = {name: 1.5 * p for name, p in params.items()}
    np.testing.assert_array_equal(
        as_function(abstract_network(TINY))(changed, xt, t), bind_params(tiny, changed)(xt, t)
    )
    assert float(jnp.abs(tiny(xt, t) - bind_params(tiny, changed)(xt, t)).max()) > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig((8,), norm_num_groups=4, in_channels=1, out_channels=1),
        UNetConfig(
            (8, 8, 8),
            attention=(1, 3),
            layers_per_block=3,
            norm_num_groups=2,
            in_channels=1,
            out_channels=2,
        ),
    ],
)
def test_other_shapes(config):
    xt, t = inputs()
    assert UNet(config, rngs=nnx.Rngs(0))(xt, t).shape == (2, 8, 8, config.out_channels)


def test_width_scales_groups_and_refuses_fractions():
    assert TABLE_A["4"].widened(0.25).block_out_channels == (8, 8, 16, 32)
    assert TABLE_A["4"].widened(0.25).norm_num_groups == 8
    with pytest.raises(ValueError, match=r"width 0.3 gives channels and groups"):
        TABLE_A["2"].widened(0.3)
    with pytest.raises(ValueError, match="use a multiple of 8"):
        TABLE_A["4"].check_image_size(12)


@pytest.mark.parametrize(
    ("size", "stride"), [(1, 1), (2, 1), (4, 1), (5, 1), (4, 2), (7, 2), (8, 2), (16, 2)]
)
def test_a_convolution_is_one_at_every_size(size, stride):
    """Small images go through a matrix product of shifted views, large ones through XLA's convolution."""
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve(x, kernel, stride, (1, 1)), wanted, atol=1e-5)


def test_group_norm_is_the_definition():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    norm = GroupNorm(6, 3, 1e-5)
    grouped = np.asarray(x).reshape(2, 16, 3, 2)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    wanted = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(2, 4, 4, 6)
    np.testing.assert_allclose(norm(x), wanted, atol=1e-5)


def test_attention_is_the_definition_one_pixel_at_a_time():
    layer = Attention(8, 4, 2, 1e-5, nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    tokens = np.asarray(layer.group_norm(x)).reshape(4, 8)
    q, k, v = (np.asarray(p(jnp.asarray(tokens))) for p in (layer.to_q, layer.to_k, layer.to_v))
    mixed = np.zeros((4, 8))
    for head in (slice(0, 4), slice(4, 8)):
        for i in range(4):
            weights = np.exp(k[:, head] @ q[i, head] / 2.0)
            mixed[i, head] = weights @ v[:, head] / weights.sum()
    wanted = np.asarray(x) + np.asarray(layer.to_out[0](jnp.asarray(mixed, jnp.float32))).reshape(
        1, 2, 2, 8
    )
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


def test_upsampling_repeats_the_nearest_pixel():
    layer = Upsample(1, nnx.Rngs(0))
    layer.conv.weight[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    layer.conv.bias[...] = jnp.zeros(1)
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(
        layer(x)[0, :, :, 0], np.kron(np.arange(4.0).reshape(2, 2), np.ones((2, 2)))
    )


def test_one_channel_a_group_cannot_see_the_time():
    """Table A's 32 channels in 32 groups: norm2 subtracts a channel's constant again, so its gradient is zero."""
    config = UNetConfig(
        (8, 16), norm_num_groups=8, layers_per_block=1, in_channels=1, out_channels=1
    )
    unet = UNet(config, rngs=nnx.Rngs(0))
    xt, t = inputs()
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(as_function(unet)(p, xt, t) ** 2)))(
        get_params(unet)
    )
    blind = gradient["down_blocks.0.resnets.0.time_emb_proj.weight"]
    seeing = gradient["down_blocks.1.resnets.0.time_emb_proj.weight"]
    assert float(jnp.abs(blind).max()) < 1e-4 * float(jnp.abs(seeing).max())


def test_the_report_can_name_the_levels_that_cannot_see_the_time():
    assert TABLE_A["4"].time_blind == (1, 2)
    assert dataclasses.replace(TABLE_A["4"], norm_num_groups=16).time_blind == ()
    assert TABLE_A["6"].bottleneck(32) == 1


def mid(unet, hidden, *bypassed):
    return unet.decode(bypass(unet.bottleneck, *bypassed)(hidden))


@pytest.mark.parametrize("form", ["blend", "channels", "elements"])
def test_the_mid_block_is_bypassed_by_a_fraction(tiny, form):
    xt, t = inputs()
    hidden = tiny.encode(xt, t, level=2)
    after = tiny.bottleneck(hidden)
    np.testing.assert_array_equal(mid(tiny, hidden, 0.0, form), tiny(xt, t))
    np.testing.assert_array_equal(bypass(tiny.bottleneck, 1.0, form)(hidden).z, hidden.z)
    parts = [bypass(tiny.bottleneck, p, form)(hidden).z for p in (0.25, 0.5)]
    if form == "blend":
        np.testing.assert_allclose(parts[1], 0.5 * (hidden.z + after.z), atol=1e-6)
        return
    passed = [np.asarray(part == hidden.z) & ~np.asarray(after.z == hidden.z) for part in parts]
    assert [p.mean() for p in passed] == pytest.approx([0.25, 0.5])
    assert (passed[1] | ~passed[0]).all(), "what passes at a quarter passes at a half"
    if form == "channels":
        assert (passed[0].all(axis=(0, 1, 2)) | ~passed[0].any(axis=(0, 1, 2))).all()


@pytest.mark.parametrize("form", ["blend", "channels", "elements"])
def test_a_bypassed_unet_is_the_unet_at_0_and_follows_its_window(tiny, form):
    """One compiled program; outside the window, and at fraction 0, bit for bit the U-Net itself."""
    xt, _ = inputs()
    made = Bypassed(tiny, 0.5, 1000, form=form, window=(0.2, 0.8), ramp=0.2)
    apply, params = jax.jit(as_function(made)), get_params(made)
    plain = jax.jit(as_function(tiny))
    for t in ([999, 850], [100, 0]):
        np.testing.assert_array_equal(
            apply(params, xt, jnp.array(t)), plain(get_params(tiny), xt, jnp.array(t))
        )
    t = jnp.array([499, 699])
    nothing = apply(params | {"fraction": jnp.float32(0.0)}, xt, t)
    np.testing.assert_array_equal(nothing, plain(get_params(tiny), xt, t))
    hidden = tiny.encode(xt, t, level=2)
    np.testing.assert_allclose(
        apply(params, xt, t), mid(tiny, hidden, made.share(t), form), atol=1e-5
    )
    np.testing.assert_allclose(made.share(t), [0.5, 0.25], atol=2e-3)
    assert float(jnp.abs(apply(params, xt, t) - nothing).max()) > 1e-3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fraction": 1.5}, "a fraction of 1.5 was to be bypassed"),
        ({"window": (0.8, 0.2)}, "a part of 0 to 1 and a ramp"),
        ({"ramp": 0.6}, "a ramp of 0 to half of it"),
    ],
)
def test_what_cannot_be_bypassed_is_refused(tiny, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Bypassed(tiny, options.pop("fraction", 0.5), 1000, **options)
    without = UNet(dataclasses.replace(TINY, mid_block=False), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="has no mid-block"):
        Bypassed(without, 0.5, 1000)


def test_skips_can_be_held_while_the_activation_changes(tiny):
    xt, t = inputs()
    hidden, other = tiny.encode(xt, t, level=2), tiny.encode(xt + 1.0, t, level=2)
    held = dataclasses.replace(other, skips=hidden.skips)
    assert float(jnp.abs(tiny.decode(held) - tiny.decode(other)).max()) > 1e-3
    np.testing.assert_array_equal(tiny.decode(dataclasses.replace(held, z=hidden.z)), tiny(xt, t))


def test_dropout_acts_with_keys_alone_and_by_the_samples_own(tiny):
    config = dataclasses.replace(TINY, dropout=0.5)
    unet, (xt, t) = bind_params(UNet(config, rngs=nnx.Rngs(0)), get_params(tiny)), inputs()
    np.testing.assert_array_equal(unet(xt, t), tiny(xt, t))
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = unet(xt, t, keys=keys)
    assert float(jnp.abs(dropped - tiny(xt, t)).max()) > 1e-3
    np.testing.assert_allclose(unet(xt[1:], t[1:], keys=keys[1:]), dropped[1:], atol=1e-5)
    many = dropout(jnp.ones((4, 32, 32, 4)), 0.25, jax.random.split(jax.random.key(1), 4))
    assert float(many.mean()) == pytest.approx(1.0, abs=0.02)  # 4 standard errors of 16,384 draws
    assert float((many == 0).mean()) == pytest.approx(0.25, abs=0.015)


def test_classes_are_asked_for_and_refused(tiny):
    (xt, t), labels = inputs(), jnp.array([1, 2])
    with pytest.raises(ValueError, match="this U-Net takes no labels"):
        tiny(xt, t, labels)
    unet = UNet(dataclasses.replace(TINY, num_class_embeds=3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="this U-Net has classes: give labels"):
        unet(xt, t)
    assert float(jnp.abs(unet(xt, t, labels) - unet(xt, t, labels[::-1])).max()) > 1e-4
