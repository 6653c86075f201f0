"""A cell's train step: what its settings make of optimizer, batches and first parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from jaxdiff import checkpoints, models, optimizers, training
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets import batches as pipeline
from jaxdiff.datasets.dataset import Split
from jaxdiff.denoiser import Params, abstract_network, build_network, get_params
from jaxdiff.gradients import accumulate_grads, data_parallel_grads, fsdp_grads
from jaxdiff.settings import to_json
from jaxdiff.training_step import (
    Apply,
    TrainState,
    TrainStep,
    diffusion_loss,
    image_flops,
    jit_train_steps,
    network_apply,
)


def build_optimizer(cell: Cell) -> optax.GradientTransformation:
    """The optimizer that the cell asks for."""
    settings = cell.train
    optimizer = optimizers.build_optimizer(
        settings.optimizer,
        settings.steps,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
    )
    if settings.shard_params:
        return optimizer
    # One long vector compiles and runs faster than many arrays, but cannot be sharded.
    return optax.flatten(optimizer)


def build_apply(config: Any, dtype: str = "float32", remat: bool = False) -> Apply:
    """A network as training calls it.

    Parameters
    ----------
    config
        Configuration of the network.
    dtype
        float32 or bfloat16, as in `network_apply`.
    remat
        Recompute each block from its input in the backward pass, to save memory.
    """
    network = abstract_network(config)
    if remat:
        network.remat = True  # only U-Nets do it; others ignore it
    return network_apply(network, dtype, dropout=bool(getattr(config, "dropout", 0)))


def init_params(cell: Cell) -> Params:
    """The parameters before the first step: random by the cell's seed, or of `train.init`."""
    init = cell.train.init
    # On the host, since the parameters need not fit on one device.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        if init:
            return get_params(models.load(init).unet)
        return get_params(build_network(cell.network, nnx.Rngs(cell.seed)))


def choose_steps_per_call(cell: Cell) -> int:
    """K, the train steps of one compiled call.

    By default 1 on a CPU and up to 32 elsewhere. It divides the checkpoints' interval and the
    number of steps, as K changes the bits of a result.
    """
    settings = cell.train
    limit = settings.steps_per_call or training.default_steps_per_call()
    return training.steps_per_call(limit, settings.steps, settings.checkpoint_every)


def build_batches(cell: Cell, split: Split, mesh: Mesh) -> pipeline.Calls:
    """The cell's batches, in calls of K steps.

    Parameters
    ----------
    cell
        The cell.
    split
        Its training images.
    mesh
        The devices.
    """
    settings = cell.train
    options = {
        "seed": cell.seed,
        "steps": settings.steps,
        "batch": settings.batch,
        "k": choose_steps_per_call(cell),
    }
    # Both give the same images; resident ones cost the devices memory and the host no time.
    if len(split) * split[0].nbytes <= settings.resident_mb * 1e6:
        return pipeline.resident(split.images, mesh, **options)
    return pipeline.streamed(split, mesh, **options)


def lower_train_steps(cell: Cell, mesh: Mesh, state: TrainState, k: int) -> jax.stages.Lowered:
    """The cell's call of K train steps, lowered for the mesh's devices.

    Parameters
    ----------
    cell
        The cell.
    mesh
        The devices, which need not be present.
    state
        The state, or its shapes as `state_shapes` returns them.
    k
        Steps of one call.
    """
    settings = cell.train
    schedule = models.build_schedule(to_json(cell.diffusion))
    apply = build_apply(cell.network, settings.dtype, settings.remat)
    prediction: Any = cell.diffusion.prediction
    loss_fn = diffusion_loss(apply, schedule, prediction)
    # Of the target device, which need not be this machine's.
    unroll = mesh.devices.flat[0].platform == "cpu"
    grad_fn = accumulate_grads(jax.value_and_grad(loss_fn), settings.accumulate, unroll=unroll)
    # Each device accumulates its own micro-batches, then all of them average once.
    average_grads = fsdp_grads if settings.shard_params else data_parallel_grads
    train_step = TrainStep(
        grad_fn=average_grads(grad_fn, mesh),
        optimizer=build_optimizer(cell),
        schedule=schedule,
        ema=settings.ema,
        seed=cell.seed,
        flip=settings.flip,
    )
    shape = (k, settings.batch, *cell.image_shape)
    sharding = NamedSharding(mesh, pipeline.STEPS)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding)
    return jit_train_steps(train_step, mesh, settings.shard_params).lower(state, images)


def train_step_flops(cell: Cell) -> float:
    """Floating-point operations of one train step of the model, by XLA's cost analysis."""
    shapes = get_params(abstract_network(cell.network))
    per_image = image_flops(build_apply(cell.network), shapes, cell.image_shape)
    return cell.train.batch * per_image


def retention_policy(cell: Cell) -> checkpoints.RetentionPolicy:
    """Which checkpoints the cell keeps."""
    settings = cell.train
    return checkpoints.RetentionPolicy(
        last=settings.keep_last,
        every=settings.keep_every,
        log_spaced=settings.checkpoint_every if settings.keep_log_spaced else 0,
    )
