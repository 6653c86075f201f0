"""One train step of a denoiser: its state, its batch, its loss and its jitted form.

The noise of a step is a pure function of (seed, step), so that a run which was interrupted and
resumed sees the same batches as one that was not.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8, UInt32

from jaxdiff import cell_axis, diffusion, parallel, rng
from jaxdiff.datasets.images import to_float
from jaxdiff.denoiser import Params, as_function
from jaxdiff.gradients import GradFn, flat_grads
from jaxdiff.params_layout import ParamsLayout

Apply = Callable[[Params, Array, Array, Array | None], Array]  # params, xt, t, dropout's keys
LossFn = Callable[[Params, "Batch"], Array]

# Numbers that are folded into a step's key. Not 0 or 1: splitting the key in two, as for t and eps,
# may give the keys that folding in 0 and 1 gives.
FLIP_STREAM = 2
DROPOUT_STREAM = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a train step changes.

    The leaves are arrays, or their shapes or shardings where nothing is computed yet.

    Attributes
    ----------
    params
        Parameters by name; one vector where there is a layout.
    ema
        Their exponential moving average, which is what is sampled from.
    opt_state
        The optimizer's state.
    step
        Number of steps done.
    layout
        Where each parameter lies in the vectors `params` and `ema`.
    """

    params: Any
    ema: Any
    opt_state: optax.OptState
    step: Any
    layout: ParamsLayout | None = dataclasses.field(default=None, metadata={"static": True})

    def by_name(self) -> "TrainState":
        """The state with its parameters by name, as it is saved."""
        if self.layout is None:
            return self
        params = _unravel(self.layout, self.params)
        return dataclasses.replace(
            self, params=params, ema=_unravel(self.layout, self.ema), layout=None
        )

    def with_layout(self, layout: ParamsLayout | None) -> "TrainState":
        """The state of `by_name` with vectors of this layout."""
        if layout is None:
            return self
        # Only replicated parameters have a layout (`choose_layout`): they share one sharding.
        sharding = next(iter(self.params.values())).sharding
        ravel = jax.jit(layout.ravel, out_shardings=sharding)
        return dataclasses.replace(
            self, params=ravel(self.params), ema=ravel(self.ema), layout=layout
        )


# Compiled once a layout: a jitted method would be another function at every checkpoint.
@functools.partial(jax.jit, static_argnums=0)
def _unravel(layout: ParamsLayout, vector: Array) -> Params:
    return layout.unravel(vector)


class Batch(NamedTuple):
    """One step's data: clean images, their noise and timesteps, a dropout key each."""

    x0: Float[Array, "batch height width channel"]
    eps: Float[Array, "batch height width channel"]
    t: Int[Array, " batch"]
    keys: Key[Array, " batch"]


def _first_state(
    optimizer: optax.GradientTransformation, layout: ParamsLayout | None, named: Params
) -> TrainState:
    params = named if layout is None else layout.ravel(named)
    return TrainState(
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        layout=layout,
    )


def choose_layout(
    params: Mapping[str, Any], platform: str, shard_params: bool
) -> ParamsLayout | None:
    """The layout of a state on such devices; None where parameters stay arrays by name."""
    # For model "6", the gradient's norm, the optimizer and the EMA launch a thousand kernels where
    # each parameter is an array of its own. A CPU launches none, and the shards of a vector are not
    # those of its parameters.
    if shard_params or platform == "cpu":
        return None
    # Parameters of several types do not fit into one vector.
    is_uniform = len({value.dtype for value in params.values()}) == 1
    return ParamsLayout.of(params) if is_uniform else None


