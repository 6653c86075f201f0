"""Training a cell: from its data to checkpoints and metrics.jsonl."""

import logging
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from jaxdiff import checkpoints, parallel, timing, training
from jaxdiff.cells import train_step
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets.dataset import Split
from jaxdiff.progress import Progress, no_progress
from jaxdiff.study.metrics_writer import MetricsWriter
from jaxdiff.training import StepOutput
from jaxdiff.training_step import TrainState, init_state, place_key

log = logging.getLogger(__name__)
# The calls that --profile records: the first three hold compilation and warm-up.
FIRST_PROFILED_CALL = 3
LAST_PROFILED_CALL = 8


def train(
    cell: Cell,
    folder: epath.Path,
    split: Split,
    progress: Progress = no_progress,
    profile: epath.Path | None = None,
) -> None:
    """Train a cell to its end from its latest valid checkpoint.

    On SIGTERM the state is saved before the process ends.

    Parameters
    ----------
    cell
        The cell.
    folder
        The cell's folder, which gets checkpoints/ and metrics.jsonl.
    split
        Its training images.
    progress
        Is told how far the training is.
    profile
        Folder for a trace of a few calls; None records none.

    Raises
    ------
    DivergedError
        At a step whose loss or gradient is not finite. The checkpoints before it stay.
    """
    settings = cell.train
    # Devices share a micro-batch, so it is what they must divide.
    mesh = parallel.global_mesh(settings.batch // settings.accumulate)
    state = _load_state(cell, folder, mesh)
    start_step = int(state.step)
    progress("train", start_step, settings.steps, "compiling")
    calls = train_step.build_batches(cell, split, mesh)
    k = train_step.choose_steps_per_call(cell)
    # Compiled ahead of time, so that a step that does not compile fails before metrics.jsonl.
    step_settings = train_step.StepSettings.of(cell)
    compiled = train_step.compile_train_steps(step_settings, mesh, k)
    outputs = training.fit(compiled, state, calls, place_key(cell.seed, mesh))
    if profile is not None:
        outputs = record_profile(outputs, profile)
    writer = MetricsWriter(
        folder,
        start_step,
        log_every=settings.log_every,
        batch=settings.batch,
        step_flops=train_step.train_step_flops(step_settings),
        num_devices=mesh.size,
        tensorboard=settings.tensorboard,
    )
    with Preemption() as preemption:
        _run(cell, folder, outputs, writer=writer, preemption=preemption, progress=progress)
    writer.close()


def _load_state(cell: Cell, folder: epath.Path, mesh: Mesh) -> TrainState:
    """The latest valid checkpoint, or the state before the first step."""
    path = folder / "checkpoints"
    optimizer = train_step.build_optimizer(cell.train)
    shard_params = cell.train.shard_params
    state = init_state(train_step.init_params(cell), optimizer, mesh, shard_params)
    # Only the leader reads the folder, so that all processes agree on the step.
    step = (checkpoints.latest_valid_step(path) or 0) if parallel.is_leader() else 0
    step = int(parallel.broadcast(np.int32(step)))
    if not step:
        return state
    return checkpoints.restore(path, step, state.by_name()).with_layout(state.layout)


def _run(
    cell: Cell,
    folder: epath.Path,
    outputs: Iterator[StepOutput],
    *,
    writer: MetricsWriter,
    preemption: "Preemption",
    progress: Progress,
) -> None:
    """Run the steps: write metrics and checkpoints, until the end or a preemption."""
    settings = cell.train
    policy = train_step.retention_policy(settings)
    for output in outputs:
        writer.write(output.metrics)
        finished = output.step == settings.steps
        preempted = preemption.should_stop(output.step) and not finished
        if preempted or finished or output.step % settings.checkpoint_every == 0:
            # Before saving, so that a state whose loss is not finite is not saved.
            writer.write(output.flush_metrics())
            writer.flush()
            checkpoints.save(folder / "checkpoints", output.step, output.state.by_name(), policy)
            writer.saved_step = output.step
            timing.keep()
        progress("train", writer.last_step, settings.steps, writer.note)
        if preempted:
            log.warning("training is saved at step %d of %d", output.step, settings.steps)
            return


class Preemption:
    """Delays SIGTERM, which clusters send before they take a machine, until training is saved.

    Several processes agree on the step through JAX's own service, which then handles the signal.
    """

    def __enter__(self) -> "Preemption":
        self.requested = False
        # Python allows signal handlers in the main thread alone.
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        self.previous_handler = signal.getsignal(signal.SIGTERM)
        if self.in_main_thread and jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.in_main_thread:
            return
        signal.signal(signal.SIGTERM, self.previous_handler)
        if self.requested:
            signal.raise_signal(signal.SIGTERM)

    def _request(self, *_: object) -> None:
        self.requested = True

    def should_stop(self, step: int) -> bool:
        """Whether to save and stop at this step; the same answer in every process."""
        if jax.process_count() > 1:
            self.requested = multihost.reached_preemption(step)
        return self.requested


def record_profile(outputs: Iterator[StepOutput], folder: epath.Path) -> Iterator[StepOutput]:
    """The same outputs, with a few calls traced for TensorBoard or Perfetto."""
    call = 0
    for call, output in enumerate(outputs):
        if call == FIRST_PROFILED_CALL:
            jax.profiler.start_trace(str(folder))
        yield output
        if call == LAST_PROFILED_CALL:
            break
    if call >= FIRST_PROFILED_CALL:  # a shorter run is recorded to its end
        jax.profiler.stop_trace()
    yield from outputs
