"""What the trackers of config.track are told of a cell."""

from etils import epath

from jaxdiff import files
from jaxdiff.cells.context import CellContext
from jaxdiff.datasets.images import tile_images
from jaxdiff.results import list_estimates
from jaxdiff.stage import Redo, run_stage
from jaxdiff.trackers import Row, Run, Tracker, open_trackers

SHOWN_SAMPLES = 64
TRACKED = "tracked.json"  # what has been shown of a finished cell


def open_for(context: CellContext, step: int = 0, last_step: int = 0) -> list[Tracker]:
    """The trackers of a cell's run; the steps are those of `jaxdiff.trackers.Run`."""
    if not context.track:
        return []
    run = Run(
        project=context.workdir.resolve().name,
        name=context.cell.name,
        folder=context.folder,
        config=context.cell.to_json(),
        id=Run.read_id(context.folder),
        step=step,
        last_step=last_step,
    )
    return open_trackers(context.track, run)


def track_result(context: CellContext, redo: Redo) -> None:
    """Show samples and results of a finished cell, unless they have been shown."""
    if not context.track:
        return
    result = context.folder / "result.json"
    inputs = {"trackers": context.track, "result": files.sha256(result)}

    def make() -> None:
        grid = tile_images(context.samples[:SHOWN_SAMPLES])
        rows = result_rows(result)
        for tracker in open_for(context):
            tracker.log_image("samples", grid)
            tracker.log_table("results", rows)
            tracker.close()
        files.write_json(context.folder / TRACKED, {"trackers": list(context.track)})

    run_stage(context.folder, "track", inputs, (TRACKED,), make, redo=redo)


def result_rows(path: epath.Path) -> list[Row]:
    """One row per estimate of a result.json."""
    return [
        {
            "measure": section,
            "quantity": estimate.quantity,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
        }
        for section, estimate in list_estimates(files.read_json(path))
    ]
