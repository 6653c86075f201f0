"""Datasets that TensorFlow Datasets has prepared in array_record files, read without TensorFlow.

Where TensorFlow is installed a dataset that is not there yet is downloaded and prepared first.
"""

import functools
import importlib.util
import os
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Int
from tensorflow_datasets.proto import tf_example_pb2

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, DatasetRequest, Image, Source, register_dataset
from jaxdiff.datasets.image_io import DECODING_VERSION, decode_image

PARTITION = ("train", "validation", "test")
RECORDS_AT_ONCE = 1024
HOST = ("storage.googleapis.com", 443)  # where TFDS finds what datasets are made of
DataSource = Any  # TFDS's random-access view of a split


def find_prepared(
    name: str, data_dir: epath.PathLike | None = None
) -> tfds.core.DatasetBuilder | None:
    """The builder of a prepared dataset, in TFDS's own folder or in `data_dir`; None without one.

    Raises
    ------
    ValueError
        Where it is prepared in a format that cannot be read at random.
    """
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, **_folder_option(data_dir))
    except tfds.core.registered.DatasetNotFoundError:
        return None
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise ValueError(
            f"{name} under {builder.data_path} is prepared as {file_format}; prepare it again by "
            f'tfds.builder("{name}", file_format="array_record").download_and_prepare()'
        )
    return builder


def _folder_option(data_dir: epath.PathLike | None) -> dict[str, Any]:
    """TFDS takes its own folder where the argument is absent, and fails where it is None."""
    return {"data_dir": data_dir} if data_dir else {}


@register_dataset("tfds:", argument="NAME")
def open_tfds(request: DatasetRequest) -> Source:
    """A dataset of TFDS whose records hold `image`, and `label` or `attributes` (yes or no each).

    Raises
    ------
    ValueError
        Where it is not prepared and cannot be, or its records hold no image.
    """
    name = request.argument
    builder = find_prepared(name, request.data_dir) or _prepare_now(name, request.data_dir)
    info = builder.info
    if "image" not in info.features:
        raise ValueError(
            f"the records of {name} hold {', '.join(info.features)}; an image is expected"
        )
    # in the order of the partition, whatever the order in which TFDS lists them
    splits = [split for split in PARTITION if split in info.splits]
    splits += [split for split in info.splits if split not in splits]
    folder = os.fspath(builder.data_path)
    lengths = [len(data) for data in _open_splits(folder, tuple(splits))]
    # A path and names can be pickled: each process opens the splits for itself.
    decode = functools.partial(_decode, folder, tuple(splits), name, request.size, request.channels)
    return Source(
        about=f"{sum(lengths):,} images of TFDS's {info.full_name}",
        identity={
            "name": info.full_name,
            "lengths": lengths,
            "records": _list_sizes(folder),
            "decoding": DECODING_VERSION,
            "size": request.size,
            "channels": request.channels,
        },
        length=sum(lengths),
        read_annotations=functools.partial(_read_annotations, name, info.features, folder, splits),
        decode=decode,
    )


def _list_sizes(folder: str) -> dict[str, int]:
    """Bytes of every file, by which a dataset that was built again under its version is another."""
    paths = files.walk(folder)
    return {path.relative_to(folder).as_posix(): files.size(path) for path in paths}


@functools.lru_cache(maxsize=1)
def _open_splits(folder: str, splits: tuple[str, ...]) -> list[DataSource]:
    """The splits of a prepared dataset as data sources, whose images stay encoded."""
    builder = tfds.builder_from_directory(folder)
    # TFDS would decode to its own size and channels; decode_image serves files and records alike
    decoders = {"image": tfds.decode.SkipDecoding()}
    return [builder.as_data_source(split, decoders=decoders) for split in splits]


def _decode(
    folder: str, splits: tuple[str, ...], name: str, size: int, channels: int, index: int
) -> Image:
    row = index
    for data in _open_splits(folder, splits):
        if row < len(data):
            image = bytes(data[row]["image"])
            return decode_image(image, f"image {index} of {name}", size, channels)
        row -= len(data)
    raise IndexError(f"{name} has no image {index}")


def _read_annotations(name: str, features: Any, folder: str, splits: Sequence[str]) -> Annotations:
    data = _open_splits(folder, tuple(splits))
    partition = np.repeat(np.arange(len(splits)), [len(part) for part in data])
    # another publisher's splits have no meaning here
    published = partition if tuple(splits) == PARTITION else None
    if "label" in features:
        label = features["label"]
        if not isinstance(label, tfds.features.ClassLabel):
            raise ValueError(
                f"the label of {name} must be a ClassLabel, got {type(label).__name__}; take its "
                "images as folder:PATH"
            )
        labels = _read_integers(data, ["label"])[:, 0]
        _check_labeled(name, labels, partition, splits)
        return Annotations(labels, tuple(label.names), partition=published)
    # one class, as CelebA has: an attribute of the study's choice makes others
    labels = np.zeros(len(partition), np.int64)
    if "attributes" not in features:
        return Annotations(labels, ("image",), partition=published)
    names = tuple(sorted(features["attributes"]))  # TFDS's order differs from call to call
    values = _read_integers(data, [f"attributes/{name}" for name in names]).astype(bool)
    return Annotations(labels, ("image",), values, names, published)


def _check_labeled(
    name: str,
    labels: Int[np.ndarray, " n"],
    partition: Int[np.ndarray, " n"],
    splits: Sequence[str],
) -> None:
    """Check that no image has TFDS's label of one that has none, -1."""
    for i, split in enumerate(splits):
        count = int((labels[partition == i] < 0).sum())
        if count:
            raise ValueError(
                f"{count:,} images of {name}'s split {split} have no label; take the labeled ones "
                "as folder:PATH"
            )


def _read_integers(data: Sequence[DataSource], keys: Sequence[str]) -> Int[np.ndarray, "n key"]:
    """These integers of every record, straight from its bytes.

    This is seven times as fast as TFDS's own decoding.
    """
    rows = []
    for part in data:
        for first in range(0, len(part), RECORDS_AT_ONCE):
            indices = range(first, min(first + RECORDS_AT_ONCE, len(part)))
            for record in part.data_source.__getitems__(indices):
                feature = tf_example_pb2.Example.FromString(record).features.feature
                rows.append([feature[key].int64_list.value[0] for key in keys])
    return np.array(rows, np.int64).reshape(len(rows), len(keys))


def _prepare_now(name: str, data_dir: epath.PathLike | None) -> tfds.core.DatasetBuilder:
    """Download and prepare where TensorFlow and the network are there.

    Both are asked for first, since TFDS tries for minutes before it gives up.
    """
    remedy = (
        "prepare it where TensorFlow and a network are, by "
        f'tfds.builder("{name}", file_format="array_record").download_and_prepare(), '
        "and name that folder as data_dir; or take its images as folder:PATH"
    )
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"TFDS has not prepared {name} here, and TensorFlow, which that needs, is not "
            f"installed; {remedy}"
        )
    try:
        socket.create_connection(HOST, timeout=3).close()
    except OSError as error:
        raise ValueError(f"{name} cannot be downloaded ({HOST[0]}: {error}); {remedy}") from None
    builder = tfds.builder(name, file_format="array_record", **_folder_option(data_dir))
    builder.download_and_prepare()
    return builder