def state_shapes(
    params: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shard_params: bool = False,
) -> TrainState:
    """Shapes and shardings of the first state; nothing is allocated.

    Parameters
    ----------
    params
        Parameters, or their shapes.
    optimizer
        The optimizer.
    mesh
        The devices.
    shard_params
        Whether the state is sharded over the mesh (FSDP) or replicated.
    """
    layout = choose_layout(params, mesh.devices.flat[0].platform, shard_params)
    shapes = jax.eval_shape(functools.partial(_first_state, optimizer, layout), dict(params))
    shardings = parallel.tree_shardings(shapes, mesh, shard_params)

    def with_sharding(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(with_sharding, shapes, shardings)


def init_state(
    params: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shard_params: bool = False,
) -> TrainState:
    """The state before the first step; its arguments are those of `state_shapes`."""
    # By way of the host, so that no device needs to hold all parameters at once.
    on_host = {name: np.asarray(value) for name, value in params.items()}
    shapes = state_shapes(on_host, optimizer, mesh, shard_params)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    values = on_host if shapes.layout is None else shapes.layout.ravel_on_host(on_host)
    on_devices = jax.tree.map(parallel.to_global_array, values, shardings.params)
    # Copied, since the train step donates the state, and a CPU's arrays may share NumPy's memory.
    copies = jax.tree.map(jnp.copy, on_devices)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(copies)
    ema = jax.tree.map(jnp.copy, copies)
    step = jnp.copy(parallel.to_global_array(np.zeros((), np.int32), shardings.step))
    return TrainState(copies, ema, opt_state, step, shapes.layout)


def ema_decay(step: int | Int[Array, ""], decay: float | int) -> Float[Array, ""]:
    """min(decay, (1 + step) / (10 + step)), the decay of the moving average at a step."""
    # A constant decay would make short runs sample from their initialization.
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def draw_batch(
    images: UInt8[Array, "batch height width channel"],
    key: Key[Array, ""],
    schedule: diffusion.Schedule,
    flip: bool,
) -> Batch:
    """Images in [-1, 1], each with its own uniform timestep and Gaussian noise.

    Parameters
    ----------
    images
        Images of the batch.
    key
        Key of the step.
    schedule
        Noise schedule.
    flip
        Mirror half of the images at random.
    """
    # Dropout's keys and the flips are folded in, so that neither changes t and eps.
    key_t, key_eps = jax.random.split(key)
    keys = jax.random.split(jax.random.fold_in(key, DROPOUT_STREAM), len(images))
    t = jax.random.randint(key_t, keys.shape, 0, schedule.steps)
    x0 = to_float(images)
    if flip:
        flip_key = jax.random.fold_in(key, FLIP_STREAM)
        mirrored = jax.random.bernoulli(flip_key, shape=(*keys.shape, 1, 1, 1))
        x0 = jnp.where(mirrored, x0[:, :, ::-1], x0)
    return Batch(x0, rng.normal(key_eps, x0.shape), t, keys)


def network_apply(network: nnx.Module, dtype: str = "float32", dropout: bool = True) -> Apply:
    """A denoiser as training calls it, a pure function of its parameters.

    Parameters
    ----------
    network
        Any network that is called as (xt, t, labels=None, keys=None); it may be abstract.
    dtype
        Type of the images that enter it. With bfloat16, activations and products are bfloat16,
        while parameters, statistics and softmax stay float32.
    dropout
        Whether the network is given the keys of its dropout.
    """
    function = as_function(network)

    def apply(params: Params, xt: Array, t: Array, keys: Array | None) -> Array:
        if dtype != "float32":
            xt = xt.astype(dtype)
        return function(params, xt, t, None, keys if dropout else None)

    return apply


def build_loss(
    apply: Apply, schedule: diffusion.Schedule, prediction: diffusion.Prediction
) -> LossFn:
    """The mean squared error of the network's output, as a function of the parameters.

    Devices and micro-batches average it: weights must not be normalized within a batch.
    """

    def loss_fn(params: Params, batch: Batch) -> Array:
        xt = diffusion.add_noise(schedule, batch.x0, batch.eps, batch.t)
        target = diffusion.target(schedule, prediction, batch.x0, batch.eps, batch.t)
        # The target is float32, and so is the error where the network computes in bfloat16.
        error = apply(params, xt, batch.t, batch.keys) - target
        return jnp.mean(jnp.square(error))

    return loss_fn


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One optimizer step: (state, images, the run's key) -> (state, metrics).

    Parameters
    ----------
    grad_fn
        Loss and gradient of a batch, such as ``data_parallel_grads(jax.value_and_grad(loss_fn),
        mesh)``.
    optimizer
        The optimizer.
    schedule
        Noise schedule of the batches.
    ema
        Largest decay of the parameters' moving average, 0..1.
    flip
        Mirror half of the images at random.
    """

    grad_fn: GradFn
    optimizer: optax.GradientTransformation
    schedule: diffusion.Schedule
    ema: float | int
    flip: bool = False

    def __call__(
        self, state: TrainState, images: Array, key: Key[Array, ""]
    ) -> tuple[TrainState, dict[str, Array]]:
        # The noise depends on the run's key and the step alone, so that a resumed run draws the
        # same. It is drawn for the whole batch, before that is split: any number of devices gets
        # the same.
        batch = draw_batch(images, jax.random.fold_in(key, state.step), self.schedule, self.flip)
        grad_fn = self.grad_fn
        if state.layout is not None:
            grad_fn = flat_grads(grad_fn, state.layout)
        loss, grads = grad_fn(state.params, batch)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step, self.ema)

        def average(old: Array, new: Array) -> Array:
            return decay * old + (1.0 - decay) * new

        ema = jax.tree.map(average, state.ema, params)
        # The norm is that before the optimizer's clipping.
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
        new_state = dataclasses.replace(
            state, params=params, ema=ema, opt_state=opt_state, step=state.step + 1
        )
        return new_state, metrics


def repeat_steps(train_step: TrainStep) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A call of K steps: (state, images, key data) -> (state, metrics).

    The images are uint8 [K, batch, height, width, channel], the key data those of `key_data`, the
    metrics [K]. The seed is an argument, so that the runs of all seeds share a program.
    """

    def run_steps(
        state: TrainState, images: Array, key_data: UInt32[Array, " word"]
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.wrap_key_data(key_data)

        def step(state: TrainState, images: Array) -> tuple[TrainState, dict[str, Array]]:
            return train_step(state, images, key)

        # K = 1 compiles without a loop, which a CPU needs: a weight gradient inside a loop is a
        # hundred times slower there.
        if images.shape[0] > 1:
            return jax.lax.scan(step, state, images)
        state, metrics = step(state, images[0])
        return state, jax.tree.map(lambda value: value[None], metrics)

    return run_steps


def jit_train_steps(
    train_step: TrainStep, mesh: Mesh, shard_params: bool = False
) -> jax.stages.Wrapped:
    """The jitted form of `repeat_steps`, which donates the state.

    Parameters
    ----------
    train_step
        One step.
    mesh
        The devices, which share each batch.
    shard_params
        Whether the state is sharded over the mesh (FSDP) or replicated.
    """
    run_steps = repeat_steps(train_step)

    def run_sharded(
        state: TrainState, images: Array, key_data: UInt32[Array, " word"]
    ) -> tuple[TrainState, dict[str, Array]]:
        result = run_steps(state, images, key_data)
        # The compiled call accepts the state in these shardings alone, and donates it.
        shardings = parallel.tree_shardings(result, mesh, shard_params)
        return jax.lax.with_sharding_constraint(result, shardings)

    return jax.jit(run_sharded, donate_argnums=0)


def jit_cell_steps(train_step: TrainStep, mesh: Mesh) -> jax.stages.Wrapped:
    """The jitted form of `repeat_steps` for cells at once, one device per cell (`cell_axis`).

    Parameters
    ----------
    train_step
        One step of a cell, which averages its gradient over no devices.
    mesh
        The mesh that `cell_axis.cell_mesh` returns.
    """
    return jax.jit(cell_axis.map_over_cells(repeat_steps(train_step), mesh), donate_argnums=0)


def key_shape(mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Shape and sharding of what `place_key` returns."""
    data = jax.eval_shape(jax.random.key_data, jax.random.key(0))
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=parallel.replicated(mesh))


def key_data(seed: int) -> UInt32[np.ndarray, " word"]:
    """The key data of a seed, on the host."""
    return np.asarray(jax.random.key_data(jax.random.key(seed)))


def place_key(seed: int, mesh: Mesh) -> UInt32[Array, " word"]:
    """The key data of a seed, on every device."""
    return parallel.to_global_array(key_data(seed), parallel.replicated(mesh))
