"""The U-Net: Table A, its levels, its parameters and its options."""

import dataclasses
import re

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
from jaxdiff.unet import TABLE_A, UNet, UNetConfig
from tests.conftest import TINY_CONFIG, noisy_batch

PRINTED_COUNTS = {
    "2": 1002883,
    "2-large": 15930883,
    "3": 3692867,
    "4": 3859203,
    "5": 16887619,
    "6": 27290691,
}
PARAMETER_NAMES = (
    "down_blocks.0.resnets.0.conv1.weight",
    "down_blocks.1.attentions.0.to_out.0.bias",
    "time_embedding.linear_1.bias",
    "up_blocks.1.resnets.1.conv_shortcut.weight",
    "mid_block.attentions.0.group_norm.weight",
    "conv_norm_out.bias",
    "up_blocks.0.upsamplers.0.conv.weight",
    "down_blocks.0.downsamplers.0.conv.weight",
)


def largest_difference(a, b):
    return float(jnp.abs(a - b).max())


@pytest.mark.parametrize("name", TABLE_A)
def test_parameter_counts_are_table_a(name):
    assert count_parameters(TABLE_A[name]) == PRINTED_COUNTS[name]


def assert_levels_agree(unet, xt, t):
    output = unet(xt, t)
    assert output.shape == xt.shape
    for level in range(unet.config.depth + 2):
        hidden = unet.encode(xt, t, level=level)
        assert hidden.level == level
        np.testing.assert_array_equal(unet.decode(hidden), output)


def test_decode_of_encode_is_the_forward_pass(tiny):
    assert_levels_agree(tiny, *noisy_batch())


def trace(function, *inputs):
    """What a function computes, operation by operation."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(*inputs)))


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE_A)
def test_decode_of_encode_is_the_forward_pass_of_table_a(name):
    """The same operations at every level, which gives the same bits."""
    unet = UNet(TABLE_A[name].widened(0.25), rngs=nnx.Rngs(0))
    inputs = noisy_batch(32, 3)
    expected = trace(unet, *inputs)
    assert jax.eval_shape(unet, *inputs).shape == (2, 32, 32, 3)
    for level in range(unet.config.depth + 2):

        def whole(xt, t, level=level):
            hidden = unet.encode(xt, t, level)
            assert hidden.level == level
            return unet.decode(hidden)

        assert trace(whole, *inputs) == expected


def test_levels_that_do_not_exist_are_refused(tiny):
    xt, t = noisy_batch()
    with pytest.raises(ValueError, match="level 4 does not exist; this U-Net has levels 0"):
        tiny.encode(xt, t, level=4)
    hidden = tiny.encode(xt, t, level=1)
    with pytest.raises(ValueError, match="the mid-block takes level 2, not level 1"):
        tiny.bottleneck(hidden)


def test_parameters_have_diffusers_names(tiny):
    params = get_params(tiny)
    for name in PARAMETER_NAMES:
        assert name in params


def test_parameters_go_out_and_in(tiny):
    xt, t = noisy_batch()
    changed = {name: 1.5 * param for name, param in get_params(tiny).items()}
    output = bind_params(tiny, changed)(xt, t)
    apply = as_function(abstract_network(TINY_CONFIG))
    np.testing.assert_array_equal(apply(changed, xt, t), output)
    assert largest_difference(tiny(xt, t), output) > 1e-3


@pytest.mark.slow
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
    output = jax.eval_shape(UNet(config, rngs=nnx.Rngs(0)), *noisy_batch())
    assert output.shape == (2, 8, 8, config.out_channels)


def test_width_scales_groups_and_refuses_fractions():
    widened = TABLE_A["4"].widened(0.25)
    assert widened.block_out_channels == (8, 8, 16, 32)
    assert widened.norm_num_groups == 8
    with pytest.raises(ValueError, match=r"width 0.3 gives channels and groups"):
        TABLE_A["2"].widened(0.3)


def test_image_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="use a multiple of 8"):
        TABLE_A["4"].check_image_size(12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": (3,)}, r"attention must hold levels from 1 to 2, .* got \(3,\)"),
        ({"time_embedding_type": "learned"}, "num_train_timesteps must be set"),
        ({"act_fn": "tanh"}, "act_fn is 'tanh'; choose one of silu, mish, gelu, relu"),
    ],
)
def test_values_that_no_unet_has_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY_CONFIG, **options)


@pytest.mark.slow
def test_one_channel_a_group_cannot_see_the_time():
    """As in Table A, 32 channels in 32 groups: norm2 subtracts a channel's constant again."""
    config = UNetConfig(
        (8, 16),
        norm_num_groups=8,
        layers_per_block=1,
        mid_block=False,
        in_channels=1,
        out_channels=1,
    )
    unet = UNet(config, rngs=nnx.Rngs(0))
    apply = as_function(unet)
    xt, t = noisy_batch()
    gradient_of = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, xt, t) ** 2)))
    gradient = gradient_of(get_params(unet))
    level_1 = gradient["down_blocks.0.resnets.0.time_emb_proj.weight"]
    level_2 = gradient["down_blocks.1.resnets.0.time_emb_proj.weight"]
    assert float(jnp.abs(level_1).max()) < 1e-4 * float(jnp.abs(level_2).max())


