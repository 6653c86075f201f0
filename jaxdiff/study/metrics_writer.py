"""The metrics of a training: metrics.jsonl always, and the trackers of config.track."""

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from etils import epath

from jaxdiff import files
from jaxdiff.parallel import is_leader
from jaxdiff.planning.chips import peak_flops
from jaxdiff.trackers import Tracker
from jaxdiff.training import Metrics

BUCKET_WRITE_SECONDS = 30.0  # between writes to a bucket
FINITE = ("loss", "gradient_norm")


def no_trackers(start_step: int, last_step: int) -> Sequence[Tracker]:
    """Nothing beside metrics.jsonl."""
    return ()


class MetricsWriter:
    """Writes one line of metrics every `log_every` steps, and stops a training that diverges.

    A line holds the step, loss and gradient norm (before clipping), images a second in all and a
    device, and the FLOP a second of the model's own arithmetic and its share of the devices'
    peak, where that is known.

    Parameters
    ----------
    folder
        The cell's folder.
    start_step
        Step that the run starts from; lines of later steps are dropped from the file.
    log_every
        Steps between lines.
    batch
        Images of one step.
    step_flops
        Floating-point operations of one step; 0 where unknown.
    num_devices
        Number of devices.
    open_trackers
        Opens what is told every line, given `start_step` and the last step of the file before it
        was cut off; it is called in the process that writes.

    Attributes
    ----------
    last_step
        The last step whose metrics have arrived.
    note
        Loss and speed in words, for the progress line.
    saved_step
        The last checkpoint, which the error of a diverged training names; the caller sets it.
    """

    def __init__(
        self,
        folder: epath.Path,
        start_step: int,
        *,
        log_every: int,
        batch: int,
        step_flops: float | int,
        num_devices: int,
        open_trackers: Callable[[int, int], Sequence[Tracker]] = no_trackers,
    ):
        self.last_step = start_step
        self.saved_step = start_step
        self.note = "compiling"
        self.log_every = log_every
        self.speed = SpeedMeter(start_step, batch, step_flops, num_devices)
        # The other processes have the same metrics.
        self.lines = LineFile(folder / "metrics.jsonl", start_step) if is_leader() else None
        self.trackers: Sequence[Tracker] = ()
        if self.lines is not None:
            self.trackers = open_trackers(start_step, self.lines.last_step)

    def write(self, metrics: Sequence[Metrics]) -> None:
        """Write the records that are due.

        Raises
        ------
        DivergedError
            At the first step whose loss or gradient norm is not finite.
        """
        finite = list(itertools.takewhile(_is_finite, metrics))
        if finite:
            self.last_step = int(finite[-1]["step"])
            self._write_due(finite)
        if len(finite) < len(metrics):
            self._stop(metrics[len(finite)])

    def _write_due(self, metrics: Sequence[Metrics]) -> None:
        # Every record is checked, and one in `log_every` is written.
        due = [record for record in metrics if record["step"] % self.log_every == 0]
        if not due:
            return
        speed = self.speed.measure(self.last_step)
        self.note = f"loss {due[-1]['loss']:.4f}, {speed['images_per_second']:,.0f} images/s"
        records = [record | speed for record in due]
        if self.lines is not None:
            self.lines.append(records)
        for record in records:
            values = {name: value for name, value in record.items() if name != "step"}
            for tracker in self.trackers:
                tracker.log(int(record["step"]), values)

    def flush(self) -> None:
        """Write what waits to be written."""
        if self.lines is not None:
            self.lines.flush()
        for tracker in self.trackers:
            tracker.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        for tracker in self.trackers:
            tracker.close()

    def _stop(self, record: Metrics) -> NoReturn:
        """Raise for the first record that is not finite."""
        self.last_step = int(record["step"])
        # The lines before the divergence are what explains it.
        self.flush()
        name = next(name for name in FINITE if not math.isfinite(record[name]))
        saved = "no checkpoint was saved before it"
        if self.saved_step:
            saved = f"the checkpoint of step {self.saved_step} is valid"
        raise DivergedError(
            f"the {name.replace('_', ' ')} is {record[name]} at step {self.last_step} "
            f"(loss {record['loss']:.4g}); {saved}; choose a lower train.learning_rate or "
            "train.clip, and another --workdir"
        )


def _is_finite(record: Metrics) -> bool:
    return all(math.isfinite(record[name]) for name in FINITE)


class DivergedError(ValueError):
    """A loss or a gradient that is not finite, which ends the training of a cell."""


class SpeedMeter:
    """The speed of a training between two calls of `measure`."""

    def __init__(self, start_step: int, batch: int, step_flops: float | int, num_devices: int):
        self.batch = batch
        self.step_flops = step_flops
        self.num_devices = num_devices
        self.peak_flops = peak_flops()
        self.previous_step = start_step
        self.previous_time = time.time()

    def measure(self, step: int) -> dict[str, float]:
        """Images and FLOP a second since the previous call."""
        time_now = time.time()
        seconds = max(time_now - self.previous_time, 1e-9)
        steps_per_second = (step - self.previous_step) / seconds
        self.previous_step = step
        self.previous_time = time_now
        images = steps_per_second * self.batch
        speed = {
            "images_per_second": round(images, 1),
            "images_per_second_per_device": round(images / self.num_devices, 1),
        }
        flops = steps_per_second * self.step_flops
        if self.step_flops:
            speed["flops_per_second"] = _round_digits(flops)
        if self.step_flops and self.peak_flops:
            speed["share_of_peak"] = _round_digits(flops / (self.peak_flops * self.num_devices))
        return speed


def _round_digits(value: float) -> float:
    """A number to four significant digits."""
    return float(f"{value:.4g}")


class LineFile:
    """A file of JSON lines, cut off after the step that a run resumes from.

    Attributes
    ----------
    last_step
        The last step that it had before it was cut off.

    An object in a bucket cannot grow: it is written as one, every half minute and by `flush`.
    """

    def __init__(self, path: epath.Path, start_step: int):
        self.path = path
        self.in_bucket = files.is_in_bucket(path)
        self.flush_time = time.monotonic()
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        lines = text.splitlines()
        # A process that was killed may have left half a line.
        if lines and not lines[-1].endswith("}"):
            lines.pop()
        steps = [_read_step(path, line) for line in lines]
        self.last_step = max(steps, default=0)
        self.lines = [
            f"{line}\n" for line, step in zip(lines, steps, strict=True) if step <= start_step
        ]
        files.write(path, "".join(self.lines))

    def append(self, records: Sequence[Metrics]) -> None:
        """Add one line per record."""
        lines = [json.dumps(record) + "\n" for record in records]
        if not self.in_bucket:
            with self.path.open("a") as file:
                file.writelines(lines)
            return
        self.lines += lines
        if time.monotonic() - self.flush_time > BUCKET_WRITE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written to a bucket."""
        if self.in_bucket:
            files.write(self.path, "".join(self.lines))
            self.flush_time = time.monotonic()


def _read_step(path: epath.Path, line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} holds a damaged line, {line[:60]!r}; remove that line, or put the file back"
        ) from None
