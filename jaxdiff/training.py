"""Training: one jitted step over the `data` axis, and a generator that runs it.

The batch of a step and its noise are pure functions of (seed, step), so a run that is stopped and taken up again
sees what the unbroken run would have seen.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdiff import diffusion, parallel
from jaxdiff import rng as random
from jaxdiff.datasets.batches import Calls
from jaxdiff.datasets.images import to_float
from jaxdiff.denoiser import Params
from jaxdiff.parallel import DATA, REPLICATED

Apply = Callable[[Params, Array, Array, Array], Array]  # parameters, xt, t, keys of the dropout
Metrics = dict[str, float | int]
Gradient = Callable[[Params, "Batch"], tuple[Array, Params]]  # the loss, and its gradient


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes: parameters, their moving average, the optimizer's state, the step count.

    Its leaves are arrays; where nothing is computed yet, their shapes or shardings.
    """

    params: dict[str, Any]
    ema: dict[str, Any]
    opt_state: optax.OptState
    step: Any


class Batch(NamedTuple):
    """One step's data: images [batch, height, width, channel], their noise and noise levels, a key each for dropout."""

    x0: Float[Array, "batch height width channel"]
    eps: Float[Array, "batch height width channel"]
    t: Int[Array, " batch"]
    keys: Key[Array, " batch"]


def _begin(optimizer: optax.GradientTransformation, params: dict[str, Any]) -> TrainState:
    """The EMA starts at the parameters."""
    return TrainState(
        params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros((), jnp.int32)
    )


def state_shapes(
    params: dict[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shard_params: bool = False,
) -> TrainState:
    """What `init_state` would give for these parameters (shapes will do): shapes, and where they lie. Nothing is allocated."""
    shapes = jax.eval_shape(functools.partial(_begin, optimizer), params)
    where = parallel.shardings(shapes, mesh, shard_params)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, where
    )


def init_state(
    params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, shard_params: bool = False
) -> TrainState:
    """The state before the first step, replicated over the mesh or split over it.

    The parameters go to the devices by way of the host, so that no device needs to hold them all; they are copied,
    since a train step gives up the state that it is given.
    """
    host = {name: np.asarray(value) for name, value in params.items()}
    where = jax.tree.map(lambda x: x.sharding, state_shapes(host, optimizer, mesh, shard_params))
    placed = {name: parallel.place(value, where.params[name]) for name, value in host.items()}
    return jax.jit(functools.partial(_begin, optimizer), out_shardings=where)(
        jax.tree.map(jnp.copy, placed)
    )


