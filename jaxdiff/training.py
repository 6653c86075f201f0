"""Training loops: generators over compiled calls of K train steps.

The caller owns logging and checkpoints. `fit_network` trains any network in one call; a study
builds its steps itself and runs them by `fit`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8, UInt32

from jaxdiff import optimizers, parallel
from jaxdiff.datasets import batches as pipeline
from jaxdiff.datasets.batches import Calls
from jaxdiff.datasets.images import to_uint8
from jaxdiff.denoiser import bind_params, get_params
from jaxdiff.diffusion import Prediction, Schedule
from jaxdiff.gradients import data_parallel_grads
from jaxdiff.training_step import (
    TrainState,
    TrainStep,
    build_loss,
    init_state,
    jit_train_steps,
    network_apply,
    place_key,
)

Metrics = dict[str, Any]  # of one step: numbers, or a list of them for cells at once
# K, the train steps of one compiled call: loops are slow on a CPU (see `jit_train_steps`), and
# accelerators need them so that small steps do not wait for the host.
CPU_STEPS_PER_CALL = 1
ACCELERATOR_STEPS_PER_CALL = 32


def default_steps_per_call() -> int:
    """The largest K that suits this machine's devices."""
    on_cpu = jax.default_backend() == "cpu"
    return CPU_STEPS_PER_CALL if on_cpu else ACCELERATOR_STEPS_PER_CALL


