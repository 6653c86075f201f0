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
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
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
    size that is wanted; recipe: what another process calls `sources.raw` with to have the same source, as JSON holds it,
    None where it cannot.
    """

    about: str
    identity: dict[str, Any]
    columns: Columns
    decode: Callable[[int], Image]
    recipe: dict[str, Any] | None = None

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
        """These images. (One thread: more of them wait for each other, and read two thirds as much.)"""
        images = np.empty((len(indices), *self[0].shape), np.uint8)
        for place, index in enumerate(indices):
            images[place] = self[int(index)]
        return images


def prepare(source: Source, cache: epath.PathLike, name: str, progress: Progress = lambda *_: None) -> Prepared:
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
    features, parts, (template, paths) = _features(source), _parts(source), _files(folder, name, source)
    report = lambda done: progress(f"prepare {name}", done, len(source), "")  # noqa: E731
    if len(parts) > 2 and source.recipe is not None:
        _by_workers(source, folder, name, min(os.cpu_count() or 1, len(parts)), report)
    else:
        write_records(source, folder, name, range(len(parts)), report)
    report(len(source))
    info = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=[len(part) for part in parts], filename_template=template,
        num_bytes=sum(path.stat().length for path in paths),
    )  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[info], check_data=False, description=source.about
    )
    _describe(source, folder, paths)


def _features(source: Source) -> tfds.features.FeaturesDict:
    image = tfds.features.Tensor(shape=source.decode(0).shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict({"image": image})


def _parts(source: Source) -> list[range]:
    return [range(len(source))[first : first + SHARD] for first in range(0, len(source), SHARD)]


def _files(folder: epath.Path, name: str, source: Source) -> tuple[tfds.core.ShardedFileTemplate, list[epath.Path]]:
    template = tfds.core.ShardedFileTemplate(folder, split=SPLIT, dataset_name=name, filetype_suffix="array_record")
    count = len(_parts(source))
    return template, [template.sharded_filepath(shard_index=i, num_shards=count) for i in range(count)]


def write_records(
    source: Source, folder: epath.Path, name: str, chosen: Iterable[int], report: Callable[[int], None]
) -> None:
    """The files with these numbers, one after the other; `report` hears from time to time how many images are written."""
    features, parts, paths, done = _features(source), _parts(source), _files(folder, name, source)[1], 0

    for number in chosen:
        # TFDS's own writer packs the pixels, which saves a tenth of the room and costs an eighth of the time
        writer = ArrayRecordWriter(os.fspath(paths[number]), "group_size:1,uncompressed")
        for i in parts[number]:
            writer.write(features.serialize_example({"image": source.decode(i)}))
            done += 1
            if done % REPORTED == 0:
                report(done)
        writer.close()
    report(done)


def _by_workers(source: Source, folder: epath.Path, name: str, workers: int, report: Callable[[int], None]) -> None:
    """write_records in processes of their own (jaxdiff/datasets/worker.py), each every n-th file."""
    tasks = [{"recipe": source.recipe, "folder": os.fspath(folder), "name": name, "first": i, "every": workers}
             for i in range(workers)]  # fmt: skip
    command = [sys.executable, "-m", "jaxdiff.datasets.worker"]
    running = [subprocess.Popen([*command, json.dumps(task)], stdout=subprocess.PIPE, text=True) for task in tasks]
    done = [0] * workers

    def listen(i: int) -> None:
        for line in running[i].stdout or ():
            message = json.loads(line)
            if "error" in message:
                raise ValueError(message["error"])
            done[i] = message["done"]
            report(sum(done))
        if running[i].wait():
            raise OSError(f"a process that prepared {name} ended with status {running[i].returncode}; try again")

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        listening = [pool.submit(listen, i) for i in range(workers)]
        try:
            for future in concurrent.futures.as_completed(listening):
                future.result()
        finally:
            for process in running:
                process.kill()
                process.communicate()


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