def test_the_config_names_levels_that_cannot_see_the_time():
    assert TABLE_A["4"].time_blind == (1, 2)
    assert dataclasses.replace(TABLE_A["4"], norm_num_groups=16).time_blind == ()


def test_the_config_knows_the_size_of_the_bottleneck():
    assert TABLE_A["6"].bottleneck(32) == 1


def test_skips_can_stay_while_the_activation_changes(tiny):
    xt, t = noisy_batch()
    hidden = tiny.encode(xt, t, level=2)
    shifted = tiny.encode(xt + 1.0, t, level=2)
    mixed = dataclasses.replace(shifted, skips=hidden.skips)
    assert largest_difference(tiny.decode(mixed), tiny.decode(shifted)) > 1e-3
    restored = dataclasses.replace(mixed, z=hidden.z)
    np.testing.assert_array_equal(tiny.decode(restored), tiny(xt, t))


@pytest.mark.slow
def test_dropout_acts_only_with_keys_and_by_each_samples_key(tiny):
    config = dataclasses.replace(TINY_CONFIG, dropout=0.5)
    unet = bind_params(UNet(config, rngs=nnx.Rngs(0)), get_params(tiny))
    xt, t = noisy_batch()
    np.testing.assert_array_equal(unet(xt, t), tiny(xt, t))
    keys = jax.random.split(jax.random.key(0), 2)
    dropped = unet(xt, t, keys=keys)
    assert largest_difference(dropped, tiny(xt, t)) > 1e-3
    second = jnp.array([1, 1])
    twice = unet(xt[second], t[second], keys=keys[second])
    np.testing.assert_allclose(twice, dropped[second], atol=1e-5)


def test_classes_are_asked_for_and_refused(tiny):
    xt, t = noisy_batch()
    labels = jnp.array([1, 2])
    with pytest.raises(ValueError, match="this U-Net takes no labels"):
        tiny(xt, t, labels)
    unet = UNet(dataclasses.replace(TINY_CONFIG, num_class_embeds=3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="this U-Net has classes: give labels"):
        unet(xt, t)
    assert largest_difference(unet(xt, t, labels), unet(xt, t, labels[::-1])) > 1e-4


def test_contexts_are_refused_without_a_conditional_config(tiny):
    xt, t = noisy_batch()
    with pytest.raises(ValueError, match="this U-Net takes no context"):
        tiny(xt, t, context=jnp.zeros((2, 3, 4)))


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8, 1)), ((8, 16), (8, 16, 1))])
def test_the_input_shape_is_the_configs(size, shape):
    config = dataclasses.replace(TINY_CONFIG, sample_size=size, num_class_embeds=3)
    unet = abstract_network(config)
    assert unet.input_shape == shape
    assert unet.num_classes == 3


def test_an_input_shape_needs_a_sample_size(tiny):
    with pytest.raises(ValueError, match=r"config\.sample_size must be the image size in pixels"):
        _ = tiny.input_shape
