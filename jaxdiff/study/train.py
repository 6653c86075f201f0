"""Training cells: from their data to checkpoints and metrics.jsonl.

A cell is trained on all devices, or several cells at once, a device each.
"""

import itertools
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from jaxdiff import cell_axis, checkpoints, parallel, timing, training, training_step
from jaxdiff.cells import train_step
from jaxdiff.cells.cell import Cell
from jaxdiff.datasets.dataset import Split
from jaxdiff.progress import Progress, no_progress
from jaxdiff.study.metrics_writer import DivergedError, MetricsWriter, no_trackers
from jaxdiff.trackers import Tracker
from jaxdiff.training import Metrics, StepOutput
from jaxdiff.training_step import TrainState, init_state, place_key

log = logging.getLogger(__name__)
# The calls that --profile records: the first three hold compilation and warm-up.
FIRST_PROFILED_CALL = 3
LAST_PROFILED_CALL = 8


class Training:
    """A cell in training: its files, and whether it was given up.

    Parameters
    ----------
    cell
        The cell.
    folder
        The cell's folder, which gets checkpoints/ and metrics.jsonl.
    split
        Its training images.
    open_trackers
        Opens what its metrics are shown by (see `MetricsWriter`).

    Attributes
    ----------
    writer
        Writer of metrics.jsonl, from `open_writer` on.
    error
        Why the training was given up; None where it was not.
    """

    writer: MetricsWriter

    def __init__(
        self,
        cell: Cell,
        folder: epath.Path,
        split: Split,
        open_trackers: Callable[[int, int], Sequence[Tracker]] = no_trackers,
    ):
        self.cell = cell
        self.folder = folder
        self.split = split
        self.open_trackers = open_trackers
        self.error: DivergedError | None = None

    def find_step(self) -> int:
        """The latest valid checkpoint to go on from, the same in every process; 0 before the first.

        Calls of K steps start from a step that K divides, or they would pass by those that are to
        be saved. Others were saved on SIGTERM with another K, as on a CPU.
        """
        path = self.folder / "checkpoints"
        k = train_step.choose_steps_per_call(self.cell)
        # Only the leader reads the folder, so that all processes agree on the step.
        step = (checkpoints.latest_valid_step(path, k) or 0) if parallel.is_leader() else 0
        return int(parallel.broadcast(np.int32(step)))

    def load(self, step: int, mesh: Mesh) -> TrainState:
        """The state of a checkpoint, or of step 0."""
        settings = self.cell.train
        optimizer = train_step.build_optimizer(settings)
        params = train_step.init_params(self.cell)
        state = init_state(params, optimizer, mesh, settings.shard_params)
        if not step:
            return state
        # Saved by name, so that devices with and without a layout read the same checkpoint.
        saved = checkpoints.restore(self.folder / "checkpoints", step, state.by_name())
        return saved.with_layout(state.layout)

    def open_writer(self, step: int, num_devices: int) -> None:
        """Open metrics.jsonl, cut off after a step."""
        settings = self.cell.train
        self.writer = MetricsWriter(
            self.folder,
            step,
            log_every=settings.log_every,
            batch=settings.batch,
            step_flops=train_step.train_step_flops(train_step.StepSettings.of(self.cell)),
            num_devices=num_devices,
            open_trackers=self.open_trackers,
        )

    def write(self, metrics: Sequence[Metrics]) -> None:
        """Write the metrics that are due; a loss that is not finite ends the training."""
        if self.error is None:
            try:
                self.writer.write(metrics)
            except DivergedError as error:
                self.error = error

    def save(self, step: int, state: TrainState) -> None:
        """Save a checkpoint, unless the training was given up."""
        if self.error is None:
            self.writer.flush()
            policy = train_step.retention_policy(self.cell.train, self.cell.branch_steps)
            checkpoints.save(self.folder / "checkpoints", step, state.by_name(), policy)
            self.writer.saved_step = step