def steps_per_call(limit: int, *intervals: int) -> int:
    """The largest K <= limit that divides every interval, such as that of checkpoints."""
    divisors = [k for k in range(1, limit + 1) if all(n % k == 0 for n in intervals)]
    return max(divisors)


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What is known after a call of K train steps.

    Attributes
    ----------
    step
        Number of steps done.
    state
        The state after them. The next call donates it: save it before.
    metrics
        One record a step, of the steps whose metrics have arrived since the last output.
    flush_metrics
        Waits for the metrics that have not arrived yet, and returns them.
    last_metrics
        Metrics of the K steps, on the devices.
    """

    step: int
    state: TrainState
    metrics: list[Metrics]
    flush_metrics: Callable[[], list[Metrics]]
    last_metrics: Mapping[str, Array]

    @property
    def loss(self) -> float:
        """Loss of the last step; waits for it."""
        return float(self.last_metrics["loss"][-1])


def fit(
    train_steps: Callable, state: TrainState, calls: Calls, key_data: UInt32[Array, "*cell word"]
) -> Iterator[StepOutput]:
    """Train until the batches end, and yield after each call.

    Metrics are read one call late, so that the devices never wait for the host: flush those of
    the last output after the loop.

    Parameters
    ----------
    train_steps
        What `jit_train_steps` returns, or its compiled form.
    state
        State to start from; it is donated.
    calls
        Batches of K steps each, from a step on.
    key_data
        Key of the run's noise, as `place_key` returns them.

        For cells at once, all are stacked along a leading axis (`cell_axis`), and every metric is a
        list, one number per cell.
    """
    pending: list[tuple[int, dict[str, Array]]] = []

    def flush_metrics() -> list[Metrics]:
        records = []
        for first_step, metrics in pending:
            records += _to_records(first_step, metrics)
        pending.clear()
        return records

    # One number, or the same one for every cell.
    step = int(np.max(parallel.to_host(state.step)))
    for images in calls(step):
        state, metrics = train_steps(state, images, key_data)
        # These are read while the devices work on the call that was just dispatched.
        arrived = flush_metrics()
        pending.append((step, metrics))
        step += metrics["loss"].shape[-1]
        yield StepOutput(step, state, arrived, flush_metrics, metrics)


def _to_records(first_step: int, metrics: Mapping[str, Array]) -> list[Metrics]:
    """One record a step, of metrics [K], or [cell, K]."""
    columns = {name: parallel.to_host(values) for name, values in metrics.items()}
    records: list[Metrics] = []
    for i in range(columns["loss"].shape[-1]):
        values = {name: column[..., i].tolist() for name, column in columns.items()}
        records.append({"step": first_step + i + 1} | values)
    return records


def metrics_of_cell(record: Metrics, i: int) -> Metrics:
    """The record of cell i, of one that holds a list for cells at once."""
    return {name: value[i] if isinstance(value, list) else value for name, value in record.items()}


@dataclasses.dataclass(frozen=True)
class FitOutput:
    """How far `fit_network` has come.

    Attributes
    ----------
    step
        Number of steps done.
    loss
        Loss of the last step.
    """

    step: int
    loss: float
    _state: TrainState
    _network: nnx.Module

    def ema_network(self) -> nnx.Module:
        """A copy of the network with the moving average of its parameters.

        The next step donates the state that they are read from: call it before asking for the
        next output.
        """
        named = self._state.by_name().ema
        ema = {name: jnp.asarray(parallel.to_host(p)) for name, p in named.items()}
        return bind_params(self._network, ema)


def fit_network(
    network: nnx.Module,
    schedule: Schedule,
    prediction: Prediction,
    images: UInt8[np.ndarray, "n height width channel"]
    | Float[Array | np.ndarray, "n height width channel"],
    *,
    train_steps: int,
    batch: int,
    learning_rate: float | int = 2e-3,
    seed: int = 0,
    ema: float | int = 0.999,
    flip: bool = False,
    output_every: int = 100,
) -> Iterator[FitOutput]:
    """Train a network as a diffusion model on this process's devices.

    The network itself is left as it is: the outputs hold the trained one.

    Parameters
    ----------
    network
        Any network that is called as (xt, t, labels=None, keys=None), without labels.
    schedule
        Noise schedule.
    prediction
        What the network's output stands for: eps, v or x0.
    images
        Training images, uint8, or float in [-1, 1], which are rounded to the 256 levels of
        uint8.
    train_steps
        Number of optimizer steps.
    batch
        Images of one step; the devices that divide it are used.
    learning_rate
        Peak learning rate.
    seed
        Seed of the order of the images and of the noise.
    ema
        Largest decay of the parameters' moving average, 0..1.
    flip
        Mirror half of the images at random.
    output_every
        Steps between outputs; the last step gives one too. Accelerators run as many steps in
        one call as divide this number and `train_steps`, so round numbers are fastest.

    Yields
    ------
    FitOutput
        The step, its loss, and the network with the moving average of its parameters.

    Raises
    ------
    ValueError
        At an output whose loss is not finite.
    """
    pixels = np.asarray(images) if images.dtype == np.uint8 else to_uint8(images)
    mesh = parallel.data_mesh(batch)
    adamw = optimizers.build_optimizer("adamw", train_steps, learning_rate=learning_rate)
    optimizer = optax.flatten(adamw)  # one long vector compiles and runs faster than many arrays
    loss_fn = build_loss(network_apply(network), schedule, prediction)
    train_step = TrainStep(
        grad_fn=data_parallel_grads(jax.value_and_grad(loss_fn), mesh),
        optimizer=optimizer,
        schedule=schedule,
        ema=ema,
        flip=flip,
    )
    # Calls end where outputs are due.
    k = steps_per_call(default_steps_per_call(), train_steps, output_every)
    calls = pipeline.resident(pixels, mesh, seed=seed, steps=train_steps, batch=batch, k=k)
    state = init_state(get_params(network), optimizer, mesh)
    train_calls = jit_train_steps(train_step, mesh)
    for output in fit(train_calls, state, calls, place_key(seed, mesh)):
        if output.step % output_every and output.step != train_steps:
            continue
        _check_finite(output)
        yield FitOutput(output.step, output.loss, output.state, network)


def _check_finite(output: StepOutput) -> None:
    if not np.isfinite(output.loss):
        raise ValueError(
            f"the loss must be finite, got {output.loss} at step {output.step}; "
            "choose a lower learning_rate"
        )
