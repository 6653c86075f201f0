"""Datasets prepared once: images of one size in array_record files, with TFDS's metadata.

TFDS opens the folder (`tfds.builder_from_directory`) as it opens its own, and reads single images
from it without TensorFlow (`tfds.data_source`). Files are written to a folder of another name that
is renamed at the end, so that a prepared dataset is complete or not there.
"""

import dataclasses
import functools
import os
import shutil
import socket
import time
import uuid
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Int

from jaxdiff import files
from jaxdiff.datasets.base import Annotations, Image, Images, Source
from jaxdiff.datasets.record_writer import RecordFile, RecordTemplate, write_records
from jaxdiff.progress import Progress, no_progress

IMAGES_A_FILE = 2048
SPLIT = "images"
FILES = "about.json"
ANNOTATIONS = "columns.npz"
MANIFEST = "checksums.json"
ABANDONED_SECONDS = 3600.0
RECORDS = ".array_record"  # in the names of the large files


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset: a source of images that grain and `batches.streamed` read too."""

    folder: epath.Path
    about: str
    annotations: Annotations

    @functools.cached_property
    def records(self) -> Sequence[dict[str, np.ndarray]]:
        """TFDS's own data source; its files are verified first, once in a process."""
        _verify_once(os.fspath(self.folder))
        return tfds.builder_from_directory(os.fspath(self.folder)).as_data_source(SPLIT)

    def __len__(self) -> int:
        return len(self.annotations.labels)

    def __getitem__(self, index: int) -> Image:
        return self.records[index]["image"]

    def read(self, indices: Int[np.ndarray, " n"]) -> Images:
        """Read these images."""
        # One thread: several wait for each other and read two thirds as much.
        images = np.empty((len(indices), *self[0].shape), np.uint8)
        for row, index in enumerate(indices):
            images[row] = self[int(index)]
        return images


def prepare(
    source: Source, cache: epath.PathLike, name: str, progress: Progress = no_progress
) -> Prepared:
    """The dataset under cache/NAME/FINGERPRINT, written from `source` where it is not there yet.

    A large source is decoded and written by several processes, as many as there are cores.

    Raises
    ------
    ValueError
        For an image that cannot be decoded, when nothing half-written stays; where the folder is
        there and damaged; or for a cache in a bucket.
    """
    if files.is_in_bucket(cache):
        raise ValueError(
            f"a dataset is prepared on a disk, and {cache} is in a bucket; name a folder of this "
            "machine as the cache"
        )
    folder = _prepared_folder(source, cache, name)
    if folder.exists():  # whole, since the rename is atomic; or damaged later, which is refused
        return open_prepared(folder)
    _remove_interrupted(folder)
    # the host and process in the name let a later run tell whether it is still being written
    temporary = folder.parent / f"{_temporary_prefix(folder)}{os.getpid()}.{uuid.uuid4().hex[:8]}"
    try:
        _write(source, temporary, name, progress)
        names = [path.name for path in files.walk(temporary)]
        files.write_json(temporary / MANIFEST, files.checksums(temporary, names))
        # atomic: other processes see all of the dataset or nothing
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_prepared(folder)


def check_prepared(source: Source, cache: epath.PathLike, name: str) -> None:
    """Read every byte of what `prepare` wrote, where it did, once in a process.

    Raises
    ------
    ValueError
        Naming the first file that is not what was written.
    """
    folder = _prepared_folder(source, cache, name)
    if folder.exists():
        _verify_once(os.fspath(folder))


def _prepared_folder(source: Source, cache: epath.PathLike, name: str) -> epath.Path:
    return epath.Path(cache) / name / files.fingerprint(source.identity)[:16]


def open_prepared(folder: epath.PathLike) -> Prepared:
    """A folder that `prepare` wrote, its small files verified; `verify` reads the records too.

    Raises
    ------
    ValueError
        Where a file is missing, of another length or damaged.
    """
    folder = epath.Path(folder)
    digests = _read_manifest(folder)
    # small files are hashed at every start; records when the first one is read
    _check_digests(folder, {name: digests[name] for name in digests if RECORDS not in name})
    about = files.read_json(folder / FILES)
    for name, length in about["lengths"].items():
        path = folder / name
        if not path.exists() or files.size(path) != length:
            raise ValueError(
                f"{path} is missing or cut short; remove {folder}, and it is prepared again"
            )
    with np.load(folder / ANNOTATIONS, allow_pickle=False) as arrays:
        annotations = Annotations(
            labels=arrays["labels"],
            classes=tuple(about["classes"]),
            attributes=arrays.get("attributes"),
            attribute_names=tuple(about["attribute_names"]),
            partition=arrays.get("partition"),
        )
    return Prepared(folder, about["about"], annotations)


def verify(prepared: Prepared) -> None:
    """Read every byte.

    Raises
    ------
    ValueError
        Naming the first file that is not what was written.
    """
    _check_digests(prepared.folder, _read_manifest(prepared.folder))


