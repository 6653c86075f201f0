"""Datasets made ready once: images of one size in array_record files, with TFDS's metadata and checksums beside them.

TFDS opens the folder (`tfds.builder_from_directory`) as it opens its own, and reads single images from it without
TensorFlow (`tfds.data_source`). Preparation goes to a folder of another name that is renamed at the end, so that a
prepared dataset is whole or not there.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Bool, Int, UInt8

from jaxdiff import files

Image = UInt8[np.ndarray, "height width channel"]
Images = UInt8[np.ndarray, "n height width channel"]
SHARD = 2048  # images a file
REPORTED = 256  # images between two lines of progress
SPLIT = "images"
FILES, COLUMNS, MANIFEST = "about.json", "columns.npz", "checksums.json"
Progress = Callable[[str, int, int, str], None]  # what, done, of, note


@dataclasses.dataclass(frozen=True)
class Columns:
    """What is known of every image beside its pixels.

    labels: the class of each, an index of `classes`. attributes: yes or no for each of `attribute_names`. partition: the
    part of the publisher's own split, 0 where there is none.
    """

    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    attributes: Bool[np.ndarray, "n attribute"] | None = None
    attribute_names: tuple[str, ...] = ()
    partition: Int[np.ndarray, " n"] | None = None

    def attribute(self, name: str) -> Bool[np.ndarray, " n"]:
        """Which images have an attribute. Raises ValueError, listing those that exist, for an unknown one."""
        if self.attributes is None or name not in self.attribute_names:
            known = ", ".join(self.attribute_names) or "none"
            raise ValueError(f"attribute {name!r} is not known; the dataset's are {known}")
        return self.attributes[:, self.attribute_names.index(name)]


@dataclasses.dataclass(frozen=True)
class Source:
    """Images wherever they come from.

    about: in a few words, where; identity: all that the pixels depend on, as JSON holds it; decode: the i-th image at the
    size that is wanted, from any thread.
    """

    about: str
    identity: dict[str, Any]
    columns: Columns
    decode: Callable[[int], Image]

    def __len__(self) -> int:
        return len(self.columns.labels)


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
        """These images, read by as many threads as there are cores."""
        images = np.empty((len(indices), *self[0].shape), np.uint8)

        def fill(part: np.ndarray) -> None:
            for i in part:
                images[i] = self[int(indices[i])]

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, np.array_split(np.arange(len(indices)), os.cpu_count() or 1)))
        return images


def prepare(source: Source, cache: epath.PathLike, name: str, progress: Progress = lambda *_: None) -> Prepared:
    """The dataset under cache/NAME/FINGERPRINT, made from `source` where it is not there yet.

    Threads decode and write, a file each (Pillow and zlib let other threads run). Raises ValueError for an image that
    cannot be decoded; nothing half-written stays.
    """
    folder = epath.Path(cache) / name / files.fingerprint(source.identity)[:16]
    if (folder / MANIFEST).exists():
        return open_prepared(folder)
    _clear(folder)
    making = folder.parent / f".{folder.name}.{socket.gethostname()}.{os.getpid()}"
    try:
        _write(source, making, name, progress)
        files.write_json(making / MANIFEST, files.checksums(making, [path.name for path in files.walk(making)]))
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
            raise ValueError(f"{path} is missing or cut short; remove {folder}, and it is prepared again")
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
            raise ValueError(f"{path} is damaged (SHA-256 differs); remove {prepared.folder}, and it is prepared again")


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
    features = tfds.features.FeaturesDict({"image": tfds.features.Tensor(
        shape=source.decode(0).shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)})  # fmt: skip
    template = tfds.core.ShardedFileTemplate(folder, split=SPLIT, dataset_name=name, filetype_suffix="array_record")
    parts = [range(len(source))[first : first + SHARD] for first in range(0, len(source), SHARD)]
    paths = [template.sharded_filepath(shard_index=i, num_shards=len(parts)) for i in range(len(parts))]
    _write_records(source, features, parts, paths, lambda done: progress(f"prepare {name}", done, len(source), ""))
    info = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=[len(part) for part in parts], filename_template=template,
        num_bytes=sum(path.stat().length for path in paths),
    )  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[info], check_data=False, description=source.about
    )
    _describe(source, folder, paths)


def _write_records(
    source: Source, features: tfds.features.FeaturesDict, parts: Sequence[range], paths: Sequence[epath.Path],
    report: Callable[[int], None],
) -> None:  # fmt: skip
    """A file for each part, by as many threads as there are cores."""
    done: list[int] = []

    def examples(part: range) -> Iterator[tuple[int, bytes]]:
        for i in part:
            yield i, features.serialize_example({"image": source.decode(i)})
            done.append(i)
            if len(done) % REPORTED == 0:
                report(len(done))

    def write(path: epath.Path, part: range) -> None:
        tfds.core.file_adapters.ArrayRecordFileAdapter.write_examples(path, examples(part))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        written = [pool.submit(write, path, part) for path, part in zip(paths, parts, strict=True)]
        try:
            for future in concurrent.futures.as_completed(written):
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    report(len(source))


def _describe(source: Source, folder: epath.Path, paths: Sequence[epath.Path]) -> None:
    columns = source.columns
    arrays = {"labels": columns.labels, "attributes": columns.attributes, "partition": columns.partition}
    with (folder / COLUMNS).open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: array for name, array in arrays.items() if array is not None})
    about: Mapping[str, Any] = {
        "about": source.about, "classes": list(columns.classes), "attribute_names": list(columns.attribute_names),
        "identity": json.loads(json.dumps(source.identity)),
        "lengths": {path.name: path.stat().length for path in (*paths, folder / COLUMNS)},
    }  # fmt: skip
    files.write_json(folder / FILES, about)
