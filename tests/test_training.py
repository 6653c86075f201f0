import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from jaxdiff import checkpoints, optimizers, parallel, training
from jaxdiff.datasets import batches as pipeline
from jaxdiff.denoiser import get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.ops.convolution import convolve
from jaxdiff.study.train import training_apply
from jaxdiff.unet import UNet
from tests.conftest import MINIMAL_CONFIG, TINY_CONFIG

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
RULE = optax.flatten(optimizers.make("adamw", 8, learning_rate=1e-3))


APPLY = training_apply(MINIMAL_CONFIG)


@functools.cache
def compiled(devices, k=1, apply=APPLY, accumulate=1, shard=False):
    """The train step as a run has it: compiled once, ahead of time."""
    mesh = parallel.data_mesh(devices)
    options = {
        "prediction": "v",
        "ema": 0.999,
        "seed": 0,
        "accumulate": accumulate,
        "shard_params": shard,
    }
    step = training.make_train_step(apply, RULE, Schedule.linear(100), mesh, **options)
    state = training.init_state(
        get_params(UNet(MINIMAL_CONFIG, rngs=nnx.Rngs(0))), RULE, mesh, shard
    )
    images = jax.ShapeDtypeStruct(
        (k, 8, 8, 8, 1), jnp.uint8, sharding=NamedSharding(mesh, pipeline.STEPS)
    )
    return step.lower(state, images).compile()


def run(minimal_unet, devices=8, k=1, steps=4, state=None, **options):
    mesh = parallel.data_mesh(devices)
    state = state or training.init_state(get_params(minimal_unet), RULE, mesh)
    lines = []
    calls = pipeline.resident(IMAGES, mesh, seed=0, steps=steps, batch=8, k=k)
    for call in training.fit(compiled(devices, k, **options), state, calls, steps=steps):
        lines += call.metrics
    return call.state, lines


def losses(lines):
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def eight(minimal_unet):
    return run(minimal_unet)


def test_every_step_is_reported_once(eight):
    assert [line["step"] for line in eight[1]] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in eight[1])


def test_one_device_computes_what_eight_compute(minimal_unet, eight):
    np.testing.assert_allclose(losses(run(minimal_unet, devices=1)[1]), losses(eight[1]), rtol=1e-4)


def test_a_step_is_one_all_reduce_and_gives_up_its_state(minimal_unet, eight):
    text = compiled(8, 1).as_text()
    reduced = re.findall(r"= (\w+)\[([\d,]*)\]\S* all-reduce\(", text)
    donated = re.search(r"input_output_alias=\{(.*?)\}, entry", text)[1].count("may-alias")
    leaves = len(jax.tree.leaves(eight[0]))
    print(
        f"all-reduces {reduced}; {4 * int(reduced[0][1])} bytes; {donated} of {leaves} arrays of the state are donated"
    )
    count = sum(p.size for p in get_params(minimal_unet).values())
    assert reduced == [("f32", str(count + 1))]  # the gradient, and the loss
    assert donated == leaves
    assert not re.search("all-gather|all-to-all|reduce-scatter|collective-permute", text)


def test_k_steps_in_one_call_are_the_same_steps(minimal_unet, eight):
    np.testing.assert_allclose(losses(run(minimal_unet, k=2)[1]), losses(eight[1]), rtol=1e-4)


