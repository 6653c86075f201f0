"""The CPU's forms compute what the definitions in layers.py compute: values, gradients, and gradients of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import cpu, layers


def rand(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def conv_case(size, kernel, stride, padding, inner=6, outer=5):
    args = (rand(2, size, size, inner), rand(kernel, kernel, inner, outer))
    return (
        lambda x, w: cpu.convolve(x, w, stride, padding),
        lambda x, w: layers._convolve(x, w, stride, padding),
        args,
    )


def doubled(x, kernel):
    return layers._convolve(layers.double(x), kernel, 1, (1, 1))


CASES = {
    "attention of 16 tokens": (
        cpu.attend,
        layers._attend,
        tuple(rand(2, 16, 3, 8, seed=i) for i in range(3)),
    ),
    "attention of 144 tokens": (
        cpu.attend,
        layers._attend,
        tuple(rand(2, 144, 2, 8, seed=i) for i in range(3)),
    ),
    "attention of 400 tokens, some heads at a time": (
        cpu.attend,
        layers._attend,
        tuple(rand(1, 400, 4, 4, seed=i) for i in range(3)),
    ),
    "conv 3x3 to 1x1": conv_case(1, 3, 1, (1, 1)),
    "conv 3x3 to 2x2": conv_case(2, 3, 1, (1, 1)),
    "conv 3x3 to 4x4": conv_case(4, 3, 1, (1, 1)),
    "conv 3x3, stride 2, padded after": conv_case(8, 3, 2, (0, 1)),
    "conv 3x3 with a wide result": (
        lambda x, w: cpu.convolve_wide(x, w, (1, 1)),
        lambda x, w: layers._convolve(x, w, 1, (1, 1)),
        (rand(8, 32, 32, 2), rand(3, 3, 2, 160)),
    ),
    "conv 1x1, stride 2": conv_case(4, 1, 2, (0, 0)),
    "doubling conv from 3x3": (cpu.convolve_doubled, doubled, (rand(2, 3, 3, 6), rand(3, 3, 6, 5))),
    "doubling conv from 8x6": (cpu.convolve_doubled, doubled, (rand(2, 8, 6, 6), rand(3, 3, 6, 5))),
    "the cut before a norm": (cpu.cut, lambda x: x, (rand(2, 4, 4, 3),)),
}


def test_a_wide_result_is_cut_to_a_mebibyte():
    x, kernel = rand(16, 32, 32, 2), rand(3, 3, 2, 128)
    assert cpu.parts(x, kernel) == 8
    assert cpu.parts(x[:8], kernel) == 1
    text = (
        jax.jit(jax.grad(lambda w: layers.convolve(x, w, 1, (1, 1)).sum())).lower(kernel).as_text()
    )
    assert text.count("stablehlo.convolution") >= 8


def close(ours, theirs, tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert float(jnp.abs(a - b).max()) <= tolerance * max(float(jnp.abs(b).max()), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_second_derivatives(name):
    fast, plain, args = CASES[name]
    tangents = tuple(rand(*x.shape, seed=9) for x in args)

    def probes(f):
        gradient = jax.grad(lambda *x: jnp.sin(f(*x)).sum(), argnums=tuple(range(len(args))))
        return jax.jit(lambda: (f(*args), gradient(*args), jax.jvp(gradient, args, tangents)[1]))()

    (value, gradient, second), (value_, gradient_, second_) = probes(fast), probes(plain)
    close(value, value_, 1e-5)
    close(gradient, gradient_, 1e-4)
    close(second, second_, 1e-4)


def test_a_cpu_gets_its_own_forms_and_others_the_definitions():
    q = rand(1, 144, 1, 8)
    for platform, loops in (("cpu", True), ("tpu", False)):
        text = jax.jit(layers.attend).trace(q, q, q).lower(lowering_platforms=(platform,)).as_text()
        assert ("while" in text) == loops


def test_elsewhere_long_attention_takes_one_image_at_a_time(monkeypatch):
    """The same numbers and gradients; the scores, and their softmax, in float32 for bfloat16 too."""
    q, k, v = rand(2, 32, 3, 8), rand(2, 20, 3, 8, seed=1), rand(2, 20, 3, 8, seed=2)
    whole, pull = jax.vjp(layers._attend, q, k, v)
    monkeypatch.setattr(layers, "MANY", 640)
    parts, pull_parts = jax.vjp(layers._attend, q, k, v)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    for one, other in zip(pull_parts(whole), pull(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    halves = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    scores = jax.make_jaxpr(layers._attend)(*halves)
    assert "f32[3,32,20]" in str(scores).replace(" ", "") or "f32[1,3,32,20]" in str(scores)
    assert layers._attend(*halves).dtype == jnp.bfloat16
