"""CPU forms compute what the plain definitions compute, with two orders of derivatives."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from jaxdiff.ops import attention
from jaxdiff.ops.attention import (
    blockwise_attention,
    cpu_attention,
    dot_product_attention,
    plain_attention,
)
from jaxdiff.ops.convolution import (
    convolve,
    count_parts,
    matmul_convolution,
    plain_convolution,
    split_convolution,
    upsampled_convolution,
)
from jaxdiff.ops.dispatch import fusion_barrier, tracing_for
from jaxdiff.ops.resampling import upsample_nearest
from tests.ops.helpers import assert_close, random_array

pytestmark = pytest.mark.accelerator


class Case(NamedTuple):
    cpu_form: Callable
    definition: Callable
    inputs: tuple[jax.Array, ...]


def attention_case(*shape):
    qkv = tuple(random_array(*shape, seed=i) for i in range(3))
    return Case(cpu_attention, plain_attention, qkv)


def matmul_case(size, kernel_size, stride, padding):
    def cpu_form(x, kernel):
        return matmul_convolution(x, kernel, stride, padding)

    def definition(x, kernel):
        return plain_convolution(x, kernel, stride, padding)

    x = random_array(2, size, size, 6)
    return Case(cpu_form, definition, (x, random_array(kernel_size, kernel_size, 6, 5)))


def upsampling_case(height, width):
    def definition(x, kernel):
        return plain_convolution(upsample_nearest(x), kernel, 1, (1, 1))

    x = random_array(2, height, width, 6)
    return Case(upsampled_convolution, definition, (x, random_array(3, 3, 6, 5)))


def split_case():
    def cpu_form(x, kernel):
        return split_convolution(x, kernel, (1, 1))

    def definition(x, kernel):
        return plain_convolution(x, kernel, 1, (1, 1))

    return Case(cpu_form, definition, (random_array(8, 32, 32, 2), random_array(3, 3, 2, 160)))


CASES = {
    "attention of 16 tokens": attention_case(2, 16, 3, 8),
    "attention of 144 tokens": attention_case(2, 144, 2, 8),
    "attention of 400 tokens, some heads at a time": attention_case(1, 400, 4, 4),
    "conv 3x3 to 1x1": matmul_case(1, 3, 1, (1, 1)),
    "conv 3x3 to 2x2": matmul_case(2, 3, 1, (1, 1)),
    "conv 3x3 to 4x4": matmul_case(4, 3, 1, (1, 1)),
    "conv 3x3, stride 2, padded after": matmul_case(8, 3, 2, (0, 1)),
    "conv 3x3 with a large result": split_case(),
    "conv 1x1, stride 2": matmul_case(4, 1, 2, (0, 0)),
    "upsampling conv from 3x3": upsampling_case(3, 3),
    "upsampling conv from 8x6": upsampling_case(8, 6),
    "fusion barrier": Case(fusion_barrier, lambda x: x, (random_array(2, 4, 4, 3),)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_second_derivatives(name):
    case = CASES[name]
    inputs = case.inputs
    tangents = tuple(random_array(*x.shape, seed=9) for x in inputs)

    def differentiate(function):
        arguments = tuple(range(len(inputs)))
        gradient = jax.grad(lambda *x: jnp.sin(function(*x)).sum(), argnums=arguments)

        # As arguments: constants would be computed with while it compiles.
        def compute(inputs, tangents):
            second = jax.jvp(gradient, inputs, tangents)[1]
            return function(*inputs), gradient(*inputs), second

        return jax.jit(compute)(inputs, tangents)

    value, gradient, second = differentiate(case.cpu_form)
    expected_value, expected_gradient, expected_second = differentiate(case.definition)
    assert_close(value, expected_value, 1e-5)
    assert_close(gradient, expected_gradient, 1e-4)
    assert_close(second, expected_second, 1e-4)


def test_large_results_are_split_to_a_mebibyte():
    x = random_array(16, 32, 32, 2)
    kernel = random_array(3, 3, 2, 128)
    assert count_parts(x, kernel) == 8
    assert count_parts(x[:8], kernel) == 1
    gradient = jax.grad(lambda kernel: convolve(x, kernel, 1, (1, 1)).sum())
    text = jax.jit(gradient).lower(kernel).as_text()
    assert text.count("stablehlo.convolution") >= 8


@pytest.mark.parametrize(("platform", "loops"), [("cpu", True), ("tpu", False)])
def test_a_cpu_gets_its_form_and_others_the_definition(platform, loops):
    q = random_array(1, 144, 1, 8)
    traced = jax.jit(dot_product_attention).trace(q, q, q)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("while" in text) == loops


def test_long_plain_attention_takes_one_image_at_a_time(monkeypatch):
    q = random_array(2, 32, 3, 8)
    k = random_array(2, 20, 3, 8, seed=1)
    v = random_array(2, 20, 3, 8, seed=2)
    batched, pull_batched = jax.vjp(plain_attention, q, k, v)
    monkeypatch.setattr(attention, "MAX_BATCHED_SCORES", 640)
    mapped, pull_mapped = jax.vjp(plain_attention, q, k, v)
    np.testing.assert_allclose(mapped, batched, atol=1e-6)
    gradients = zip(pull_mapped(batched), pull_batched(batched), strict=True)
    for gradient, expected in gradients:
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_scores_of_bfloat16_are_float32(monkeypatch):
    monkeypatch.setattr(attention, "MAX_BATCHED_SCORES", 640)
    shapes = [(2, 32, 3, 8), (2, 20, 3, 8), (2, 20, 3, 8)]
    qkv = [random_array(*shape).astype(jnp.bfloat16) for shape in shapes]
    jaxpr = str(jax.make_jaxpr(plain_attention)(*qkv)).replace(" ", "")
    assert "f32[3,32,20]" in jaxpr or "f32[1,3,32,20]" in jaxpr
    assert plain_attention(*qkv).dtype == jnp.bfloat16


def test_the_form_of_a_cpu_keeps_large_scores_of_bfloat16():
    """A score of 20 that is rounded to bfloat16's 8 bits would move a weight by 6 %."""
    # Of 16 numbers a head, whose scale of 1/4 is exact.
    q, k, v = (4.0 * random_array(2, 24, 2, 16, seed=i).astype(jnp.bfloat16) for i in range(3))
    expected = plain_attention(*(x.astype(jnp.float32) for x in (q, k, v)))
    mixed = attention._attend_keys_by_queries(q, k, v)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(mixed.astype(jnp.float32), expected, rtol=0.02, atol=0.04)


