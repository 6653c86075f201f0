"""The train step and its loops: devices, calls, accumulation and resumption change nothing."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from jaxdiff import checkpoints, optimizers, parallel, training, training_step
from jaxdiff.cells.train_step import build_apply
from jaxdiff.datasets import batches as pipeline
from jaxdiff.denoiser import get_params
from jaxdiff.diffusion import Schedule
from jaxdiff.gradients import accumulate_grads, data_parallel_grads, fsdp_grads
from jaxdiff.params_layout import ParamsLayout
from jaxdiff.unet import UNet
from tests.conftest import MINIMAL_CONFIG, TINY_CONFIG

BATCH = 8
SCHEDULE = Schedule.linear(100)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
OPTIMIZER = optax.flatten(optimizers.build_optimizer("adamw", 8, learning_rate=1e-3))
APPLY = build_apply(MINIMAL_CONFIG)


def build_train_step(grad_fn, optimizer=OPTIMIZER):
    return training_step.TrainStep(grad_fn, optimizer, SCHEDULE, ema=0.999)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_loss_is_the_mean_squared_error_of_the_closed_form(prediction):
    images, noise = np.random.default_rng(1).normal(size=(2, BATCH, 4, 4, 1))
    t = np.arange(BATCH) * 12
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[t].reshape(-1, 1, 1, 1)
    signal, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    targets = {"eps": noise, "x0": images, "v": signal * noise - sigma * images}
    output = 0.7 * (signal * images + sigma * noise) + t.reshape(-1, 1, 1, 1) / 100
    batch = training_step.Batch(
        jnp.asarray(images, jnp.float32),
        jnp.asarray(noise, jnp.float32),
        jnp.asarray(t),
        jax.random.split(jax.random.key(0), BATCH),
    )

    def network(params, xt, t, keys):
        return params["scale"] * xt + t.reshape(-1, 1, 1, 1) / 100

    loss_fn = training_step.build_loss(network, SCHEDULE, prediction)
    loss = loss_fn({"scale": jnp.float32(0.7)}, batch)
    np.testing.assert_allclose(loss, np.square(output - targets[prediction]).mean(), rtol=1e-5)


@functools.cache
def compile_steps(devices, k):
    """K train steps as a run has them: compiled once, ahead of time."""
    mesh = parallel.data_mesh(devices)
    loss_fn = training_step.build_loss(APPLY, SCHEDULE, "v")
    train_step = build_train_step(data_parallel_grads(jax.value_and_grad(loss_fn), mesh))
    state = training_step.init_state(
        get_params(UNet(MINIMAL_CONFIG, rngs=nnx.Rngs(0))), OPTIMIZER, mesh
    )
    sharding = NamedSharding(mesh, pipeline.STEPS)
    images = jax.ShapeDtypeStruct((k, BATCH, 8, 8, 1), jnp.uint8, sharding=sharding)
    train_steps = training_step.jit_train_steps(train_step, mesh)
    return train_steps.lower(state, images, training_step.key_shape(mesh)).compile()


def run(unet, devices=8, k=1, train_steps=4, state=None):
    """The last state, and the metrics of every step."""
    mesh = parallel.data_mesh(devices)
    state = state or training_step.init_state(get_params(unet), OPTIMIZER, mesh)
    calls = pipeline.resident(IMAGES, mesh, seed=0, steps=train_steps, batch=BATCH, k=k)
    metrics = []
    key_data = training_step.place_key(0, mesh)
    for output in training.fit(compile_steps(devices, k), state, calls, key_data):
        metrics += output.metrics
    metrics += output.flush_metrics()
    return output.state, metrics


def losses(metrics):
    return [record["loss"] for record in metrics]


@pytest.fixture(scope="module")
def eight_devices(minimal_unet):
    return run(minimal_unet)


@pytest.mark.slow
def test_every_step_is_reported_once(eight_devices):
    _, metrics = eight_devices
    assert [record["step"] for record in metrics] == [1, 2, 3, 4]
    assert all(np.isfinite(record["loss"]) for record in metrics)
    assert all(record["gradient_norm"] > 0 for record in metrics)


@pytest.mark.slow
def test_metrics_come_one_call_late(minimal_unet):
    mesh = parallel.data_mesh(8)
    state = training_step.init_state(get_params(minimal_unet), OPTIMIZER, mesh)
    calls = pipeline.resident(IMAGES, mesh, seed=0, steps=3, batch=BATCH, k=1)
    key_data = training_step.place_key(0, mesh)
    for output in training.fit(compile_steps(8, 1), state, calls, key_data):
        arrived = [record["step"] for record in output.metrics]
        assert arrived == ([output.step - 1] if output.step > 1 else [])
    flushed = output.flush_metrics()
    assert [record["step"] for record in flushed] == [3]
    assert flushed[0]["loss"] == output.loss
    assert output.flush_metrics() == []


def test_one_device_computes_what_eight_compute(minimal_unet, eight_devices):
    _, metrics = run(minimal_unet, devices=1)
    np.testing.assert_allclose(losses(metrics), losses(eight_devices[1]), rtol=1e-4)


def test_a_step_is_one_all_reduce_and_donates_its_state(minimal_unet, eight_devices):
    text = compile_steps(8, 1).as_text()
    all_reduces = re.findall(r"= (\w+)\[([\d,]*)\]\S* all-reduce\(", text)
    aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", text)[1]
    count = sum(p.size for p in get_params(minimal_unet).values())
    assert all_reduces == [("f32", str(count + 1))]  # the gradient, and the loss
    assert aliases.count("may-alias") == len(jax.tree.leaves(eight_devices[0]))
    assert not re.search("all-gather|all-to-all|reduce-scatter|collective-permute", text)


@pytest.mark.slow
def test_k_steps_in_one_call_are_the_same_steps(minimal_unet, eight_devices):
    _, metrics = run(minimal_unet, k=2)
    np.testing.assert_allclose(losses(metrics), losses(eight_devices[1]), rtol=1e-4)


def test_a_restored_state_goes_on_bit_for_bit(minimal_unet, eight_devices, tmp_path):
    saved, _ = run(minimal_unet, train_steps=2)
    checkpoints.save(tmp_path, 2, saved)
    like = training_step.init_state(get_params(minimal_unet), OPTIMIZER, parallel.data_mesh(8))
    restored = checkpoints.restore(tmp_path, checkpoints.latest_valid_step(tmp_path), like)
    resumed, _ = run(minimal_unet, state=restored)
    pairs = zip(jax.tree.leaves(resumed), jax.tree.leaves(eight_devices[0]), strict=True)
    for resumed_leaf, unbroken_leaf in pairs:
        np.testing.assert_array_equal(resumed_leaf, unbroken_leaf)
    ema = checkpoints.restore_part(tmp_path, 2, "ema")
    assert ema.keys() == get_params(minimal_unet).keys()


@pytest.fixture
def flat_state(monkeypatch):
    """States as vectors, as accelerators have them."""

    def choose(params, platform, shard_params):
        return ParamsLayout.of(params)

    compile_steps.cache_clear()
    monkeypatch.setattr(training_step, "choose_layout", choose)
    yield
    compile_steps.cache_clear()


def test_a_layout_orders_names_and_keeps_shapes():
    params = {"b": jnp.arange(6.0).reshape(2, 3), "a": jnp.asarray([7.0]), "c": jnp.asarray(8.0)}
    layout = ParamsLayout.of(params)
    vector = layout.ravel(params)
    np.testing.assert_array_equal(vector, [7, 0, 1, 2, 3, 4, 5, 8])
    on_host = layout.ravel_on_host({name: np.asarray(p) for name, p in params.items()})
    np.testing.assert_array_equal(on_host, vector)
    for name, param in layout.unravel(vector).items():
        np.testing.assert_array_equal(param, params[name])


def test_a_flat_state_takes_the_same_steps(minimal_unet, eight_devices, flat_state):
    expected, expected_metrics = eight_devices
    state, metrics = run(minimal_unet)
    assert state.params.shape == (sum(p.size for p in expected.params.values()),)
    assert jax.tree.map(jnp.shape, state.opt_state) == jax.tree.map(jnp.shape, expected.opt_state)
    np.testing.assert_allclose(losses(metrics), losses(expected_metrics), rtol=1e-5)
    named = state.by_name()
    for field in ("params", "ema"):
        for name, value in getattr(expected, field).items():
            np.testing.assert_allclose(getattr(named, field)[name], value, atol=1e-6)


def test_a_flat_state_is_saved_by_name_and_goes_on_bit_for_bit(
    minimal_unet, eight_devices, flat_state, tmp_path
):
    unbroken, _ = run(minimal_unet)
    saved, _ = run(minimal_unet, train_steps=2)
    checkpoints.save(tmp_path, 2, saved.by_name())
    assert checkpoints.restore_part(tmp_path, 2, "ema").keys() == get_params(minimal_unet).keys()
    like = training_step.init_state(get_params(minimal_unet), OPTIMIZER, parallel.data_mesh(8))
    restored = checkpoints.restore(tmp_path, 2, like.by_name()).with_layout(like.layout)
    resumed, _ = run(minimal_unet, state=restored)
    pairs = zip(jax.tree.leaves(resumed), jax.tree.leaves(unbroken), strict=True)
    for resumed_leaf, unbroken_leaf in pairs:
        np.testing.assert_array_equal(resumed_leaf, unbroken_leaf)


def test_a_state_on_accelerators_is_flat_unless_it_is_sharded(minimal_unet):
    params = get_params(minimal_unet)
    assert training_step.choose_layout(params, "gpu", False) == ParamsLayout.of(params)
    assert training_step.choose_layout(params, "gpu", True) is None
    assert training_step.choose_layout(params, "cpu", False) is None
    mixed = params | {"conv_in.bias": params["conv_in.bias"].astype(jnp.bfloat16)}
    assert training_step.choose_layout(mixed, "gpu", False) is None


def test_batches_are_epochs_of_the_data():
    indices = np.concatenate([pipeline.batch_indices(3, step, BATCH, 20) for step in range(5)])
    assert sorted(indices[:20]) == sorted(indices[20:]) == list(range(20))
    assert list(indices[:20]) != list(indices[20:])
    assert list(pipeline.batch_indices(4, 0, BATCH, 20)) != list(indices[:BATCH])


@pytest.mark.parametrize("k", [1, 2])
def test_streamed_batches_are_those_of_resident_images(k):
    mesh = parallel.data_mesh(8)
    options = {"seed": 3, "steps": 6, "batch": BATCH, "k": k}
    resident = list(pipeline.resident(IMAGES, mesh, **options)(2))
    streamed = list(pipeline.streamed(IMAGES, mesh, **options)(2))
    assert len(resident) == len(streamed) == 4 // k
    for resident_batch, streamed_batch in zip(resident, streamed, strict=True):
        assert resident_batch.sharding == streamed_batch.sharding
        np.testing.assert_array_equal(resident_batch, streamed_batch)


def linear_network(params, xt, t, keys):
    return params["scale"] * xt + params["shift"]


def test_accumulated_gradients_are_those_of_the_full_batch():
    mesh = parallel.data_mesh(2)
    optimizer = optax.sgd(0.1)
    images = next(pipeline.resident(IMAGES, mesh, seed=0, steps=1, batch=BATCH, k=1)(0))
    params = {"scale": jnp.ones(()), "shift": jnp.zeros((1, 1, 1, 1))}
    loss_fn = training_step.build_loss(linear_network, SCHEDULE, "v")
    results = []
    for parts in (1, 4):
        grad_fn = accumulate_grads(jax.value_and_grad(loss_fn), parts, unroll=True)
        train_step = build_train_step(data_parallel_grads(grad_fn, mesh), optimizer)
        state = training_step.init_state(params, optimizer, mesh)
        train_steps = training_step.jit_train_steps(train_step, mesh)
        results.append(train_steps(state, images, training_step.place_key(0, mesh)))
    full, accumulated = results
    pairs = zip(jax.tree.leaves(full), jax.tree.leaves(accumulated), strict=True)
    for full_leaf, accumulated_leaf in pairs:
        np.testing.assert_allclose(accumulated_leaf, full_leaf, rtol=1e-5)


def dense_network(params, xt, t, keys):
    return (xt.reshape(len(xt), -1) @ params["kernel"]).reshape(xt.shape) + params["bias"]


def test_fsdp_gradients_are_those_of_replicated_parameters():
    mesh = parallel.data_mesh(BATCH)
    kernel = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    params = {"kernel": kernel, "bias": np.zeros((1, 1, 1, 1), np.float32)}
    batch = training_step.draw_batch(
        jnp.asarray(IMAGES[:BATCH]), jax.random.key(0), SCHEDULE, False
    )
    grad_fn = jax.value_and_grad(training_step.build_loss(dense_network, SCHEDULE, "v"))
    expected_loss, expected_grads = grad_fn(params, batch)
    loss, grads = jax.jit(fsdp_grads(grad_fn, mesh))(params, batch)
    assert grads["kernel"].sharding.spec == parallel.DATA, "each device has a part of it"
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for name, expected in expected_grads.items():
        np.testing.assert_allclose(grads[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_remat_changes_nothing_but_memory(minimal_unet):
    xt = jnp.ones((2, 8, 8, 1))
    t = jnp.zeros(2, int)
    params = get_params(minimal_unet)

    def gradient(apply):
        return jax.grad(lambda params: apply(params, xt, t, None).sum())

    plain = gradient(APPLY)
    recomputed = gradient(build_apply(MINIMAL_CONFIG, remat=True))
    assert str(jax.make_jaxpr(plain)(params)).count("remat") == 0
    assert str(jax.make_jaxpr(recomputed)(params)).count("remat") == 2, "a block each"
    plain_grads = jax.jit(plain)(params)
    recomputed_grads = jax.jit(recomputed)(params)
    for name, value in plain_grads.items():
        np.testing.assert_allclose(recomputed_grads[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_keeps_weights_statistics_and_softmax_wide(tiny):
    params = get_params(tiny)
    xt = jnp.ones((2, 8, 8, 1))
    t = jnp.zeros(2, int)

    def forward(apply):
        return jax.jit(lambda params: apply(params, xt, t, None))

    narrow = forward(build_apply(TINY_CONFIG, "bfloat16"))
    wide = forward(build_apply(TINY_CONFIG))
    jaxpr = str(jax.make_jaxpr(narrow)(params)).splitlines()
    roots = [line for line in jaxpr if " rsqrt " in line]
    exponentials = [line for line in jaxpr if " exp " in line]
    products = [line for line in jaxpr if "conv_general_dilated" in line]
    assert len(roots) + len(exponentials) >= 10
    assert all("f32" in line.split("=")[0] for line in roots)
    assert any("f32[2,2,16,16]" in line for line in exponentials)  # the softmax
    assert all("bf16" in line.split("=")[0] for line in products)
    expected = wide(params)
    largest = float(jnp.abs(expected).max())
    assert float(jnp.abs(narrow(params) - expected).max()) < 0.05 * largest


def test_flipping_mirrors_some_images():
    key = jax.random.key(0)
    images = jnp.asarray(IMAGES[:BATCH])
    plain = training_step.draw_batch(images, key, SCHEDULE, False)
    flipped = training_step.draw_batch(images, key, SCHEDULE, True)
    is_same = (plain.x0 == flipped.x0).all(axis=(1, 2, 3))
    is_mirrored = (plain.x0[:, :, ::-1] == flipped.x0).all(axis=(1, 2, 3))
    assert 0 < int(is_same.sum()) < BATCH
    assert bool((is_same != is_mirrored).all())
    np.testing.assert_array_equal(plain.eps, flipped.eps)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("adamw", "cosine"), ("lion", "linear"), ("sgd", "constant"), ("adamw", "wsd")],
)
def test_optimizers_descend_and_the_rate_ends_where_it_should(name, schedule):
    optimizer = optimizers.build_optimizer(
        name, 200, learning_rate=0.05, schedule=schedule, cooldown_steps=40, weight_decay=0.0
    )
    x = jnp.array([1.0, -2.0])
    state = optimizer.init(x)
    for _ in range(200):
        previous = x
        updates, state = optimizer.update(2 * x, state, x)
        x = optax.apply_updates(x, updates)
    assert float(jnp.abs(x).max()) < 0.1
    assert schedule == "constant" or float(jnp.abs(x - previous).max()) < 1e-3


def test_k_is_a_divisor_of_every_interval():
    assert training.steps_per_call(32, 1000, 500) == 25
    assert training.steps_per_call(32, 7, 500) == 1
    assert training.steps_per_call(1, 64, 64) == 1


def test_ema_starts_fast():
    assert float(training_step.ema_decay(0, 0.999)) == pytest.approx(0.1)
    assert float(training_step.ema_decay(10**6, 0.999)) == pytest.approx(0.999)


class PixelMLP(nnx.Module):
    """A denoiser that is no U-Net: two dense layers over all pixels and the timestep."""

    def __init__(self, size, rngs):
        self.input_shape = (size, size, 1)
        self.num_classes = None
        self.hidden = nnx.Linear(size * size + 1, 64, rngs=rngs)
        self.out = nnx.Linear(64, size * size, rngs=rngs)

    def __call__(self, xt, t, labels=None, keys=None):
        features = jnp.concatenate([xt.reshape(len(xt), -1), t[:, None] / 100.0], axis=1)
        return self.out(nnx.relu(self.hidden(features))).reshape(xt.shape)


@pytest.fixture(scope="module")
def mlp_run():
    """An MLP trained on images of one value, and the outputs of its training."""
    network = PixelMLP(2, nnx.Rngs(0))
    images = np.full((16, 2, 2, 1), 0.5, np.float32)
    options = {"train_steps": 300, "batch": 16, "learning_rate": 1e-2, "ema": 0.9}
    outputs = []
    for output in training.fit_network(network, SCHEDULE, "x0", images, **options):
        outputs.append((output.step, output.loss))
    return network, output, outputs


def test_any_network_can_be_fitted(mlp_run):
    network, output, outputs = mlp_run
    assert [step for step, _ in outputs] == [100, 200, 300]
    assert outputs[-1][1] < 0.05
    trained = output.ema_network()
    assert type(trained) is PixelMLP
    xt = jnp.zeros((4, 2, 2, 1))
    t = jnp.full(4, 50)
    np.testing.assert_allclose(trained(xt, t), 0.5, atol=0.2)
    initial = get_params(PixelMLP(2, nnx.Rngs(0)))
    for name, value in get_params(network).items():
        np.testing.assert_array_equal(value, initial[name])


def test_outputs_come_at_multiples_and_at_the_end():
    network = PixelMLP(2, nnx.Rngs(0))
    images = np.zeros((4, 2, 2, 1), np.uint8)
    options = {"train_steps": 5, "batch": 4, "output_every": 2}
    outputs = training.fit_network(network, SCHEDULE, "x0", images, **options)
    assert [output.step for output in outputs] == [2, 4, 5]


def test_a_loss_that_is_not_finite_stops_the_fit():
    network = PixelMLP(2, nnx.Rngs(0))
    network.out.bias[...] = jnp.full(4, jnp.nan)
    images = np.zeros((4, 2, 2, 1), np.uint8)
    outputs = training.fit_network(network, SCHEDULE, "x0", images, train_steps=1, batch=4)
    with pytest.raises(ValueError, match="the loss must be finite, got nan at step 1"):
        next(outputs)


def test_a_clip_of_0_allows_any_gradient():
    """In place of one that would allow none, and train nothing."""
    params = jnp.ones(3)
    grads = jnp.full(3, 50.0)
    updates = []
    for clip in (0, 1e6):
        optimizer = optimizers.build_optimizer("sgd", 8, learning_rate=1.0, warmup=0.0, clip=clip)
        state = optimizer.init(params)
        for _ in range(2):  # the rate is 0 in the first step
            update, state = optimizer.update(grads, state, params)
        updates.append(np.asarray(update))
    np.testing.assert_array_equal(updates[0], updates[1])
    assert updates[0].min() < -1
