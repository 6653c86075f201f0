"""Small datasets in the forms in which the real ones are published."""

import csv
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

NAMES = ("5_o_Clock_Shadow", "Blond_Hair", "Male", "Smiling")
BLOND = 1
MALE = 2


def celeba(folder: Path, n: int = 24, *, archive: bool = False, table: bool = False) -> np.ndarray:
    """Write n images of 178 x 218 px and the lists, as .txt or (`table`) .csv.

    Half of the images are for training, the rest for validation and test. Returns the attributes,
    bool [n, 4].
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    attributes = rng.random((n, len(NAMES))) < 0.4
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    images = folder / "img_align_celeba"
    images.mkdir()
    for name, values in zip(names, attributes, strict=True):
        coarse = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
        coarse[..., 0] = 255 * values[MALE]
        coarse[..., 1] = 255 * values[BLOND]
        face = Image.fromarray(coarse).resize((178, 218), Image.Resampling.BILINEAR)
        face.save(images / name, quality=90)
    signs = np.where(attributes, 1, -1).tolist()
    parts = [[min(2, 4 * i // n // 2 + (i >= n * 3 // 4))] for i in range(n)]
    if table:
        _write_csv(folder / "list_attr_celeba.csv", ("image_id", *NAMES), names, signs)
        header = ("image_id", "partition")
        _write_csv(folder / "list_eval_partition.csv", header, names, parts)
    else:
        header = [str(n), " ".join(NAMES)]
        _write_txt(folder / "list_attr_celeba.txt", header, names, signs, separator="  ")
        _write_txt(folder / "list_eval_partition.txt", [], names, parts, separator=" ")
    if archive:
        _archive(images)
    return attributes


def _write_txt(
    path: Path,
    header: list[str],
    names: Sequence[str],
    rows: Iterable[Sequence[int]],
    separator: str,
) -> None:
    lines = list(header)
    for name, row in zip(names, rows, strict=True):
        lines.append(separator.join([name, *map(str, row)]))
    path.write_text("\n".join(lines) + "\n")


def _write_csv(
    path: Path, header: tuple[str, ...], names: Sequence[str], rows: Iterable[Sequence[int]]
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, row in zip(names, rows, strict=True):
            writer.writerow([name, *row])


def _archive(images: Path) -> None:
    """Put a folder of images into a zip file beside it."""
    with zipfile.ZipFile(images.with_suffix(".zip"), "w") as file:
        for path in sorted(images.iterdir()):
            file.write(path, f"{images.name}/{path.name}")
            path.unlink()
    images.rmdir()


def tfds_folder(
    path: Path,
    name: str,
    features: Mapping[str, Any],
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write a folder as TFDS leaves it: an array_record file a split, and its metadata."""
    folder = epath.Path(path)
    folder.mkdir(parents=True)
    feature_dict = tfds.features.FeaturesDict(dict(features))
    infos = []
    for split, examples in splits.items():
        template = tfds.core.ShardedFileTemplate(
            folder, split=split, dataset_name=name, filetype_suffix="array_record"
        )
        file = template.sharded_filepath(shard_index=0, num_shards=1)
        encoded = [feature_dict.serialize_example(example) for example in examples]
        tfds.core.file_adapters.ArrayRecordFileAdapter.write_examples(file, enumerate(encoded))
        info = tfds.core.SplitInfo(
            name=split,
            filename_template=template,
            shard_lengths=[len(examples)],
            num_bytes=file.stat().length,
        )
        infos.append(info)
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=feature_dict, split_infos=infos, check_data=False
    )