def train(
    one: Training, progress: Progress = no_progress, profile: epath.Path | None = None
) -> None:
    """Train a cell to its end from its latest valid checkpoint, on all devices.

    On SIGTERM the state is saved before the process ends.

    Parameters
    ----------
    one
        The cell.
    progress
        Is told how far the training is.
    profile
        Folder for a trace of a few calls; None records none.

    Raises
    ------
    DivergedError
        At a step whose loss or gradient is not finite. The checkpoints before it stay.
    """
    settings = one.cell.train
    # Devices share a micro-batch, so it is what they must divide.
    mesh = parallel.global_mesh(settings.batch // settings.accumulate)
    if mesh.size == 1:
        # By the program of cells at once, whose bits are not quite those of the other one.
        train_at_once([one], progress, profile)
    else:
        _train_together(one, mesh, progress, profile)
    if one.error:
        raise one.error


def _train_together(
    one: Training, mesh: Mesh, progress: Progress, profile: epath.Path | None
) -> None:
    """Train one cell on all devices of a mesh."""
    cell = one.cell
    step = one.find_step()
    state = one.load(step, mesh)
    calls = train_step.build_batches(cell, one.split, mesh)
    progress("train", step, cell.train.steps, "compiling")
    steps = train_step.compile_cell(cell, mesh)
    outputs = training.fit(steps, state, calls, place_key(cell.seed, mesh))
    one.open_writer(step, mesh.size)
    if profile is not None:
        outputs = record_profile(outputs, profile)
    _run([one], outputs, cell.train.steps, lambda state: [state], progress)


def train_at_once(
    trainings: Sequence[Training],
    progress: Progress = no_progress,
    profile: epath.Path | None = None,
) -> None:
    """Train cells that share a program at once, one device per cell.

    Each is trained to its end from its latest valid checkpoint, as `train` would on one device.
    Those that are behind catch up first.

    Parameters
    ----------
    trainings
        At most one a device. Where one diverges its `error` says so, and the others go on.
    progress
        Is told how far the training is.
    profile
        Folder for a trace of a few calls; None records none.
    """
    last = trainings[0].cell.train.steps
    steps = [one.find_step() for one in trainings]
    while min(steps) < last:
        first = min(steps)
        behind = [one for one, step in zip(trainings, steps, strict=True) if step == first]
        end = min((step for step in steps if step > first), default=last)
        if not _train_from(behind, first, end, progress, profile):
            return
        steps = [
            # One that was given up counts as finished.
            last if one.error else max(step, end)
            for one, step in zip(trainings, steps, strict=True)
        ]


def _train_from(
    trainings: Sequence[Training],
    first: int,
    end: int,
    progress: Progress,
    profile: epath.Path | None,
) -> bool:
    """Train cells at once from one step to another; False after a preemption."""
    slots = cell_axis.fill_devices(trainings)
    # Where one cell's state lies when it is read or written, which all processes do together.
    shared = parallel.data_mesh(1)
    if jax.process_count() > 1:
        shared = parallel.make_mesh(jax.devices())
    mesh = cell_axis.cell_mesh(len(slots))
    cells = [one.cell for one in slots]
    state = cell_axis.stack([one.load(first, shared) for one in slots], mesh)
    calls = train_step.stack_batches(cells, [one.split for one in slots], mesh, end)
    key_data = cell_axis.stack([training_step.key_data(cell.seed) for cell in cells], mesh)
    progress("train", first, cells[0].train.steps, "compiling")
    outputs = training.fit(train_step.compile_cell(cells[0], mesh), state, calls, key_data)
    for one in trainings:
        one.open_writer(first, num_devices=1)
    if profile is not None:
        outputs = record_profile(outputs, profile)

    def read_states(state: TrainState) -> Iterator[TrainState]:
        for on_host in cell_axis.unstack(state):
            yield parallel.replicate(on_host, shared)

    return _run(trainings, outputs, end, read_states, progress)


def _run(
    trainings: Sequence[Training],
    outputs: Iterator[StepOutput],
    end: int,
    read_states: Callable[[TrainState], Iterable[TrainState]],
    progress: Progress,
) -> bool:
    """Run the steps: write metrics and checkpoints, until the end or a preemption.

    Parameters
    ----------
    trainings
        The cells, in the order in which an output holds them.
    outputs
        Up to the step `end`.
    read_states
        The state of each cell, of an output's state.
    progress
        Is told how far the training is.

    Returns
    -------
    finished
        False after a preemption.
    """
    settings = trainings[0].cell.train
    preempted = False
    with Preemption() as preemption:
        for output in outputs:
            _write(trainings, output.metrics)
            finished = output.step == end
            preempted = preemption.should_stop() and not finished
            if preempted or finished or output.step % settings.checkpoint_every == 0:
                # Before saving, so that a state whose loss is not finite is not saved.
                _write(trainings, output.flush_metrics())
                # The states of spare devices come last, and are left out.
                for one, state in zip(trainings, read_states(output.state), strict=False):
                    one.save(output.step, state)
                timing.keep()
            going = [one for one in trainings if one.error is None]
            if not going:
                break
            note = going[0].writer.note
            if len(going) > 1:
                note += f" each of {len(going)} cells"
            progress("train", going[0].writer.last_step, settings.steps, note)
            if preempted:
                log.warning("training is saved at step %d of %d", output.step, settings.steps)
                break
        # Here still, since the process ends where the signal is raised again.
        for one in trainings:
            one.writer.close()
    return not preempted


def _write(trainings: Sequence[Training], metrics: Sequence[Metrics]) -> None:
    for i, one in enumerate(trainings):
        one.write([training.metrics_of_cell(record, i) for record in metrics])


class Preemption:
    """Delays SIGTERM, which clusters send before they take a machine, until training is saved.

    Several processes agree on the call to stop at through JAX's own service, which handles the
    signal in all of them from their start on.
    """

    # Calls of `should_stop` in this process, over all trainings. JAX asks for consecutive numbers:
    # processes stop at the one that follows the largest of any of them.
    _calls = itertools.count()

    def __enter__(self) -> "Preemption":
        self.requested = False
        # Python allows signal handlers in the main thread alone.
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        self.handles_signal = self.in_main_thread and jax.process_count() == 1
        # The one that Python knows of; JAX's own is in its place where there are several processes.
        self.previous_handler = signal.getsignal(signal.SIGTERM)
        if self.handles_signal:
            signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles_signal or (self.in_main_thread and self.requested):
            signal.signal(signal.SIGTERM, self.previous_handler)
        if self.in_main_thread and self.requested:
            signal.raise_signal(signal.SIGTERM)

    def _request(self, *_: object) -> None:
        self.requested = True

    def should_stop(self) -> bool:
        """Whether to save and stop now, to be asked after every call of the train steps.

        Returns
        -------
        stop
            The same in every process.
        """
        if jax.process_count() > 1:
            self.requested = multihost.reached_preemption(next(self._calls))
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
