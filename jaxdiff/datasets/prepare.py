"""Datasets made ready once: images of one size in array_record files, with TFDS's metadata and checksums beside them.

TFDS opens the folder (`tfds.builder_from_directory`) as it opens its own, and reads single images from it without
TensorFlow (`tfds.data_source`). Preparation goes to a folder of another name that is renamed at the end, so that a
prepared dataset is whole or not there.
"""

import dataclasses
import functools
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Int

from jaxdiff import files
from jaxdiff.datasets import record_writer as writing
from jaxdiff.datasets.base import Columns, Image, Images, Source
from jaxdiff.progress import Progress, no_progress

SHARD = 2048  # images a file
SPLIT = "images"
FILES, COLUMNS, MANIFEST = "about.json", "columns.npz", "checksums.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset: a source of images that grain and `streamed` read too."""

    folder: epath.Path
    about: str
    columns: Columns

    @functools.cached_property
    def records(self) -> Sequence[dict[str, np.ndarray]]:
        """TFDS's own data source."""
        return tfds.builder_from_directory(os.fspath(self.folder)).as_data_source(SPLIT)

    def __len__(self) -> int:
        return len(self.columns.labels)

    def __getitem__(self, index: int) -> Image:
        return self.records[index]["image"]

    def read(self, indices: Int[np.ndarray, " n"]) -> Images:
        """These images. (One thread: more of them wait for each other, and read two thirds as much.)"""
        images = np.empty((len(indices), *self[0].shape), np.uint8)
        for place, index in enumerate(indices):
            images[place] = self[int(index)]
        return images


def prepare(
    source: Source, cache: epath.PathLike, name: str, progress: Progress = no_progress
) -> Prepared:
    """The dataset under cache/NAME/FINGERPRINT, made from `source` where it is not there yet.

    A large source is decoded and written by several processes, as many as there are cores. Raises ValueError for an image
    that cannot be decoded; nothing half-written stays.
    """
    folder = epath.Path(cache) / name / files.fingerprint(source.identity)[:16]
    if (folder / MANIFEST).exists():
        return open_prepared(folder)
    _clear(folder)
    making = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}"
    try:
        _write(source, making, name, progress)
        files.write_json(
            making / MANIFEST, files.checksums(making, [path.name for path in files.walk(making)])
        )
        making.rename(folder)
    except OSError:
        if not (folder / MANIFEST).exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return open_prepared(folder)


def open_prepared(folder: epath.PathLike) -> Prepared:
    """A folder that `prepare` made. Raises ValueError where a file is missing or has another length; see `verify`."""
    folder = epath.Path(folder)
    about = files.read_json(folder / FILES)
    for name, length in about["lengths"].items():
        path = folder / name
        if not path.exists() or path.stat().length != length:
            raise ValueError(
                f"{path} is missing or cut short; remove {folder}, and it is prepared again"
            )
    with np.load(folder / COLUMNS, allow_pickle=False) as arrays:
        columns = Columns(arrays["labels"], tuple(about["classes"]), arrays.get("attributes"),
                          tuple(about["attribute_names"]), arrays.get("partition"))  # fmt: skip
    return Prepared(folder, about["about"], columns)


def verify(prepared: Prepared) -> None:
    """Read every byte. Raises ValueError naming the first file that is not what was written."""
    wanted = files.read_json(prepared.folder / MANIFEST)
    for name, digest in wanted.items():
        path = prepared.folder / name
        if not path.exists() or files.sha256(path) != digest:
            raise ValueError(
                f"{path} is damaged (SHA-256 differs); remove {prepared.folder}, and it is prepared again"
            )


def _clear(folder: epath.Path) -> None:
    """Remove what an interrupted preparation on this host has left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.{socket.gethostname()}.*"):
        if not _runs(int(left.name.rpartition(".")[2])):
            shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def _write(source: Source, folder: epath.Path, name: str, progress: Progress) -> None:
    """Every file but the manifest."""
    folder.mkdir(parents=True)
    image = tfds.features.Tensor(
        shape=source.decode(0).shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
    )
    features = tfds.features.FeaturesDict({"image": image})
    parts = [range(len(source))[first : first + SHARD] for first in range(0, len(source), SHARD)]
    template = tfds.core.ShardedFileTemplate(
        folder, split=SPLIT, dataset_name=name, filetype_suffix="array_record"
    )
    paths = [
        template.sharded_filepath(shard_index=i, num_shards=len(parts)) for i in range(len(parts))
    ]

    def report(done):
        return progress(f"prepare {name}", done, len(source), "")

    writing.write_together(source.decode, _tasks(features, paths, parts), report)
    info = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=[len(part) for part in parts], filename_template=template,
        num_bytes=sum(path.stat().length for path in paths),
    )  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[info],
        check_data=False,
        description=source.about,
    )
    _describe(source, folder, paths)


def _tasks(
    features: tfds.features.FeaturesDict, paths: Sequence[epath.Path], parts: Sequence[range]
) -> list[writing.Task]:
    """One for each process: as many as there are cores for many images, one for few."""
    white = np.full(
        features["image"].shape, 255, np.uint8
    )  # no byte of the lengths before it is 255
    head, _, tail = features.serialize_example({"image": white}).partition(white.tobytes())
    count = min(os.cpu_count() or 1, len(parts)) if len(parts) > 2 else 1
    written = [(os.fspath(path), part) for path, part in zip(paths, parts, strict=True)]
    return [writing.Task(tuple(written[i::count]), head, tail) for i in range(count)]


def _describe(source: Source, folder: epath.Path, paths: Sequence[epath.Path]) -> None:
    columns = source.columns
    arrays = {
        "labels": columns.labels,
        "attributes": columns.attributes,
        "partition": columns.partition,
    }
    with (folder / COLUMNS).open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            **{name: array for name, array in arrays.items() if array is not None},
        )
    about: Mapping[str, Any] = {
        "about": source.about, "classes": list(columns.classes), "attribute_names": list(columns.attribute_names),
        "identity": json.loads(json.dumps(source.identity)),
        "lengths": {path.name: path.stat().length for path in (*paths, folder / COLUMNS)},
    }  # fmt: skip
    files.write_json(folder / FILES, about)
