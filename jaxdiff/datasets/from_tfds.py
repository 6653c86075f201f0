"""Datasets that TensorFlow Datasets has prepared in array_record files, read without TensorFlow.

Where TensorFlow is installed a dataset that is not there yet is downloaded and prepared first.
"""

import importlib.util
import socket
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxdiff.datasets.folders import decode
from jaxdiff.datasets.source import Columns, Image, Source

PARTITION = ("train", "validation", "test")
HOST = ("storage.googleapis.com", 443)  # where TFDS finds what datasets are made of


def find(name: str, data_dir: epath.PathLike | None = None) -> tfds.core.DatasetBuilder | None:
    """The builder of a prepared dataset, in TFDS's own folder or in `data_dir`; None where there is none.

    Raises ValueError where it is there in a format that cannot be read at random.
    """
    place: dict[str, Any] = {"data_dir": data_dir} if data_dir else {}
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, **place)
    except tfds.core.registered.DatasetNotFoundError:
        return None
    if builder.info.file_format.value != "array_record":
        raise ValueError(
            f"{name} under {builder.data_path} is prepared as {builder.info.file_format.value}; prepare it again by "
            f'tfds.builder("{name}", file_format="array_record").download_and_prepare()'
        )
    return builder


def from_tfds(name: str, data_dir: epath.PathLike | None, size: int, channels: int) -> Source:
    """A dataset of TFDS whose records hold `image`, and `label` or `attributes` (yes or no each).

    Raises ValueError where it is not prepared and cannot be, or its records hold no image.
    """
    builder = find(name, data_dir) or _prepared_now(name, data_dir)
    features = builder.info.features
    if "image" not in features:
        raise ValueError(f"the records of {name} hold {', '.join(features)}; an image is expected")
    skip = {"image": tfds.decode.SkipDecoding()}
    order = [s for s in PARTITION if s in builder.info.splits]
    order += [s for s in builder.info.splits if s not in order]
    parts = [builder.as_data_source(split, decoders=skip) for split in order]
    firsts = np.cumsum([0, *map(len, parts)])

    def decoded(index: int) -> Image:
        part = int(np.searchsorted(firsts, index, "right")) - 1
        data = parts[part][index - int(firsts[part])]["image"]
        return decode(bytes(data), f"image {index} of {name}", size, channels)

    full, lengths = builder.info.full_name, [len(part) for part in parts]
    identity = {"name": full, "lengths": lengths, "size": size, "channels": channels}
    describe = lambda: _columns(features, parts, order)  # noqa: E731
    return Source(f"{sum(lengths):,} images of TFDS's {full}", identity, sum(lengths), describe, decoded)


def _columns(features: Any, parts: list[Any], order: list[str]) -> Columns:
    rows = [{key: row[key] for key in ("label", "attributes") if key in row} for part in parts for row in part]
    partition = np.repeat(np.arange(len(order)), [len(part) for part in parts])
    known = partition if tuple(order) == PARTITION else None
    if "label" in features:
        names = tuple(features["label"].names)
        return Columns(np.array([int(row["label"]) for row in rows]), names, partition=known)
    if "attributes" not in features:
        return Columns(np.zeros(len(rows), np.int64), ("image",), partition=known)
    names = tuple(sorted(features["attributes"]))  # TFDS gives them in another order each time
    values = np.array([[bool(row["attributes"][name]) for name in names] for row in rows])
    return Columns(np.zeros(len(rows), np.int64), ("image",), values, names, known)


def _prepared_now(name: str, data_dir: epath.PathLike | None) -> tfds.core.DatasetBuilder:
    """Downloads and prepares where TensorFlow and the network are there; else says at once what to do."""
    ways = (
        f'prepare it where TensorFlow and a network are, by tfds.builder("{name}", file_format="array_record")'
        ".download_and_prepare(), and name that folder as data_dir; or take its images as folder:PATH"
    )
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"TFDS has not prepared {name} here, and TensorFlow, which that needs, is not installed; {ways}"
        )
    try:
        socket.create_connection(HOST, timeout=3).close()
    except OSError as error:
        raise ValueError(f"{name} cannot be downloaded ({HOST[0]}: {error}); {ways}") from None
    place: dict[str, Any] = {"data_dir": data_dir} if data_dir else {}
    builder = tfds.builder(name, file_format="array_record", **place)
    builder.download_and_prepare()
    return builder
