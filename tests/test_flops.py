"""Floating-point operations of networks whose number is known."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff import layers
from jaxdiff.flops import forward_flops, image_flops


def test_flops_of_a_convolution_and_its_gradients():
    def convolution(params, xt, t, keys):
        return layers.convolve(xt, params["kernel"], 1, (1, 1))

    kernel = jnp.zeros((3, 3, 4, 8))
    taps = 30 * 30 * 9 + 4 * 30 * 6 + 4 * 4  # those on the padding are not counted
    forward = 2 * taps * 4 * 8
    flops = image_flops(convolution, {"kernel": kernel}, (32, 32, 4))
    assert 1.9 * forward < flops < 2.3 * forward  # the gradient of the kernel, and the value
    flops = forward_flops(convolution, {"kernel": kernel}, (32, 32, 4))
    assert forward < flops < 1.1 * forward  # the sum over the output besides


def test_flops_are_counted_by_the_cpu_client_where_the_device_has_no_analysis(monkeypatch):
    count = jax.stages.Lowered.cost_analysis

    def answer_of_a_plugin(lowered):
        default = jax.config.jax_default_device
        return count(lowered) if default is not None and default.platform == "cpu" else None

    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", answer_of_a_plugin)

    def matmul(params, xt, t, keys):
        return xt.reshape(1, 4) @ params["weight"]

    flops = image_flops(matmul, {"weight": jnp.zeros((4, 8))}, (2, 2, 1))
    assert flops == pytest.approx(2 * 2 * 4 * 8, rel=0.2)
