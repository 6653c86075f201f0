"""Trackers: where a cell's curves, samples and results are shown beside its own files.

metrics.jsonl is always written; the trackers of config.track are told the same. What they write is
never read again.
"""

import dataclasses
import importlib.util
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from jaxdiff import files

Row = Mapping[str, str | int | float | None]
ID_FILE = "tracked_run.json"  # in the folder of a cell, so that a resumed run is the same one


@dataclasses.dataclass(frozen=True)
class Run:
    """What a tracker is told of a cell before anything else.

    Parameters
    ----------
    project
        The study's name.
    name
        The cell's name.
    folder
        The cell's folder, where a tracker may write.
    config
        The cell's settings.
    id
        The same whenever the cell's run is resumed, and of no other run.
    step
        The step that it resumes from; 0 for a new one.
    last_step
        The last step that was logged before, which may be later: those between come again.
    """

    project: str
    name: str
    folder: epath.Path
    config: Mapping[str, Any]
    id: str
    step: int = 0
    last_step: int = 0

    @staticmethod
    def read_id(folder: epath.Path) -> str:
        """The id of a cell's run; a new one where its folder has none yet."""
        path = folder / ID_FILE
        if not path.exists():
            files.write_json(path, {"id": uuid.uuid4().hex[:12]})
        return files.read_json(path)["id"]


class Tracker:
    """Shows a run. A subclass takes the `Run`; it needs `log`, and the rest as far as it can."""

    def __init__(self, run: Run):
        raise NotImplementedError

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point per curve, or replace it where the step is not new."""
        raise NotImplementedError

    def log_image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        """Show an image: a grid of samples."""

    def log_table(self, name: str, rows: Sequence[Row]) -> None:
        """Show a table: the cell's results."""

    def flush(self) -> None:
        """Write what waits; the process may end after it."""

    def close(self) -> None:
        """End the run, which may be opened again."""


@dataclasses.dataclass(frozen=True)
class RegisteredTracker:
    """A tracker, and the package that it needs."""

    build: Callable[[Run], Tracker]
    package: str


TRACKERS: dict[str, RegisteredTracker] = {}


def register_tracker(name: str, package: str) -> Callable[[type[Tracker]], type[Tracker]]:
    """Register a tracker.

    Parameters
    ----------
    name
        Its name in config.track.
    package
        The module that it imports, without which it is refused before a study begins.
    """

    def register(tracker: type[Tracker]) -> type[Tracker]:
        TRACKERS[name] = RegisteredTracker(tracker, package)
        return tracker

    return register


def check_trackers(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that is not known, or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            raise ValueError(f"config.track holds {name!r}; choose among {known}")
        package = TRACKERS[name].package
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"config.track holds {name!r}, and {package} is not installed; pip install "
                f"{package}, or leave it out"
            )


def open_trackers(names: Sequence[str], run: Run) -> list[Tracker]:
    """The trackers of config.track, each opened for a run.

    Raises
    ------
    ValueError
        Where one does not open, as a service does to which nobody is logged in.
    """
    opened = []
    for name in names:
        try:
            opened.append(TRACKERS[name].build(run))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"config.track holds {name!r}, which does not open ({reason}); log in, choose its "
                "offline mode, such as WANDB_MODE=offline, or leave it out"
            ) from error
    return opened


@register_tracker("tensorboard", "tensorboardX")
class TensorBoard(Tracker):
    """TensorBoard's event files, in the cell's folder tensorboard/."""

    def __init__(self, run: Run):
        from tensorboardX import SummaryWriter

        # TensorBoard hides what earlier files have from this step on.
        purge_step = run.step + 1 if run.last_step > run.step else None
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge_step)
        text = json.dumps(run.config, indent=1, sort_keys=True)
        self.writer.add_text("config", f"```json\n{text}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def log_image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        self.writer.add_image(name, image, dataformats="HWC")

    def log_table(self, name: str, rows: Sequence[Row]) -> None:
        columns = list(rows[0])
        lines = [columns, ["---"] * len(columns)]
        lines += [[str(row[key]) for key in columns] for row in rows]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self.writer.add_text(name, text)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


@register_tracker("wandb", "wandb")
class WeightsAndBiases(Tracker):
    """Weights & Biases; WANDB_MODE=offline writes into the cell's folder alone."""

    def __init__(self, run: Run):
        self.library, self.run = self._open(run)
        self.last_step = run.last_step

    def _open(self, run: Run) -> tuple[Any, Any]:
        """The package, and its run."""
        import wandb

        opened = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            dir=str(run.folder),
            config=dict(run.config),
            resume="allow",
            reinit="create_new",  # cells that are trained at once are runs of one process
            settings=wandb.Settings(console="off"),  # the progress bar is a terminal's
        )
        return wandb, opened

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self.last_step:  # what is logged stays, and a step cannot be logged twice
            self.run.log(dict(values), step=step)

    def log_image(self, name: str, image: UInt8[np.ndarray, "h w c"]) -> None:
        self.run.log({name: self.library.Image(image.squeeze())})

    def log_table(self, name: str, rows: Sequence[Row]) -> None:
        columns = list(rows[0])
        data = [[row[key] for key in columns] for row in rows]
        self.run.log({name: self.library.Table(columns=columns, data=data)})

    def close(self) -> None:
        self.run.finish()


@register_tracker("trackio", "trackio")
class Trackio(WeightsAndBiases):
    """trackio, which has the interface of Weights & Biases, in the folder TRACKIO_DIR."""

    def _open(self, run: Run) -> tuple[Any, Any]:
        import trackio

        opened = trackio.init(
            project=run.project,
            name=f"{run.name}-{run.id}",  # what it resumes by
            config=dict(run.config),
            resume="allow",
        )
        return trackio, opened
