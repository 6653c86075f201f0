"""Training: one jitted step over the `data` axis, and a generator that runs it.

The batch of a step and its noise are pure functions of (seed, step), so a run that is stopped and taken up again
sees what the unbroken run would have seen.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdiff import diffusion
from jaxdiff.datasets.images import to_float
from jaxdiff.datasets.pipeline import batch_indices
from jaxdiff.parallel import DATA, REPLICATED, replicated
from jaxdiff.unet import Params

Apply = Callable[[Params, Array, Array, Array], Array]  # parameters, xt, t, keys of the dropout
Metrics = dict[str, float | int]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes: parameters, their moving average, the optimizer's state, the step count."""

    params: Params
    ema: Params
    opt_state: optax.OptState
    step: Int[Array, ""]


class Batch(NamedTuple):
    """One step's data: images [batch, height, width, channel], their noise and noise levels, a key each for dropout."""

    x0: Float[Array, "batch height width channel"]
    eps: Float[Array, "batch height width channel"]
    t: Int[Array, " batch"]
    keys: Key[Array, " batch"]


def adamw(
    steps: int, *, learning_rate: float, warmup: float = 0.05, weight_decay: float = 0.01, clip: float = 1.0
) -> optax.GradientTransformation:
    """AdamW after clipping the global norm; the rate rises linearly over the fraction `warmup`, then falls as a cosine."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(1, round(warmup * steps)), max(2, steps))
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(schedule, weight_decay=weight_decay))


def init_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step, replicated over the mesh. The EMA starts at the parameters.

    The parameters are copied, since a train step gives up the state that it is given.
    """
    own, ema = (jax.tree.map(jnp.copy, params) for _ in range(2))
    state = TrainState(own, ema, optimizer.init(own), jnp.zeros((), jnp.int32))
    return jax.device_put(state, replicated(mesh))


def ema_decay(step: int | Int[Array, ""], decay: float) -> Float[Array, ""]:
    """min(decay, (1 + n) / (10 + n)), or a short run would sample its own initialization."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def draw_batch(
    images: UInt8[Array, "n height width channel"], indices: Int[Array, " batch"], key: Key[Array, ""],
    schedule: diffusion.Schedule,
) -> Batch:  # fmt: skip
    """The images at `indices` in [-1, 1], each with its own uniform noise level and Gaussian noise."""
    x0 = to_float(images[indices])
    key_t, key_eps = jax.random.split(key)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(indices))
    t = jax.random.randint(key_t, indices.shape, 0, schedule.steps)
    return Batch(x0, jax.random.normal(key_eps, x0.shape), t, keys)


def make_train_step(
    apply: Apply, optimizer: optax.GradientTransformation, schedule: diffusion.Schedule, mesh: Mesh, *,
    prediction: diffusion.Prediction, ema: float, seed: int,
) -> Callable[[TrainState, Array, Array], tuple[TrainState, dict[str, Array]]]:  # fmt: skip
    """A jitted call of K steps: (state, images uint8 [n,h,w,c], indices int [K, batch]) -> (state, metrics [K]).

    The state is donated. K is the first axis of `indices`; K = 1 compiles without a loop, which a CPU needs (a
    weight gradient inside a loop is a hundred times slower there).
    """

    def loss_of(params: Params, batch: Batch) -> Array:
        xt = diffusion.add_noise(schedule, batch.x0, batch.eps, batch.t)
        wanted = diffusion.target(schedule, prediction, batch.x0, batch.eps, batch.t)
        return diffusion.loss(apply(params, xt, batch.t, batch.keys), wanted)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(REPLICATED, DATA),
        out_specs=(REPLICATED, REPLICATED),
        check_vma=False,
    )
    def mean_gradient(params: Params, batch: Batch) -> tuple[Array, Params]:
        flat, unravel = ravel_pytree(jax.value_and_grad(loss_of)(params, batch))
        return unravel(jax.lax.pmean(flat, "data"))  # one all-reduce a step

    def one(state: TrainState, images: Array, indices: Array) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        value, gradient = mean_gradient(state.params, draw_batch(images, indices, key, schedule))
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, ema)
        averaged = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(params, averaged, opt_state, state.step + 1), metrics

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(replicated(mesh), replicated(mesh)))
    def call(state: TrainState, images: Array, indices: Array) -> tuple[TrainState, dict[str, Array]]:
        if indices.shape[0] == 1:
            state, metrics = one(state, images, indices[0])
            return state, jax.tree.map(lambda m: m[None], metrics)
        return jax.lax.scan(lambda s, i: one(s, images, i), state, indices)

    return call


def steps_per_call(wanted: int, *intervals: int) -> int:
    """The largest K <= wanted that divides the number of steps and the checkpoint interval."""
    return max(k for k in range(1, wanted + 1) if all(interval % k == 0 for interval in intervals))


def fit(
    train_step: Callable, state: TrainState, images: UInt8[np.ndarray, "n height width channel"], mesh: Mesh, *,
    steps: int, batch: int, k: int, seed: int,
) -> Iterator[tuple[TrainState, list[Metrics]]]:  # fmt: skip
    """Train until `steps`; yields after every call the state and the metrics that are known by then.

    Metrics are read one call late, so that the device never waits for them; the last yield brings the rest. The
    state that is yielded is given up when the generator is resumed: save it before.
    """
    resident = jax.device_put(images, replicated(mesh))
    step, pending = int(state.step), None
    while step < steps:
        indices = np.stack([batch_indices(seed, s, batch, len(images)) for s in range(step, step + k)])
        state, metrics = train_step(state, resident, indices)
        ready, pending, step = pending, (step, metrics), step + k
        yield state, [] if ready is None else _records(*ready)
    if pending is not None:
        yield state, _records(*pending)


def _records(first: int, metrics: dict[str, Array]) -> list[Metrics]:
    columns = {name: np.asarray(values) for name, values in metrics.items()}
    count = len(columns["loss"])
    return [{"step": first + i + 1} | {name: float(v[i]) for name, v in columns.items()} for i in range(count)]
