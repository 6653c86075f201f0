"""A cell's train step: what its settings make of optimizer, batches and first parameters."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from jaxdiff import cell_axis, checkpoints, models, optimizers, parallel, training
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets import batches as pipeline
from jaxdiff.datasets.dataset import Split
from jaxdiff.denoiser import Params, abstract_network, get_params, random_network
from jaxdiff.flops import forward_flops, image_flops
from jaxdiff.gradients import accumulate_grads, data_parallel_grads, fsdp_grads
from jaxdiff.programs import share_programs
from jaxdiff.setting_fields import to_json
from jaxdiff.settings import DiffusionSettings, TrainSettings
from jaxdiff.training_step import (
    Apply,
    TrainState,
    TrainStep,
    build_loss,
    jit_cell_steps,
    jit_train_steps,
    key_shape,
    network_apply,
    state_shapes,
)


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """All that a train step is compiled from: cells that agree in it share one program.

    Parameters
    ----------
    network
        The network's config.
    train, diffusion
        Settings of training and of the forward process.
    image_shape
        Height, width and channels.
    """

    network: Any
    train: TrainSettings
    diffusion: DiffusionSettings
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, cell: Cell) -> "StepSettings":
        """Those of a cell, whose seed and images are arguments of the program."""
        return cls(cell.network, cell.train, cell.diffusion, cell.image_shape)


@share_programs
def build_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """The optimizer that a training asks for."""
    optimizer = optimizers.build_optimizer(
        settings.optimizer,
        settings.steps,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        warmup=settings.warmup,
        warmup_steps=settings.warmup_steps,
        cooldown_steps=settings.cooldown_steps,
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
    # Whether a network of the user's own has a dropout is not known: it gets keys.
    return network_apply(network, dtype, dropout=bool(getattr(config, "dropout", True)))


def init_params(cell: Cell) -> Params:
    """The parameters before the first step: random by the cell's seed, or of `train.init`."""
    init = cell.train.init
    if not init:
        return get_params(random_network(cell.network, cell.seed))
    # On the host, since the parameters need not fit on one device.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return get_params(models.load(init).unet)


def choose_steps_per_call(cell: Cell) -> int:
    """K, the train steps of one compiled call.

    By default 1 on a CPU and up to 32 elsewhere. It divides the checkpoints' interval and the
    number of steps, as K changes the bits of a result.
    """
    settings = cell.train
    limit = settings.steps_per_call or training.default_steps_per_call()
    return training.steps_per_call(limit, settings.steps, settings.checkpoint_every)


def build_batches(cell: Cell, split: Split, mesh: Mesh, end: int | None = None) -> pipeline.Calls:
    """The cell's batches, in calls of K steps.

    Parameters
    ----------
    cell
        The cell.
    split
        Its training images.
    mesh
        The devices, which share each batch.
    end
        The last step; by default that of the training.
    """
    settings = cell.train
    options = {
        "seed": cell.seed,
        "steps": end or settings.steps,
        "batch": settings.batch,
        "k": choose_steps_per_call(cell),
    }
    # Both give the same images; resident ones cost the devices memory and the host no time.
    if len(split) * split[0].nbytes <= settings.resident_mb * 1e6:
        return pipeline.resident(split.images, mesh, **options)
    return pipeline.streamed(split, mesh, **options)


def stack_batches(
    cells: Sequence[Cell], splits: Sequence[Split], mesh: Mesh, end: int
) -> pipeline.Calls:
    """The batches of cells at once, uint8 [cell, K, batch, height, width, channel].

    Parameters
    ----------
    cells, splits
        The cells and their training images.
    mesh
        The mesh that `cell_axis.cell_mesh` returns; each device gets its cell's batches alone.
    end
        The last step.
    """
    devices = list(mesh.devices.flat)
    # Each process reads the images of the cells on its own devices alone.
    here = [i for i, device in enumerate(devices) if device in jax.local_devices()]
    calls_here = [
        build_batches(cells[i], splits[i], parallel.make_mesh([devices[i]]), end) for i in here
    ]

    def calls(start: int) -> Iterator[jax.Array]:
        for batches in zip(*(cell_calls(start) for cell_calls in calls_here), strict=True):
            shape = (len(devices), *batches[0].shape)
            yield jax.make_array_from_single_device_arrays(
                shape, cell_axis.sharding(mesh), [batch[None] for batch in batches]
            )

    return calls