def ema_decay(step: int | Int[Array, ""], decay: float) -> Float[Array, ""]:
    """min(decay, (1 + n) / (10 + n)), or a short run would sample its own initialization."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def draw_batch(
    images: UInt8[Array, "batch height width channel"],
    key: Key[Array, ""],
    schedule: diffusion.Schedule,
    flip: bool,
) -> Batch:
    """The images in [-1, 1], each with its own uniform noise level and Gaussian noise; `flip` mirrors half of them."""
    key_t, key_eps = jax.random.split(key)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(images))
    t = jax.random.randint(key_t, keys.shape, 0, schedule.steps)
    x0 = to_float(images)
    if flip:
        mirrored = jax.random.bernoulli(jax.random.fold_in(key, 2), shape=(*keys.shape, 1, 1, 1))
        x0 = jnp.where(mirrored, x0[:, :, ::-1], x0)
    return Batch(x0, random.normal(key_eps, x0.shape), t, keys)


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, schedule: diffusion.Schedule, mesh: Mesh, *,
    prediction: diffusion.Prediction, ema: float, seed: int, accumulate: int = 1, shard_params: bool = False,
    flip: bool = False,
) -> jax.stages.Wrapped:  # fmt: skip
    """A jitted call of K steps: (state, images uint8 [K, batch, h, w, c]) -> (state, metrics [K]).

    The state is donated. K = 1 compiles without a loop, which a CPU needs (a weight gradient inside a loop is a hundred
    times slower there). accumulate: the batch is taken in so many parts, whose gradients are averaged. shard_params: the
    state is split over the mesh, each step gathers the parameters.
    """

    def loss_of(params: Params, batch: Batch) -> Array:
        xt = diffusion.add_noise(schedule, batch.x0, batch.eps, batch.t)
        wanted = diffusion.target(schedule, prediction, batch.x0, batch.eps, batch.t)
        return diffusion.loss(apply(params, xt, batch.t, batch.keys), wanted)

    value_and_gradient = _accumulated(jax.value_and_grad(loss_of), accumulate, mesh)
    mean_gradient = (_gathered if shard_params else _reduced)(value_and_gradient, mesh)

    def one(state: TrainState, images: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        value, gradient = mean_gradient(state.params, draw_batch(images, key, schedule, flip))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, ema)
        averaged = jax.tree.map(
            lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params
        )
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(params, averaged, opt_state, state.step + 1), metrics

    def call(state: TrainState, images: Array) -> tuple[TrainState, dict[str, Array]]:
        if images.shape[0] == 1:
            state, metrics = one(state, images[0])
            metrics = jax.tree.map(lambda m: m[None], metrics)
        else:
            state, metrics = jax.lax.scan(one, state, images)
        where = parallel.shardings((state, metrics), mesh, shard_params)
        return jax.lax.with_sharding_constraint((state, metrics), where)

    return jax.jit(call, donate_argnums=0)


def _accumulated(value_and_gradient: Gradient, parts: int, mesh: Mesh) -> Gradient:
    """The mean over `parts` interleaved parts of the batch, one after the other (on a CPU without a loop)."""
    if parts == 1:
        return value_and_gradient

    def mean(params: Params, batch: Batch) -> tuple[Array, Params]:
        part = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        zero = jax.tree.map(
            jnp.zeros_like,
            jax.eval_shape(value_and_gradient, params, jax.tree.map(lambda x: x[0], part)),
        )

        def add(total, one):
            return (
                jax.tree.map(jnp.add, total, value_and_gradient(params, one)),
                None,
            )

        total, _ = jax.lax.scan(add, zero, part, unroll=mesh.devices.flat[0].platform == "cpu")
        return jax.tree.map(lambda x: x / parts, total)

    return mean


def _reduced(value_and_gradient: Gradient, mesh: Mesh) -> Gradient:
    """Each device its share of the batch with its own copy of the parameters; one all-reduce a step."""

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(REPLICATED, DATA),
        out_specs=(REPLICATED, REPLICATED),
        check_vma=False,
    )
    def mean(params: Params, batch: Batch) -> tuple[Array, Params]:
        flat, unravel = ravel_pytree(value_and_gradient(params, batch))
        return unravel(jax.lax.pmean(flat, "data"))

    return mean


def _gathered(value_and_gradient: Gradient, mesh: Mesh) -> Gradient:
    """The parameters are gathered from where they lie, and each device gets the sum of its part of the gradient: an all-gather
    and a reduce-scatter each. (The partitioner alone sums the whole gradient on every device; so does libtpu, of square slices.)"""

    def mean(params: Params, batch: Batch) -> tuple[Array, Params]:
        specs = {name: parallel.split(p.shape, mesh).spec for name, p in params.items()}
        axes = {name: tuple(spec).index("data") for name, spec in specs.items() if "data" in spec}

        def local(params: Params, batch: Batch) -> tuple[Array, Params]:
            whole = params | {
                name: jax.lax.all_gather(params[name], "data", axis=i, tiled=True)
                for name, i in axes.items()
            }
            value, gradient = value_and_gradient(whole, batch)
            small, unravel = ravel_pytree(
                (value, {name: g for name, g in gradient.items() if name not in axes})
            )
            value, rest = unravel(jax.lax.pmean(small, "data"))
            scatter = functools.partial(jax.lax.psum_scatter, axis_name="data", tiled=True)
            return value, rest | {
                name: scatter(gradient[name], scatter_dimension=i) / mesh.size
                for name, i in axes.items()
            }

        return jax.shard_map(
            local, mesh=mesh, in_specs=(specs, DATA), out_specs=(REPLICATED, specs), check_vma=False
        )(params, batch)  # fmt: skip

    return mean


def steps_per_call(wanted: int, *intervals: int) -> int:
    """The largest K <= wanted that divides the number of steps and the checkpoint interval."""
    return max(k for k in range(1, wanted + 1) if all(interval % k == 0 for interval in intervals))


def image_flops(apply: Apply, params: dict[str, Any], shape: tuple[int, ...]) -> float:
    """Floating-point operations of the gradient for one image of this shape, by XLA's cost analysis.

    Of the plain definitions in jaxdiff.ops, as other platforms than a CPU run them: loops, which the analysis counts once, and
    activations that are computed again are no part of the model.
    """
    one = (
        jnp.zeros((1, *shape)),
        jnp.zeros((1,), jnp.int32),
        jax.random.split(jax.random.key(0), 1),
    )
    gradient = jax.jit(jax.value_and_grad(lambda p: apply(p, *one).sum()))
    costs = gradient.trace(params).lower(lowering_platforms=("tpu",)).cost_analysis() or {}
    return float(costs.get("flops", 0.0))


class Call(NamedTuple):
    """What is known after a call: the step that it reached, its state, and the metrics that have come in by now.

    The state is given up when the next call is made: save it before. `rest()` waits for the metrics still to come.
    """

    step: int
    state: TrainState
    metrics: list[Metrics]
    rest: Callable[[], list[Metrics]]


def fit(train_step: Callable, state: TrainState, calls: Calls, *, steps: int) -> Iterator[Call]:
    """Train until `steps`, one call after the other.

    Metrics are read one call late, so that the device never waits for them; the last call brings all of them.
    """
    pending: list[tuple[int, dict[str, Array]]] = []

    def take() -> list[Metrics]:
        known = [record for call in pending for record in _records(*call)]
        pending.clear()
        return known

    step = int(state.step)
    for images in calls(step):
        state, metrics = train_step(state, images)
        known = take()
        pending.append((step, metrics))
        step += len(images)
        yield Call(step, state, known + (take() if step == steps else []), take)


def _records(first: int, metrics: dict[str, Array]) -> list[Metrics]:
    columns = {name: np.asarray(values) for name, values in metrics.items()}
    count = len(columns["loss"])
    return [
        {"step": first + i + 1} | {name: float(v[i]) for name, v in columns.items()}
        for i in range(count)
    ]
