"""The log of a training: metrics.jsonl always, TensorBoard's event file when asked for."""

import json
import math
import time
from typing import Any

from etils import epath

from jaxdiff import files, training
from jaxdiff.parallel import is_leader
from jaxdiff.planning.chips import peak_flops

FLUSH = 30.0  # seconds between writes to a bucket


class MetricsLog:
    """One line each `log_every` steps; lines past the step from which a run goes on are dropped.

    A line holds the step, loss and gradient norm (before clipping), images a second in all and a device, and, of the
    model's own arithmetic, FLOP a second and its share of the devices' peak where that is known. In a bucket, whose objects
    cannot grow, the file is written whole: every half minute, and by `flush`.
    """

    def __init__(
        self,
        folder: epath.Path,
        start: int,
        settings: dict[str, Any],
        step_flops: float,
        devices: int,
    ):
        self.path, self.every, self.batch = (
            folder / "metrics.jsonl",
            settings["log_every"],
            settings["batch"],
        )
        self.step_flops, self.devices, self.peak = step_flops, devices, peak_flops()
        self.last, self.note, self.marked, self.saved = (
            start,
            "compiling",
            (start, time.time()),
            start,
        )
        self.board = (
            _Board(folder / "tensorboard") if settings["tensorboard"] and is_leader() else None
        )
        self.remote, self.flushed = files.is_in_bucket(self.path), time.monotonic()
        if is_leader():
            lines = self.path.read_text().splitlines() if self.path.exists() else []
            self.lines = [
                line + "\n"
                for line in lines
                if line.endswith("}") and json.loads(line)["step"] <= start
            ]
            files.write(self.path, "".join(self.lines))

    def write(self, metrics: list[training.Metrics]) -> None:
        """Append the lines that are due. Raises ValueError at the first step that is not finite."""
        due = []
        for record in metrics:
            self.last = int(record["step"])
            for name in ("loss", "gradient_norm"):
                if not math.isfinite(record[name]):
                    self._stop(name, record)
            if self.last % self.every == 0:
                due.append(record)
        if not due:
            return
        speed = self._speed()
        self.note = f"loss {due[-1]['loss']:.4f}, {speed['images_per_second']:,.0f} images/s"
        if is_leader():
            self._append([json.dumps(record | speed) + "\n" for record in due])
        if self.board is not None:
            self.board.write([record | speed for record in due])

    def _append(self, lines: list[str]) -> None:
        if not self.remote:
            with self.path.open("a") as file:
                file.writelines(lines)
            return
        self.lines += lines
        if time.monotonic() - self.flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written to a bucket."""
        if self.remote and is_leader():
            files.write(self.path, "".join(self.lines))
            self.flushed = time.monotonic()

    def close(self) -> None:
        """Write what is still to be written."""
        self.flush()
        if self.board is not None:
            self.board.close()

    def _speed(self) -> dict[str, float]:
        """Since the last lines."""
        (step, then), now = self.marked, time.time()
        self.marked = (self.last, now)
        steps = (self.last - step) / max(now - then, 1e-9)
        images, flops = steps * self.batch, steps * self.step_flops
        speed = {
            "images_per_second": round(images, 1),
            "images_per_second_per_device": round(images / self.devices, 1),
        }
        if self.step_flops:
            speed["flops_per_second"] = float(f"{flops:.4g}")
        if self.step_flops and self.peak:
            speed["share_of_peak"] = float(f"{flops / (self.peak * self.devices):.4g}")
        return speed

    def _stop(self, name: str, record: training.Metrics) -> None:
        self.flush()
        saved = (
            f"the checkpoint of step {self.saved} is whole"
            if self.saved
            else "no checkpoint was saved before it"
        )
        raise ValueError(
            f"the {name.replace('_', ' ')} is {record[name]} at step {self.last} (loss {record['loss']:.4g}); {saved}; choose a lower "
            "train.learning_rate or train.clip, and another --workdir"
        )


class _Board:
    """TensorBoard's event file. The package is an extra, so it is imported where it is used."""

    def __init__(self, folder: epath.Path):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder))

    def write(self, records: list[dict[str, float]]) -> None:
        """One event a record."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

        for record in records:
            values = [
                summary_pb2.Summary.Value(tag=k, simple_value=v)
                for k, v in record.items()
                if k != "step"
            ]
            event = event_pb2.Event(wall_time=time.time(), step=int(record["step"]))
            event.summary.CopyFrom(summary_pb2.Summary(value=values))
            self.writer.add_event(event)

    def close(self) -> None:
        self.writer.close()
