"""What a study needs before its first cell: data, weights, a batch that fits, its folder."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from jaxdiff import parallel
from jaxdiff.cells.cell import Cell
from jaxdiff.cells.data import check_training_sets, open_cell_dataset
from jaxdiff.denoiser import abstract_network
from jaxdiff.features import perceptual
from jaxdiff.features.extractors import load_extractor
from jaxdiff.settings import MeasureSettings
from jaxdiff.stage import check_settings
from jaxdiff.study.config import fixed_settings
from jaxdiff.study.grid import count_at_once

log = logging.getLogger(__name__)


def check_study(
    cells: Sequence[Cell], settings: Mapping[str, Any], study_file: epath.Path, data_dir: str = ""
) -> None:
    """Check all that a run of these cells would refuse later; nothing is written.

    Parameters
    ----------
    cells
        The cells that are to be run.
    settings
        The content of study.json.
    study_file
        The path of study.json, which a study that has begun has written.
    data_dir
        Folder of the data as published.

    Raises
    ------
    ValueError
        For the first thing that is missing or does not fit.
    """
    check_settings(study_file, settings, fixed=fixed_settings)
    _check_networks(cells)
    _check_devices(cells, settings.get("parallel", {}).get("cells", 0))
    check_training_sets(cells, data_dir)
    _check_inverted(cells[0], data_dir)
    _check_weights(cells[0].measures)


def _check_networks(cells: Sequence[Cell]) -> None:
    """Check that every network can be built, whose groups and heads must divide its channels."""
    for model, network in {cell.model: cell.network for cell in cells}.items():
        try:
            abstract_network(network)
        except ValueError as error:
            raise ValueError(f"config.models.{model} cannot be built: {error}") from None


def _check_devices(cells: Sequence[Cell], cells_at_once: int) -> None:
    """Check that cells at once have a device each, and that devices can share batches."""
    available = jax.device_count()
    of_models = {cell.model: cell for cell in cells}.values()
    split = [c for c in of_models if count_at_once(c, cells, available, cells_at_once) == 1]
    # Models with the same batches are told once that some devices are idle.
    for cell in {(c.train.batch, c.train.accumulate, c.sample.batch): c for c in split}.values():
        _check_batches(cell)


def _check_batches(cell: Cell) -> None:
    """Check the batches of a cell on all devices; say where one of training leaves some idle."""
    available = jax.device_count()
    train = cell.train
    batch = train.batch // train.accumulate
    used = parallel.global_mesh(batch).size
    try:
        parallel.global_mesh(cell.sample.batch)
    except ValueError as error:
        raise ValueError(f"config.sample.batch: {error}") from None
    if used < available:
        log.warning(
            "%d of %d devices are used: make config.train.batch / accumulate, %d, a multiple of %d "
            "to train on all",
            used,
            available,
            batch,
            available,
        )


def _check_inverted(cell: Cell, data_dir: str) -> None:
    count = cell.measures.inverted
    dataset = open_cell_dataset(cell, data_dir)
    labels = dataset.labels[dataset.pools["held_out"]]
    available = int(sum((labels == label).sum() for label in (cell.majority, cell.minority)))
    if count > available:
        raise ValueError(
            f"config.measures.inverted is {count}; there are only {available} held-out images of "
            "the two classes"
        )


def _check_weights(measures: MeasureSettings) -> None:
    """Open the weights of every network that measures."""
    if measures.lpips != "none":
        perceptual.load(measures.lpips, measures.weights_dir or None)
    for name in measures.spaces:
        load_extractor(name, measures.inception or None)