def lower_train_steps(
    settings: StepSettings, mesh: Mesh, state: TrainState, k: int
) -> jax.stages.Lowered:
    """A call of K train steps, lowered for the mesh's devices.

    Parameters
    ----------
    settings
        What to train.
    mesh
        The devices, which need not be present. On the axis `data` they train one cell together, on
        the axis `cell` (`cell_axis`) each its own.
    state
        The state, or its shapes as `step_state_shapes` returns them.
    k
        Steps of one call.
    """
    train = settings.train
    at_once = cell_axis.has_cells(mesh)
    train_step = _build_train_step(settings, mesh, at_once)
    shape = (k, train.batch, *settings.image_shape)
    if at_once:
        images = cell_axis.stack_shapes(jax.ShapeDtypeStruct(shape, jnp.uint8), mesh)
        keys = cell_axis.stack_shapes(key_shape(mesh), mesh)
        return jit_cell_steps(train_step, mesh).lower(state, images, keys)
    sharding = NamedSharding(mesh, pipeline.STEPS)
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=sharding)
    train_steps = jit_train_steps(train_step, mesh, train.shard_params)
    return train_steps.lower(state, images, key_shape(mesh))


def _build_train_step(settings: StepSettings, mesh: Mesh, at_once: bool) -> TrainStep:
    train = settings.train
    schedule = models.build_schedule(to_json(settings.diffusion))
    apply = build_apply(settings.network, train.dtype, train.remat)
    prediction: Any = settings.diffusion.prediction
    loss_fn = build_loss(apply, schedule, prediction)
    # Of the target device, which need not be this machine's.
    unroll = mesh.devices.flat[0].platform == "cpu"
    grad_fn = accumulate_grads(jax.value_and_grad(loss_fn), train.accumulate, unroll=unroll)
    if not at_once:
        # Each device accumulates its own micro-batches, then all of them average once.
        average_grads = fsdp_grads if train.shard_params else data_parallel_grads
        grad_fn = average_grads(grad_fn, mesh)
    return TrainStep(
        grad_fn=grad_fn,
        optimizer=build_optimizer(train),
        schedule=schedule,
        ema=train.ema,
        flip=train.flip,
    )


def step_state_shapes(settings: StepSettings, mesh: Mesh) -> TrainState:
    """Shapes and shardings of the state on a mesh; nothing is allocated."""
    params = get_params(abstract_network(settings.network))
    optimizer = build_optimizer(settings.train)
    shapes = state_shapes(params, optimizer, mesh, settings.train.shard_params)
    at_once = cell_axis.has_cells(mesh)
    return cell_axis.stack_shapes(shapes, mesh) if at_once else shapes


def compiler_options(mesh: Mesh) -> dict[str, str | bool]:
    """XLA's options for the train steps on a mesh's devices."""
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    # Without LLVM's unrolling of loops a step is compiled a little sooner and runs faster: "4" at a
    # quarter of its width by .15 to .2 on two cores of an AMD EPYC, "2" at full width by .03.
    return {"xla_llvm_disable_expensive_passes": True}


@share_programs
def compile_train_steps(settings: StepSettings, mesh: Mesh, k: int) -> jax.stages.Compiled:
    """A call of K train steps; compiled once for all cells with these settings."""
    lowered = lower_train_steps(settings, mesh, step_state_shapes(settings, mesh), k)
    return lowered.compile(compiler_options=compiler_options(mesh))


def compile_cell(cell: Cell, mesh: Mesh) -> jax.stages.Compiled:
    """The call of K train steps that a cell is trained by, on a mesh's devices."""
    return compile_train_steps(StepSettings.of(cell), mesh, choose_steps_per_call(cell))


@share_programs
def train_step_flops(settings: StepSettings) -> float:
    """Floating-point operations of one train step of the model, by XLA's cost analysis."""
    shapes = get_params(abstract_network(settings.network))
    per_image = image_flops(build_apply(settings.network), shapes, settings.image_shape)
    return settings.train.batch * per_image


@share_programs
def network_flops(network: Any, image_shape: tuple[int, int, int]) -> float:
    """Floating-point operations of a network for one image, by XLA's cost analysis."""
    shapes = get_params(abstract_network(network))
    return forward_flops(build_apply(network), shapes, image_shape)


def retention_policy(
    settings: TrainSettings, also: tuple[int, ...] = ()
) -> checkpoints.RetentionPolicy:
    """Which checkpoints a training keeps, with some that others start from."""
    return checkpoints.RetentionPolicy(
        last=settings.keep_last,
        every=settings.keep_every,
        log_spaced=settings.checkpoint_every if settings.keep_log_spaced else 0,
        also=also,
        interval=settings.checkpoint_every,
        end=settings.steps,
    )
