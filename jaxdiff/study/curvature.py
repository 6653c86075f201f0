"""The curvature of a cell's energy at a few noised images, from files to files."""

from etils import epath

from jaxdiff import files
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import Splits
from jaxdiff.measures import curvature
from jaxdiff.models import Model
from jaxdiff.probe.data import QUERIES, ProbeData
from jaxdiff.progress import Progress
from jaxdiff.study.memorization import unseen


def measure_curvature(
    cell: Cell, folder: epath.Path, splits: Splits, model: Model, progress: Progress
) -> None:
    """Write probe.json (values at single points) and measures/curvature.json (over the points)."""
    num_probe = cell.settings["measures"]["probe"]
    images = unseen(cell, splits()["classifier_test"], max(num_probe, QUERIES))
    data = ProbeData.from_unseen(images, splits()["train"], cell.minority, num_probe)
    readings = curvature.probe_pixels(model, data, progress)
    files.write_json(folder / "probe.json", curvature.to_rows(readings))
    rows = [reading.summarize().to_json() for reading in readings]
    files.write_json(folder / "measures" / "curvature.json", {"curvature": rows})