def lowered_for_cuda(q):
    # A new function, since JAX keeps what it has traced by the function.
    traced = jax.jit(lambda q: dot_product_attention(q, q, q)).trace(q)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_a_gpu_takes_the_fused_attention_of_long_rows_in_bfloat16(monkeypatch):
    def marked(q, k, v):
        return jnp.sin(q)

    long = random_array(1, 128, 2, 8).astype(jnp.bfloat16)
    assert "sine" not in lowered_for_cuda(long)  # where cuDNN is not, it is the definition
    monkeypatch.setattr(attention, "fused_attention", marked)
    assert "sine" in lowered_for_cuda(long)
    assert "sine" not in lowered_for_cuda(long.astype(jnp.float32))
    assert "sine" not in lowered_for_cuda(long[:, :64])
    with tracing_for("cuda"):
        assert "sine" not in lowered_for_cuda(long)
    np.testing.assert_array_equal(
        dot_product_attention(long, long, long), cpu_attention(long, long, long)
    )


def test_a_tpu_takes_the_blockwise_attention_of_long_rows_in_bfloat16():
    def lower(q):
        traced = jax.jit(lambda q: dot_product_attention(q, q, q)).trace(q)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    long = random_array(1, 256, 2, 8).astype(jnp.bfloat16)
    assert "tpu_custom_call" in lower(long)
    assert "tpu_custom_call" not in lower(long.astype(jnp.float32))
    assert "tpu_custom_call" not in lower(long[:, :64])
    with tracing_for("tpu"):
        assert "tpu_custom_call" not in lower(long)


@pytest.mark.slow
def test_the_blockwise_attention_of_tpus_and_its_gradient_are_the_definition():
    # The queries have two blocks, the keys one of another size.
    shapes = [(2, 1024, 2, 8), (2, 384, 2, 8), (2, 384, 2, 8)]
    qkv = [random_array(*shape, seed=i).astype(jnp.bfloat16) for i, shape in enumerate(shapes)]
    cotangent = random_array(*shapes[0], seed=3)
    with pltpu.force_tpu_interpret_mode():
        mixed, pull = jax.vjp(blockwise_attention, *qkv)
        gradients = pull(cotangent.astype(jnp.bfloat16))
    wide = [x.astype(jnp.float32) for x in qkv]
    expected, pull = jax.vjp(plain_attention, *wide)
    assert_close(mixed.astype(jnp.float32), expected, 1e-2)
    for gradient, expected_gradient in zip(gradients, pull(cotangent), strict=True):
        assert_close(gradient.astype(jnp.float32), expected_gradient, 2e-2)


def test_a_gpu_multiplies_where_a_convolution_gives_few_pixels():
    def lower(pixels):
        x = jnp.zeros((1, pixels, pixels, 3))
        traced = jax.jit(convolve, static_argnums=(2, 3)).trace(
            x, jnp.zeros((3, 3, 3, 5)), 1, (1, 1)
        )
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    assert "convolution" not in lower(2)
    assert "convolution" in lower(3)


def test_taps_on_the_padding_are_left_out():
    x = random_array(2, 1, 1, 3)
    kernel = random_array(3, 3, 3, 5)
    expected = (x[:, 0, 0] @ kernel[1, 1])[:, None, None]
    np.testing.assert_allclose(matmul_convolution(x, kernel, 1, (1, 1)), expected, rtol=1e-5)
    gradient = jax.grad(lambda kernel: matmul_convolution(x, kernel, 1, (1, 1)).sum())(kernel)
    assert float(abs(gradient[1, 1]).min()) > 0
    assert float(abs(gradient.at[1, 1].set(0.0)).max()) == 0