def test_a_restored_state_goes_on_bit_for_bit(minimal_unet, eight, tmp_path):
    half, _ = run(minimal_unet, steps=2)
    checkpoints.save(tmp_path, 2, half)
    mesh = parallel.data_mesh(8)
    like = training.init_state(get_params(minimal_unet), RULE, mesh)
    restored = checkpoints.restore(tmp_path, checkpoints.newest(tmp_path), like)
    for ours, theirs in zip(
        jax.tree.leaves(run(minimal_unet, state=restored)[0]),
        jax.tree.leaves(eight[0]),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    ema = checkpoints.restore_part(tmp_path, 2, "ema")
    assert ema.keys() == get_params(minimal_unet).keys()


def test_relative_folders_are_as_good_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save("runs/cell", 1, {"ema": {"a.b": jax.numpy.arange(3.0)}})
    assert checkpoints.newest("runs/cell") == 1
    np.testing.assert_array_equal(
        checkpoints.restore_part("runs/cell", 1, "ema")["a.b"], np.arange(3.0)
    )


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"a": np.arange(step + 4.0)})
    assert checkpoints.steps(tmp_path) == [2, 3]
    for victim in [p for p in (tmp_path / "3").rglob("*") if p.is_file()] + [tmp_path / "3.json"]:
        data = victim.read_bytes()
        flipped = bytearray(data or b"x")
        flipped[len(flipped) // 2] ^= 1
        for harm in (bytes(flipped), data[: len(data) // 2] if len(data) > 1 else b"xy", None):
            caplog.clear()
            victim.unlink()
            if harm is not None:
                victim.write_bytes(harm)
            assert checkpoints.newest(tmp_path) == 2
            assert "step 3" in caplog.text
            assert victim.name in caplog.text or "manifest" in caplog.text
            victim.write_bytes(data)
    assert checkpoints.newest(tmp_path) == 3


def test_steps_are_kept_as_asked():
    keep = checkpoints.Keep(last=1, every=6, log_spaced=2)
    assert sorted(keep(list(range(2, 22, 2)))) == [2, 4, 6, 8, 12, 16, 18, 20]
    assert checkpoints.Keep()([1, 2, 3]) == {2, 3}


def test_batches_are_epochs_of_the_data():
    seen = np.concatenate([pipeline.batch_indices(3, step, 8, 20) for step in range(5)])
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
    assert list(seen[:20]) != list(seen[20:])
    assert list(pipeline.batch_indices(4, 0, 8, 20)) != list(seen[:8])


@pytest.mark.parametrize("k", [1, 2])
def test_streamed_images_are_those_that_lie_on_the_device(k):
    mesh = parallel.data_mesh(8)
    options = {"seed": 3, "steps": 6, "batch": 8, "k": k}
    resident, streamed = (
        list(make(IMAGES, mesh, **options)(2)) for make in (pipeline.resident, pipeline.streamed)
    )
    assert len(resident) == len(streamed) == 4 // k
    for ours, theirs in zip(resident, streamed, strict=True):
        assert ours.sharding == theirs.sharding
        np.testing.assert_array_equal(ours, theirs)


def test_accumulated_gradients_are_the_whole_batchs():
    def linear(params, xt, t, keys):
        return params["scale"] * xt + params["shift"]

    mesh, rule = parallel.data_mesh(2), optax.sgd(0.1)
    images = next(pipeline.resident(IMAGES, mesh, seed=0, steps=1, batch=8, k=1)(0))
    found = []
    for parts in (1, 4):
        options = {"prediction": "v", "ema": 0.5, "seed": 0, "accumulate": parts}
        step = training.make_train_step(linear, rule, Schedule.linear(100), mesh, **options)
        state = training.init_state(
            {"scale": jnp.ones(()), "shift": jnp.zeros((1, 1, 1, 1))}, rule, mesh
        )
        found.append(step(state, images))
    for whole, parts in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_remat_changes_nothing_but_memory(minimal_unet):
    xt, t = jnp.ones((2, 8, 8, 1)), jnp.zeros(2, int)
    kept, recomputed = (
        jax.grad(lambda p, a=a: a(p, xt, t, None).sum())
        for a in (APPLY, training_apply(MINIMAL_CONFIG, remat=True))
    )
    assert str(jax.make_jaxpr(kept)(get_params(minimal_unet))).count("remat") == 0
    assert str(jax.make_jaxpr(recomputed)(get_params(minimal_unet))).count("remat") == 2, (
        "a block each"
    )
    plain, again = (jax.jit(grad)(get_params(minimal_unet)) for grad in (kept, recomputed))
    for name, value in plain.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_weights_statistics_and_softmax_wide(tiny):
    apply, params = training_apply(TINY_CONFIG, "bfloat16"), get_params(tiny)
    xt, t = jnp.ones((2, 8, 8, 1)), jnp.zeros(2, int)
    narrow, wide = (
        jax.jit(lambda p, a=a: a(p, xt, t, None)) for a in (apply, training_apply(TINY_CONFIG))
    )
    jaxpr = str(jax.make_jaxpr(narrow)(params))
    lines = [line for line in jaxpr.splitlines() if " rsqrt " in line or " exp " in line]
    assert len(lines) >= 10
    assert all("f32" in line.split("=")[0] for line in lines if " rsqrt " in line)
    assert any("f32[2,2,16,16]" in line for line in lines if " exp " in line)  # the softmax
    products = [line for line in jaxpr.splitlines() if "conv_general_dilated" in line]
    assert all("bf16" in line.split("=")[0] for line in products)
    assert float(jnp.abs(narrow(params) - wide(params)).max()) < 0.05 * float(
        jnp.abs(wide(params)).max()
    )


def test_flop_of_a_convolution_and_its_gradients():
    def conv(params, xt, t, keys):
        return convolve(xt, params["kernel"], 1, (1, 1))

    kernel = jnp.zeros((3, 3, 4, 8))
    forward = 2 * (30 * 30 * 9 + 4 * 30 * 6 + 4 * 4) * 4 * 8  # taps on the padding are not counted
    found = training.image_flops(conv, {"kernel": kernel}, (32, 32, 4))
    assert 1.9 * forward < found < 2.3 * forward  # the gradient of the kernel, and the value


def test_flipping_mirrors_some_images():
    key, images = jax.random.key(0), jnp.asarray(IMAGES[:8])
    plain, flipped = (
        training.draw_batch(images, key, Schedule.linear(100), flip) for flip in (False, True)
    )
    same = [bool((a == b).all()) for a, b in zip(plain.x0, flipped.x0, strict=True)]
    mirrored = [bool((a[:, ::-1] == b).all()) for a, b in zip(plain.x0, flipped.x0, strict=True)]
    assert 0 < sum(same) < 8
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    np.testing.assert_array_equal(plain.eps, flipped.eps)


@pytest.mark.parametrize(
    ("name", "schedule"), [("adamw", "cosine"), ("lion", "linear"), ("sgd", "constant")]
)
def test_optimizers_descend_and_the_rate_ends_where_it_should(name, schedule):
    rule = optimizers.make(name, 200, learning_rate=0.05, schedule=schedule, weight_decay=0.0)
    x = jnp.array([1.0, -2.0])
    state = rule.init(x)
    for _ in range(200):
        before = x
        updates, state = rule.update(2 * x, state, x)
        x = optax.apply_updates(x, updates)
    assert float(jnp.abs(x).max()) < 0.1
    assert schedule == "constant" or float(jnp.abs(x - before).max()) < 1e-3


def test_k_falls_to_a_divisor():
    assert training.steps_per_call(32, 1000, 500) == 25
    assert training.steps_per_call(32, 7, 500) == 1
    assert training.steps_per_call(1, 64, 64) == 1


def test_ema_starts_fast():
    assert float(training.ema_decay(0, 0.999)) == pytest.approx(0.1)
    assert float(training.ema_decay(10**6, 0.999)) == pytest.approx(0.999)


def test_config_is_hashable():
    assert hash(dataclasses.replace(TINY_CONFIG)) == hash(TINY_CONFIG)