@functools.cache
def _verify_once(folder: str) -> None:
    _check_digests(epath.Path(folder), _read_manifest(epath.Path(folder)))


def _read_manifest(folder: epath.Path) -> dict[str, str]:
    """SHA-256 of every file but the manifest."""
    # Without it no damage is seen. The folder may be half a copy, whose end must not be guessed.
    if not (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder / MANIFEST} is missing; remove {folder}, and it is prepared again"
        )
    try:
        digests = files.read_json(folder / MANIFEST)
    except ValueError as error:
        raise ValueError(f"{error}: remove {folder}, and it is prepared again") from None
    # file managers leave hidden files anywhere
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST}
    if names != set(digests):
        differing = min(names ^ set(digests))
        raise ValueError(
            f"{folder / differing} is missing, or {MANIFEST} does not list it; remove {folder}, "
            "and it is prepared again"
        )
    return digests


def _check_digests(folder: epath.Path, digests: dict[str, str]) -> None:
    for name, digest in digests.items():
        if files.sha256(folder / name) != digest:
            raise ValueError(
                f"{folder / name} is damaged (SHA-256 differs); remove {folder}, "
                "and it is prepared again"
            )


def _temporary_prefix(folder: epath.Path) -> str:
    """Name of this host's unfinished folders, up to the number of the process."""
    return f".{folder.name}.{socket.gethostname()}."


def _remove_interrupted(folder: epath.Path) -> None:
    """Remove what interrupted preparations have left, on this host or on any long ago."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = _temporary_prefix(folder)
    for path in folder.parent.glob(f".{folder.name}.*"):
        process = path.name.removeprefix(prefix).partition(".")[0]
        is_of_this_host = path.name.startswith(prefix) and process.isdigit()
        if _is_old(path) or (is_of_this_host and not _is_running(int(process))):
            shutil.rmtree(path, ignore_errors=True)


def _is_old(folder: epath.Path) -> bool:
    """Whether nothing in a folder has changed for an hour; hosts' names and processes do change."""
    try:
        latest = max(os.stat(path).st_mtime for path in (folder, *files.walk(folder)))
    except OSError:  # it is being renamed or removed
        return False
    return time.time() - latest > ABANDONED_SECONDS


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _write(source: Source, folder: epath.Path, name: str, progress: Progress) -> None:
    """Write every file but the manifest."""
    folder.mkdir(parents=True)
    image_feature = tfds.features.Tensor(
        shape=source.decode(0).shape, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
    )
    features = tfds.features.FeaturesDict({"image": image_feature})
    filenames = tfds.core.ShardedFileTemplate(
        folder, split=SPLIT, dataset_name=name, filetype_suffix="array_record"
    )
    records = _record_files(len(source), filenames)
    write_records(
        source.decode,
        records,
        _record_template(features),
        lambda done: progress(f"prepare {name}", done, len(source), ""),
    )
    paths = [epath.Path(file.path) for file in records]
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[len(file.images) for file in records],
        filename_template=filenames,
        num_bytes=sum(map(files.size, paths)),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[split],
        check_data=False,  # it would read every record again
        description=source.about,
    )
    _write_annotations(source.annotations, folder / ANNOTATIONS)
    _write_about(source, folder, [*paths, folder / ANNOTATIONS])


def _record_files(count: int, filenames: tfds.core.ShardedFileTemplate) -> list[RecordFile]:
    """The files of `count` images, named as TFDS names them."""
    starts = range(0, count, IMAGES_A_FILE)
    records = []
    for i, start in enumerate(starts):
        path = filenames.sharded_filepath(shard_index=i, num_shards=len(starts))
        images = range(start, min(start + IMAGES_A_FILE, count))
        records.append(RecordFile(os.fspath(path), images))
    return records


def _record_template(features: tfds.features.FeaturesDict) -> RecordTemplate:
    """The bytes around the pixels of a record, from one that TFDS serializes."""
    # No byte before the pixels of a white image (they are tags and lengths) looks like its pixels.
    white = np.full(features["image"].shape, 255, np.uint8)
    head, _, tail = features.serialize_example({"image": white}).partition(white.tobytes())
    return RecordTemplate(head, tail)


def _write_annotations(annotations: Annotations, path: epath.Path) -> None:
    arrays = {
        "labels": annotations.labels,
        "attributes": annotations.attributes,
        "partition": annotations.partition,
    }
    present = {name: array for name, array in arrays.items() if array is not None}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **present)


def _write_about(source: Source, folder: epath.Path, paths: Sequence[epath.Path]) -> None:
    """Write what `open_prepared` needs, and the length of every file of data."""
    about = {
        "about": source.about,
        "classes": list(source.annotations.classes),
        "attribute_names": list(source.annotations.attribute_names),
        "identity": source.identity,
        "lengths": {path.name: files.size(path) for path in paths},
    }
    files.write_json(folder / FILES, about)
