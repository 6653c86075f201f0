"""Small datasets in the forms in which the real ones are published."""

import csv
import zipfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

NAMES = ("5_o_Clock_Shadow", "Blond_Hair", "Male", "Smiling")


def celeba(folder: Path, n: int = 24, *, archive: bool = False, table: bool = False) -> np.ndarray:
    """n images of 178 x 218, the lists as .txt or (`table`) .csv; the attributes, bool [n, 4]."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    has = rng.random((n, len(NAMES))) < 0.4
    names = [f"{i + 1:06d}.jpg" for i in range(n)]
    images = folder / "img_align_celeba"
    images.mkdir()
    for name, (_, blond, male, _) in zip(names, has, strict=True):
        coarse = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
        coarse[..., 0], coarse[..., 1] = 255 * male, 255 * blond
        Image.fromarray(coarse).resize((178, 218), Image.Resampling.BILINEAR).save(
            images / name, quality=90
        )
    signs = [[1 if value else -1 for value in row] for row in has]
    parts = [min(2, 4 * i // n // 2 + (i >= n * 3 // 4)) for i in range(n)]
    if table:
        _table(folder / "list_attr_celeba.csv", ("image_id", *NAMES), names, signs)
        _table(
            folder / "list_eval_partition.csv",
            ("image_id", "partition"),
            names,
            [[p] for p in parts],
        )
    else:
        lines = [
            f"{name}  {'  '.join(map(str, row))}" for name, row in zip(names, signs, strict=True)
        ]
        (folder / "list_attr_celeba.txt").write_text(
            "\n".join([str(n), " ".join(NAMES), *lines]) + "\n"
        )
        rows = [f"{name} {part}" for name, part in zip(names, parts, strict=True)]
        (folder / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    if archive:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as file:
            for path in sorted(images.iterdir()):
                file.write(path, f"img_align_celeba/{path.name}")
                path.unlink()
        images.rmdir()
    return has


def _table(path: Path, header: tuple[str, ...], names: list[str], rows: list[list[int]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [header, *([name, *row] for name, row in zip(names, rows, strict=True))]
        )


def tfds_folder(place: Path, name: str, features: dict, parts: dict[str, list[dict]]) -> None:
    """A folder as TFDS itself leaves it: array_record files of these examples a split, with its metadata."""
    folder, kinds, infos = epath.Path(place), tfds.features.FeaturesDict(features), []
    folder.mkdir(parents=True)
    for split, rows in parts.items():
        template = tfds.core.ShardedFileTemplate(
            folder, split=split, dataset_name=name, filetype_suffix="array_record"
        )
        path, encoded = (
            template.sharded_filepath(shard_index=0, num_shards=1),
            map(kinds.serialize_example, rows),
        )
        tfds.core.file_adapters.ArrayRecordFileAdapter.write_examples(path, enumerate(encoded))
        size = {"shard_lengths": [len(rows)], "num_bytes": path.stat().length}
        infos.append(tfds.core.SplitInfo(name=split, filename_template=template, **size))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=kinds, split_infos=infos, check_data=False
    )
