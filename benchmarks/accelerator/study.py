"""A study from data to report, beside everything else."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.turns import ROOT, Answer, end_process, signal_process

NICENESS = 15
LAST_SECONDS = 3.0  # of the run, for what is left to be written
CONFIG = "configs/quickstart.py"
TINY_OPTIONS = (
    "--config.train.steps=20",
    "--config.sample.num=16",
    "--config.sample.common=16",
    "--config.classifier.steps=20",
    "--config.measures.queries=0",
    "--config.measures.probe=0",
    "--cells=2-*",
)


class Study:
    """The quickstart by experiments.sweep, in a process that stands back behind all others.

    Parameters
    ----------
    folder
        Where it writes.
    environment
        Of its process.
    lpips_weights
        Folder of AlexNet's LPIPS weights; nothing where LPIPS is left out.
    tiny
        Whether it is a CPU's: one cell, a few steps.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], lpips_weights: str, tiny: bool
    ):
        self._workdir = folder / "study"
        self._log = folder / "study.log"
        self._start = time.monotonic()
        options = ["--config.data.size=32", "--config.measures.spaces=('pixels',)"]
        if lpips_weights:
            weights_dir = os.path.abspath(lpips_weights)
            options.append("--config.measures.lpips=alex")
            options.append(f"--config.measures.weights_dir={weights_dir}")
        else:
            options.append("--config.measures.lpips=none")
        command = [
            *("nice", "-n", str(NICENESS), sys.executable, "-m", "experiments.sweep"),
            *("--config", CONFIG, "--workdir", str(self._workdir)),
            *options,
            *(TINY_OPTIONS if tiny else ()),
        ]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def finish(self, end: float) -> Answer:
        """Wait for the study, end it where time is over, and say what it left."""
        answer: Answer = {}
        try:
            status = self.process.wait(max(end - LAST_SECONDS - time.monotonic(), 0.0))
            answer["status"] = status
        except subprocess.TimeoutExpired:
            answer["missing"] = "stopped at the limit of time"
        answer["seconds"] = time.monotonic() - self._start
        self.close()
        answer["last_lines"] = self._log.read_text(errors="replace").splitlines()[-4:]
        report = self._workdir / "report.html"
        if report.exists():
            answer["report_kilobytes"] = report.stat().st_size // 1024
        return answer | {"cells": self._read_cells()}

    def close(self) -> None:
        """End the process."""
        signal_process(self.process, signal.SIGKILL)
        end_process(self.process, 0.0)

    def _read_cells(self) -> Answer:
        """Training rates of the cells that have begun."""
        cells: Answer = {}
        for path in sorted(self._workdir.glob("cells/*/metrics.jsonl")):
            metrics = [json.loads(line) for line in path.read_text().splitlines()]
            if not metrics:
                continue
            rates = [line["images_per_second"] for line in metrics if "images_per_second" in line]
            last = metrics[-1]
            cells[path.parent.name] = {
                "steps": last["step"],
                "loss": last["loss"],
                "images_per_second": statistics.median(rates) if rates else None,
                "share_of_peak": last.get("share_of_peak"),
            }
        return cells
