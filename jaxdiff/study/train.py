"""Training a cell: from its data to checkpoints and metrics.jsonl."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from orbax.checkpoint import multihost

from jaxdiff import checkpoints, models, optimizers, parallel, training
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets import batches as pipeline
from jaxdiff.datasets.registry import Split
from jaxdiff.denoiser import Params, abstract_network, as_function, get_params
from jaxdiff.progress import Progress
from jaxdiff.study.metrics_writer import MetricsLog
from jaxdiff.unet import UNet, UNetConfig

warn = logging.getLogger(__name__)


def train(
    cell: Cell,
    folder: epath.Path,
    split: Split,
    progress: Progress,
    profile: epath.Path | None = None,
) -> None:
    """Train to the end from the newest whole checkpoint; writes checkpoints and metrics.jsonl.

    On SIGTERM it is saved first. Raises ValueError at a step that is not finite, and leaves the checkpoints before it whole.
    """
    s, saved = cell.settings["train"], folder / "checkpoints"
    mesh, rule = parallel.global_mesh(s["batch"] // s["accumulate"]), optimizer(s)
    state = training.init_state(initial(cell), rule, mesh, s["shard_params"])
    start = int(
        parallel.leaders(np.int32((checkpoints.newest(saved) or 0) if parallel.is_leader() else 0))
    )
    if start:
        state = checkpoints.restore(saved, start, state)
    calls, k = batches(cell, split, mesh)
    progress("train", start, s["steps"], "compiling")
    step, flops = _compile(cell, rule, mesh, state, k)
    run = training.fit(step, state, calls, steps=s["steps"])
    if profile is not None:
        run = profiled(run, profile)
    log = MetricsLog(folder, start, s, flops, mesh.size)
    with Preemption() as preemption:
        for call in run:
            log.write(call.metrics)
            progress("train", log.last, s["steps"], log.note)
            stop = preemption.reached(call.step) and call.step < s["steps"]
            if stop or call.step % s["checkpoint_every"] == 0 or call.step == s["steps"]:
                log.write(call.rest())  # a state whose loss is not finite is not saved
                log.flush()
                checkpoints.save(saved, call.step, call.state, keep(s))
                log.saved = call.step
            if stop:
                warn.warning("training is saved at step %d of %d", call.step, s["steps"])
                break
    log.close()


def _compile(
    cell: Cell, rule: optax.GradientTransformation, mesh: Mesh, state: training.TrainState, k: int
) -> tuple[Callable, float]:
    """The compiled train step, and the FLOP of one step of the model (by XLA's cost analysis)."""
    s, data = cell.settings["train"], cell.settings["data"]
    shapes = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in state.params.items()
    }
    image = data["size"], data["size"], data["channels"]
    flops = s["batch"] * training.image_flops(training_apply(cell.unet), shapes, image)
    return lower(cell, rule, mesh, state, k).compile(), flops


def lower(
    cell: Cell, rule: optax.GradientTransformation, mesh: Mesh, state: training.TrainState, k: int
) -> jax.stages.Lowered:
    """The cell's call of K train steps, for the mesh's devices; of the state the shapes are enough (`training.state_shapes`)."""
    s, data = cell.settings["train"], cell.settings["data"]
    step = training.make_train_step(
        training_apply(cell.unet, s["dtype"], s["remat"]), rule, models.schedule(cell.settings["diffusion"]), mesh,
        prediction=cell.settings["diffusion"]["prediction"], ema=s["ema"], seed=cell.seed,
        accumulate=s["accumulate"], shard_params=s["shard_params"], flip=s["flip"],
    )  # fmt: skip
    shape = (k, s["batch"], data["size"], data["size"], data["channels"])
    images = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=NamedSharding(mesh, pipeline.STEPS))
    return step.lower(state, images)


def batches(cell: Cell, split: Split, mesh: Mesh) -> tuple[pipeline.Calls, int]:
    """The cell's calls of K steps, and K: on a CPU 1 unless it is set, elsewhere up to 32."""
    s = cell.settings["train"]
    wanted = s["steps_per_call"] or (1 if jax.default_backend() == "cpu" else 32)
    k = training.steps_per_call(wanted, s["steps"], s["checkpoint_every"])
    options = {"seed": cell.seed, "steps": s["steps"], "batch": s["batch"], "k": k}
    if len(split) * split[0].nbytes <= s["resident_mb"] * 1e6:
        return pipeline.resident(split.images, mesh, **options), k
    return pipeline.streamed(split, mesh, **options), k


def initial(cell: Cell) -> Params:
    """The parameters before the first step, made on the host: by the cell's seed, or those of train.init."""
    init = cell.settings["train"]["init"]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return get_params(
            models.load(init).unet if init else UNet(cell.unet, rngs=nnx.Rngs(cell.seed))
        )


def optimizer(settings: dict[str, Any]) -> optax.GradientTransformation:
    """The optimizer that a cell's `train` section asks for."""
    options = {
        k: settings[k] for k in ("learning_rate", "schedule", "warmup", "weight_decay", "clip")
    }
    rule = optimizers.make(settings["optimizer"], settings["steps"], **options)
    return (
        rule if settings["shard_params"] else optax.flatten(rule)
    )  # one long vector compiles and runs faster


def keep(settings: dict[str, Any]) -> checkpoints.Keep:
    """Which checkpoints stay, as a cell's `train` section asks."""
    spaced = settings["checkpoint_every"] if settings["keep_log_spaced"] else 0
    return checkpoints.Keep(settings["keep_last"], settings["keep_every"], spaced)


def training_apply(
    config: UNetConfig, dtype: str = "float32", remat: bool = False
) -> training.Apply:
    """The U-Net as training calls it; the keys are used where it has dropout.

    dtype bfloat16: activations and products are, while parameters, statistics and softmax stay float32. remat: the
    backward pass computes each block again from its input.
    """
    unet = abstract_network(config)
    unet.remat = remat
    net = as_function(unet)
    cast = (lambda x: x.astype(dtype)) if dtype != "float32" else (lambda x: x)
    return lambda params, xt, t, keys: net(
        params, cast(xt), t, None, keys if config.dropout else None
    )


class Preemption:
    """Holds SIGTERM back, which clusters send before they take a machine away, until training is saved.

    Several processes agree on the step by JAX's own service, which then has the signal.
    """

    def __enter__(self) -> "Preemption":
        self.noticed = False
        self.mine = threading.current_thread() is threading.main_thread()
        self.before = signal.getsignal(signal.SIGTERM)
        if self.mine and jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self.mine:
            signal.signal(signal.SIGTERM, self.before)
            if self.noticed:
                signal.raise_signal(signal.SIGTERM)

    def _notice(self, *_: object) -> None:
        self.noticed = True

    def reached(self, step: int) -> bool:
        """Whether to save and leave at this step; the same answer in every process."""
        if jax.process_count() > 1:
            self.noticed = multihost.reached_preemption(step)
        return self.noticed


def profiled(run: Iterator[training.Call], folder: epath.Path) -> Iterator[training.Call]:
    """The same iterator, with calls 3 to 8 recorded for TensorBoard or Perfetto (after compilation)."""
    i = 0
    for i, call in enumerate(run):
        if i == 3:
            jax.profiler.start_trace(str(folder))
        yield call
        if i == 8:
            break
    if i >= 3:  # a run of fewer calls is recorded to its end
        jax.profiler.stop_trace()
    yield from run
